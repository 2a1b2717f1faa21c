"""AttnLRP and CP-LRP on six kinds of transformers, against a modified gradient in torch; that one checked first."""

from __future__ import annotations

import copy
import functools
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import backtrace_jax
from tests.peers.attnlrp_torch import Mode, Modified, explain, in_double
from tests.peers.transformers_small import RECIPES, build

TOLERANCE = 1e-6  # of the largest relevance of an example
TINY = 1e-13  # the modified gradient is the limit of small epsilon
MODES = ("attnlrp", "cp-lrp")


class Case(NamedTuple):
    """A module as a user has it, the same in float64, inputs, and one unit of every example's answer."""

    module: nn.Module
    double: nn.Module
    inputs: dict[str, np.ndarray]
    answer: np.ndarray
    start: np.ndarray


@functools.cache
def case(name: str) -> Case:
    recipe = build(name)
    with torch.no_grad():
        answer = recipe.module(**{key: torch.tensor(value) for key, value in recipe.inputs.items()}).numpy()
    start = np.zeros(answer.shape)
    start[(slice(None), -1, 5) if answer.ndim == 3 else (slice(None), 1)] = 1
    return Case(recipe.module, in_double(copy.deepcopy(recipe.module)), recipe.inputs, answer, start)


def error(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference within an example, relative to the example's largest relevance."""
    axes = tuple(range(1, expected.ndim))
    return float((np.abs(found - expected).max(axes) / np.abs(expected).max(axes)).max())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", RECIPES)
def test_the_library_agrees(name, mode):
    given = case(name)
    expected = explain(given.double, given.inputs, given.start, mode=mode)
    chosen = backtrace_jax.mode(mode, epsilon=TINY)
    found = backtrace_jax.explain(given.module, given.inputs, mode=chosen, dtype="float64", start=given.start)
    np.testing.assert_allclose(found.outputs[found.output], expected.output, rtol=1e-5, atol=1e-6)
    assert found.relevance.keys() >= expected.relevance.keys()
    for key, relevance in expected.relevance.items():
        assert error(found.relevance[key], relevance) < TOLERANCE
    assert found.ledger.error.max() < 1e-12


def test_the_two_modes_differ():
    given = case("llama")
    one, other = (explain(given.double, given.inputs, given.start, mode=mode).relevance["input_ids"] for mode in MODES)
    assert error(one, other) > 0.1


@pytest.mark.parametrize("name", RECIPES)
def test_the_forward_pass_is_the_module_s(name):
    given = case(name)
    np.testing.assert_allclose(
        explain(given.double, given.inputs, given.start).output, given.answer, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("mode", MODES)
def test_what_cannot_be_seen_takes_nothing(mode):
    given = case("bert")
    hidden = given.inputs["attention_mask"] == 0
    for share in explain(given.double, given.inputs, given.start, mode=mode).relevance.values():
        assert (share[hidden] == 0).all()
        assert (share[~hidden] != 0).all()


# the modified gradient itself, operation by operation, against the shares that the papers give


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.tensor(np.random.default_rng(seed).normal(size=shape))


def _leaf(*shape: int, seed: int = 1) -> Tensor:
    return _draw(*shape, seed=seed).requires_grad_()


def _shares(function, R: Tensor, *operands: Tensor, mode: Mode = "attnlrp") -> tuple[Tensor, ...]:
    """What a result of this relevance hands to its operands; nothing where autograd sees no way."""
    with Modified(mode, {}):
        y = function(*operands)
    found = torch.autograd.grad(y, operands, R / y.detach(), allow_unused=True)
    return tuple(torch.zeros_like(x) if g is None else (x * g).detach() for x, g in zip(operands, found, strict=True))


def test_dense_layers_and_sums_share_by_contribution():
    x, other, R = _leaf(2, 5), _leaf(2, 4, seed=2), _draw(2, 4)
    K, b = _draw(4, 5, seed=3), _draw(4, seed=4)
    z = functional.linear(x, K, b) + other
    rate = (R / z).detach()
    found = _shares(lambda x, other: functional.linear(x, K, b) + other, R, x, other)
    torch.testing.assert_close(found, ((K * x[:, None] * rate[..., None]).sum(1).detach(), (other * rate).detach()))


def test_either_factor_of_a_matmul_takes_half_of_every_contribution():
    a, b, R = _leaf(3, 4), _leaf(4, 5, seed=2), _draw(3, 5)
    parts = (torch.einsum("ij,jk->ijk", a, b) * (R / (a @ b))[:, None] / 2).detach()
    torch.testing.assert_close(_shares(torch.matmul, R, a, b), (parts.sum(2), parts.sum(0)))


@pytest.mark.parametrize("function", [functional.gelu, functional.silu, torch.tanh, torch.sigmoid])
def test_activations_hand_everything_on(function):
    x, R = _leaf(9), _draw(9)
    torch.testing.assert_close(_shares(function, R, x)[0], R)


@pytest.mark.parametrize(("mode", "halves"), [("attnlrp", (0.5, 0.5)), ("cp-lrp", (0.0, 1.0))])
def test_gated_products(mode, halves):
    g, u, R = _leaf(2, 3), _leaf(2, 3, seed=2), _draw(2, 3)
    found = _shares(lambda g, u: functional.silu(g) * u, R, g, u, mode=mode)
    torch.testing.assert_close(found, tuple(half * R for half in halves))


def test_layer_norm_is_linear_but_for_its_deviation():
    x, scale, shift, R = _leaf(2, 5), _draw(5, seed=2), _draw(5, seed=3), _draw(2, 5)
    deviation = (x.var(1, keepdim=True, correction=0) + 1e-5).sqrt().detach()
    K = scale[:, None] * (torch.eye(5).double() - 0.2) / deviation[..., None]
    y = functional.layer_norm(x, (5,), scale, shift).detach()
    expected = (x[:, None] * K * (R / y)[..., None]).sum(1).detach()
    found = _shares(lambda x: functional.layer_norm(x, (5,), scale, shift), R, x)
    torch.testing.assert_close(found[0], expected)


def test_rms_norm_hands_everything_on():
    x, R = _leaf(2, 5), _draw(2, 5)
    found = _shares(lambda x: _draw(5, seed=2) * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)), R, x)
    torch.testing.assert_close(found[0], R)


@pytest.mark.parametrize("hidden", [float("-inf"), torch.finfo(torch.float32).min])
def test_the_softmax_is_expanded_to_first_order(hidden):
    """S ⊙ (R − A ΣR); in CP-LRP the weights are constants."""
    S, R = _leaf(6), _draw(6)
    mask = torch.tensor([0, 0, hidden, 0, 0, 0]).double()
    A = (S + mask).softmax(-1).detach()
    R = torch.where(A == 0, 0.0, R)

    def weighed(S: Tensor) -> Tensor:
        """A value that bears relevance to every weight, so that weights that are constants still give a result."""
        return functional.softmax(S + mask, -1) + torch.zeros(6).double() * S

    with Modified("attnlrp", {}):
        y = weighed(S)
    (g,) = torch.autograd.grad(y, S, torch.where(A == 0, 0.0, R / torch.where(A == 0, 1.0, A)))
    torch.testing.assert_close((S * g).detach(), torch.where(A == 0, 0.0, S.detach() * (R - A * R.sum())))
    with Modified("cp-lrp", {}):
        y = weighed(S)
    assert not torch.autograd.grad(y, S, R)[0].any()
