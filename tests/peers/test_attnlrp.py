"""AttnLRP and CP-LRP on transformers, against rules written from the papers in torch; those rules checked first."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import backtrace_jax
from tests.peers.attnlrp_torch import NETWORKS, Rules, explain, in_double
from tests.zoo import exported
from tests.zoo.export import build

TINY = 1e-30  # an epsilon too small to change any float64 that is not zero
MODES = ("attnlrp", "cp-lrp")
ANSWERS = [("bert", (0,)), ("bert", (1,)), ("llama", (11, 5)), ("llama", (4, 7))]
every_answer = pytest.mark.parametrize(("name", "place"), ANSWERS)
every_mode = pytest.mark.parametrize("mode", MODES)


def _fresh(name: str):
    recipe = build(name)
    return in_double(recipe.module, exported(name).model), recipe.inputs


_network = functools.cache(_fresh)


def _start(name: str, place: tuple[int, ...]) -> np.ndarray:
    """One at the chosen unit of every example's output."""
    start = np.zeros_like(exported(name).torch_outputs["output"], dtype=np.float64)
    start[(slice(None), *place)] = 1
    return start


def _assert_near(actual: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """Equal to a part of each example's largest relevance."""
    largest = np.abs(expected).max(axis=1, keepdims=True)
    assert (np.abs(actual - expected) <= tolerance * largest).all(), np.abs((actual - expected) / largest).max()


@every_answer
@every_mode
def test_the_library_agrees(name, place, mode):
    module, inputs = _network(name)
    start = _start(name, place)
    expected = explain(name, module, inputs, start, mode=mode)
    found = backtrace_jax.explain(exported(name).model, inputs, mode=mode, dtype="float64", start=start)
    np.testing.assert_allclose(found.outputs["output"], expected.output, rtol=1e-9, atol=1e-9)
    for key, relevance in expected.relevance.items():
        _assert_near(found.relevance[key], relevance, 1e-4)


class _Doubled(TorchFunctionMode):
    """Casts to float32 inside a module become casts to float64."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        wide = [torch.float64 if arg is torch.float32 else arg for arg in args]
        named = {key: torch.float64 if arg is torch.float32 else arg for key, arg in (kwargs or {}).items()}
        return (torch.Tensor.double if func is torch.Tensor.float else func)(*wide, **named)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_forward_pass_is_the_module_s(name):
    module, inputs = _network(name)
    with _Doubled():
        expected = module(*(torch.tensor(value) for value in inputs.values())).numpy()
    output = explain(name, module, inputs, np.zeros_like(expected)).output
    np.testing.assert_allclose(output, expected, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(output, exported(name).torch_outputs["output"], rtol=1e-4, atol=1e-4)


class _ModifiedGradient(Rules):
    """The same rules for ε → 0, said otherwise: R = x ⊙ g, where g is a gradient with three changes.

    Activations and norms count as scalings by a constant, either factor of a product gets half, and CP-LRP's
    attention weights are constants.
    """

    def linear(self, layer, x):
        return layer(x)

    def scale(self, x, constant):
        return x * constant

    def add(self, a, b):
        return a + b

    def product(self, a, b):
        return _halved(a * b)

    def matmul(self, a, b):
        return _halved(a @ b)

    def identity(self, function, x):
        return x * (function(x) / x).detach()

    def attention(self, query, key, value, *, scale, mask):
        weights = (_halved(query @ key.mT) * scale + mask).softmax(-1)
        return weights.detach() @ value if self.mode == "cp-lrp" else _halved(weights @ value)


def _halved(x: Tensor) -> Tensor:
    """The value with half its gradient."""
    return (x + x.detach()) / 2


@every_answer
@every_mode
def test_rules_equal_a_modified_gradient(name, place, mode):
    module, inputs = _network(name)
    start = _start(name, place)
    tensors = {key: torch.tensor(value) for key, value in inputs.items()}
    output, embedded = NETWORKS[name](module, tensors, _ModifiedGradient(mode))
    gradients = torch.autograd.grad(output, list(embedded.values()), torch.tensor(start) / output.detach())
    found = explain(name, module, inputs, start, mode=mode, epsilon=TINY)
    for (key, x), gradient in zip(embedded.items(), gradients, strict=True):
        _assert_near(found.relevance[key], (x * gradient).sum(-1).detach().numpy(), 1e-8)


@every_answer
def test_without_constant_terms_cp_lrp_loses_nothing(name, place):
    module, inputs = _fresh(name)
    for key, parameter in module.named_parameters():
        if key.endswith(("bias", "position_embeddings.weight")):
            parameter.zero_()
    answer = explain(name, module, inputs, _start(name, place), mode="cp-lrp", epsilon=TINY)
    total = sum(share.sum(axis=1) for share in answer.relevance.values())
    np.testing.assert_allclose(total, 1, rtol=1e-9)


@every_mode
def test_what_cannot_be_seen_takes_nothing(mode):
    module, inputs = _network("bert")
    masked = inputs["attention_mask"] == 0
    for share in explain("bert", module, inputs, _start("bert", (1,)), mode=mode).relevance.values():
        assert (share[masked] == 0).all()
        assert (share[~masked] != 0).all()
    module, inputs = _network("llama")
    (share,) = explain("llama", module, inputs, _start("llama", (4, 7)), mode=mode).relevance.values()
    assert (share[:, 5:] == 0).all()
    assert (share[:, :5] != 0).all()


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.tensor(np.random.default_rng(seed).normal(size=shape))


def _leaf(*shape: int, seed: int = 1) -> Tensor:
    return _draw(*shape, seed=seed).requires_grad_()


def _shares(result: Tensor, R: Tensor, *operands: Tensor) -> tuple[Tensor, ...]:
    """What a result of this relevance hands to its operands."""
    return torch.autograd.grad(result, operands, R)


@pytest.mark.parametrize("epsilon", [1e-6, 0.3])
def test_dense_layers_share_by_contribution(epsilon):
    layer, x, R = torch.nn.Linear(5, 4).double(), _leaf(2, 5), _draw(2, 4)
    z = layer(x)
    contributions = layer.weight * x[:, None]
    expected = (contributions * (R / (z + epsilon * z.sign()))[..., None]).sum(1)
    (found,) = _shares(Rules(epsilon=epsilon).linear(layer, x), R, x)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("epsilon", [1e-6, 0.3])
def test_either_factor_of_a_matmul_takes_half_of_every_contribution(epsilon):
    a, b, R = _leaf(3, 4), _leaf(4, 5, seed=2), _draw(3, 5)
    y = a @ b
    parts = torch.einsum("ij,jk->ijk", a, b) * (R / (y + epsilon * y.sign()))[:, None] / 2
    found = _shares(Rules(epsilon=epsilon).matmul(a, b), R, a, b)
    torch.testing.assert_close(found, (parts.sum(2), parts.sum(0)))


def test_sums_share_by_size_with_broadcasting_and_a_zero_counts_as_positive():
    a = torch.tensor([[3.0, -1.0], [1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([1.0, 1.0], dtype=torch.float64, requires_grad=True)
    R = torch.tensor([[9.0, 1.0], [5.0, 3.0]], dtype=torch.float64)
    to_a, to_b = _shares(Rules(epsilon=0.5).add(a, b), R, a, b)
    assert to_a.tolist() == [[6, -2], [2, 0]]
    assert to_b.tolist() == [4, 4]


def test_products_halve_and_scaling_keeps_all():
    a, b, R = _leaf(2, 3), _leaf(2, 3, seed=2), _draw(2, 3)
    for share in _shares(Rules(epsilon=TINY).product(a, b), R, a, b):
        torch.testing.assert_close(share, R / 2)
    torch.testing.assert_close(_shares(Rules(epsilon=TINY).scale(a, -3.0), R, a)[0], R)


@pytest.mark.parametrize("hidden", [float("-inf"), torch.finfo(torch.float32).min])
def test_the_softmax_is_expanded_to_first_order(hidden):
    scores, R = _leaf(6), _draw(6)
    mask = torch.tensor([0, 0, hidden, 0, 0, 0]).double()
    weights = (scores + mask).softmax(-1)
    jacobian = torch.autograd.functional.jacobian(lambda s: (s + mask).softmax(-1), scores)
    expected = scores * (jacobian * torch.where(weights == 0, 0.0, R / weights)[:, None]).sum(0)
    (found,) = _shares(Rules().softmax(scores + mask), R * (weights != 0), scores)
    torch.testing.assert_close(found, expected)
