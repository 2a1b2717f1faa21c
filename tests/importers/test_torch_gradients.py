"""Gradients of torch modules are those of their own autograd, or refused."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from backtrace_jax import Explainer, explain
from backtrace_jax.errors import UnsupportedError
from backtrace_jax.explainer.exporting import export
from backtrace_jax.importers.pytorch import reading
from tests.importers.changing import Two, examples

CLOSE = 1e-5
TARGET = 1
IDS = torch.tensor([[1, 2, 3], [4, 2, 6]])


class Reversed(torch.autograd.Function):
    """Gradient reversal: the identity, whose backward changes the sign."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        return -grad


class Honest(torch.autograd.Function):
    """A function with the backward that it has."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        return 2 * grad * ctx.saved_tensors[0]


class Made(Two):
    """Two layers, and what a function makes of them and an input."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def _without_gradient(function):
    with torch.no_grad():
        return function()


def _hooked(x, hook):
    if x.requires_grad:
        x.register_hook(hook)
    return x


def _frozen(module):
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module


def _with_hook(module, hook):
    module.first.register_full_backward_hook(hook)
    return module


def _written_over(m, x):
    hidden = m.first(x)
    with torch.no_grad():
        hidden.mul_(x)
    return m.second(hidden)


def _assigned(m, x):
    kept = torch.zeros(len(x), 4)
    with torch.no_grad():
        kept[:, :2] = m.first(x)[:, :2]
    return m.second(kept + x)


PARTED = {
    "a gate that is detached": lambda m, x: m.second(m.first(x).tanh() * m.first(x).sigmoid().detach()),
    "data": lambda m, x: m.second(m.first(x).data + x),
    "straight through": lambda m, x: m.second(x + (x.round() - x).detach()),
    "backbone without gradient": lambda m, x: m.second(_without_gradient(lambda: m.first(x)) + 0.1 * x),
    "nothing has a gradient": lambda m, x: _without_gradient(lambda: m.second(m.first(x).tanh())),
    "reversal": lambda m, x: m.second(Reversed.apply(m.first(x))),
    "hook on a tensor": lambda m, x: m.second(_hooked(m.first(x), lambda grad: 2 * grad)),
    "written over": _written_over,
    "assigned without gradient": _assigned,
    "copied": lambda m, x: m.second(x.clone().detach().requires_grad_() * m.first(x)),
    "only for large values": lambda m, x: m.second(torch.where(x > 0.5, x.detach(), x)),
}
"""Autograd gives another gradient than the derivative of what is computed."""

HARMLESS = {
    "mask": lambda m, x: m.second(m.first(x * (x > 0).float().detach()).tanh()),
    "constant": lambda m, x: m.second(m.first(x) + m.first.bias.detach() + torch.zeros_like(x)),
    "weights without gradient": lambda m, x: m.second(x @ _without_gradient(lambda: m.first.weight * 2)),
    "times nothing": lambda m, x: m.second(m.first(x) + 0 * x.detach()),
    "checkpoint": lambda m, x: m.second(checkpoint(m.first, x, use_reentrant=False).tanh()),
    "old checkpoint": lambda m, x: m.second(checkpoint(m.first, x, use_reentrant=True).tanh()),
    "honest backward": lambda m, x: m.second(Honest.apply(m.first(x))),
    "hook that looks": lambda m, x: m.second(_hooked(m.first(x), lambda grad: None)),
    "in place": lambda m, x: m.second(x.mul_(2).add_(1).tanh()),
    "shift of a softmax": lambda m, x: (m.first(x) - m.first(x).amax(-1, keepdim=True).detach()).softmax(-1),
}


GATED = Made(PARTED["a gate that is detached"])


def _autograd(module, x):
    own = x.clone().requires_grad_(True)
    module(own.clone())[:, TARGET].sum().backward()
    return own.grad.numpy()


def _assert_own(found, module, x):
    gradient = _autograd(module, x)
    np.testing.assert_allclose(found.relevance["x"], gradient, rtol=CLOSE, atol=CLOSE * np.abs(gradient).max())


@pytest.mark.parametrize("name", PARTED)
def test_another_gradient_than_the_derivative_is_refused(name):
    with pytest.raises(
        UnsupportedError, match=r"its autograd gives another \(.*Other modes are not affected.*export"
    ) as error:
        explain(Made(PARTED[name]), examples(), mode="gradient", target=TARGET)
    assert len(str(error.value)) <= 300


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("name", HARMLESS)
def test_what_loses_no_gradient_is_explained(name):
    module = Made(HARMLESS[name])
    _assert_own(explain(module, examples(), mode="gradient", target=TARGET), module, examples())


@pytest.mark.parametrize("mode", ["integrated-gradients", "deeplift", "guided-backprop"])
def test_every_mode_of_derivatives_is_concerned(mode):
    with pytest.raises(UnsupportedError, match="detach in 'Made'"):
        explain(GATED, examples(), mode=mode, target=TARGET)


def test_modes_of_relevance_are_not_concerned():
    assert np.abs(explain(GATED, examples(), mode="lrp-epsilon", target=TARGET).relevance["x"]).max() > 0


def test_the_export_gives_the_derivative(tmp_path):
    path = tmp_path / "gated.onnx"
    export(GATED, path, examples())
    found = explain(str(path), examples().numpy(), mode="gradient", target=TARGET).relevance["x"]
    open_gate = Made(lambda m, x: m.second(m.first(x).tanh() * m.first(x).sigmoid()))
    np.testing.assert_allclose(found, _autograd(open_gate, examples()), rtol=CLOSE, atol=CLOSE)


def test_frozen_weights_are_no_difference():
    module = _frozen(Two())
    _assert_own(explain(module, examples(), mode="gradient", target=TARGET), module, examples())


@pytest.mark.parametrize(("answer", "refused"), [(lambda grads: None, False), (lambda grads: (2 * grads[0],), True)])
def test_backward_hooks_of_modules(answer, refused):
    module = Two()
    explainer = Explainer(module, mode="gradient", example=examples())
    _assert_own(explainer(examples(), target=TARGET), module, examples())
    module.first.register_full_backward_hook(lambda part, given, found: answer(given))
    with pytest.raises(UnsupportedError, match="a backward hook of 'first'") if refused else nullcontext():
        _assert_own(explainer(examples(), target=TARGET), module, examples())


@pytest.mark.parametrize(("prove", "times"), [("every", 3), ("first", 1)])
def test_a_module_is_watched_as_often_as_it_is_proven(monkeypatch, prove, times):
    module, calls = Two(), []
    taken = reading.gradient
    monkeypatch.setattr(reading, "gradient", lambda *given: calls.append(1) or taken(*given))
    explainer = Explainer(module, mode="gradient", example=examples(), prove=prove)
    for _ in range(3):
        explainer(examples(), target=TARGET)
    assert len(calls) == times


def test_a_doubt_on_some_inputs_alone_is_met_when_they_come():
    def answer(m, x):
        return m.second(m.first(x).detach() if float(x.detach().max()) > 1 else m.first(x))

    with pytest.raises(UnsupportedError, match="autograd gives another"):
        explain(Made(answer), 3 * examples(), mode="gradient", target=TARGET)


def test_a_module_in_doubt_is_compared_on_every_call():
    explainer = Explainer(Made(PARTED["only for large values"]), mode="gradient", example=examples())
    small = examples().clamp(max=0.4)
    for _ in range(2):
        _assert_own(explainer(small, target=TARGET), Made(lambda m, x: m.second(x)), small)
    with pytest.raises(UnsupportedError, match="autograd gives another"):
        explainer(examples(), target=TARGET)


class Tokens(nn.Module):
    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.layers, self.function = nn.Embedding(7, 4), Two(), function

    def forward(self, ids):
        return self.function(self, self.table(ids)).mean(1)


@pytest.mark.parametrize(
    ("function", "refused"),
    [
        (lambda m, rows: m.layers(rows) * rows.detach(), True),
        (lambda m, rows: m.layers(rows * (rows > 0).to(rows.dtype).detach() + 0 * rows.detach()), False),
    ],
)
def test_tokens_have_the_gradient_of_their_rows(function, refused):
    module = Tokens(function)
    with (
        pytest.raises(UnsupportedError, match=r"autograd gives another \(detach in 'Tokens'.* at ids")
        if refused
        else nullcontext()
    ):
        found = explain(module, IDS, mode="gradient", target=TARGET)
        rows = module.table(IDS).detach().requires_grad_()
        function(module, rows).mean(1)[:, TARGET].sum().backward()
        np.testing.assert_allclose(found.relevance["ids"], rows.grad.sum(-1), rtol=CLOSE, atol=CLOSE)


def test_the_module_is_left_as_it_was():
    module = Made(PARTED["reversal"])
    module.first.weight.requires_grad_(False)
    module.second.weight.grad = kept = torch.ones(4, 4)
    with pytest.raises(UnsupportedError, match="backward of Reversed"):
        explain(module, examples(), mode="gradient")
    assert [each.requires_grad for each in module.parameters()] == [False, True, True, True]
    assert module.second.weight.grad is kept
    assert module.first.bias.grad is None
