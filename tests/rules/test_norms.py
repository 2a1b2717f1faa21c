"""Normalisations in the epsilon family: a linear map at a fixed deviation (RULES 6); an identity in the other modes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backtrace_jax.rules import BIAS, CONSTANT, DEAD, MODES, STABILISER, mode
from tests.rules.lrp_oracles import Map, signed
from tests.rules.lrp_oracles import lrp as lrp_rule
from tests.rules.running import SINGLE, Walked, assert_books_close, close, walk_op

FAMILY = [name for name in MODES if name.startswith("lrp-") or name in ("attnlrp", "cp-lrp")]
SHAPE = (2, 4, 3)
NORMS = {
    "layer_norm": {"axes": (2,), "epsilon": 1e-5},
    "layer_norm over two axes": {"axes": (1, 2), "epsilon": 1e-5},
    "instance": {"axes": (2,), "epsilon": 1e-5},
    "group_norm": {"groups": 2, "epsilon": 1e-5},
    "rms_norm": {"axes": (2,), "epsilon": 1e-5},
}
PARAMETERS = {"instance": (4, 1), "group_norm": (4, 1), "layer_norm over two axes": (4, 3)}


def op_of(name: str) -> str:
    return "layer_norm" if name == "instance" else name.split()[0]


def options(name: str, **given) -> dict:
    return {**({"low": -0.5, "high": 0.5} if "low" in MODES[name].defaults else {}), **given}


def rows(name: str, x: np.ndarray) -> list[np.ndarray]:
    """What is averaged together, as lists of flat positions: written out apart from the library."""
    places = np.arange(x.size).reshape(SHAPE)
    if name == "group_norm":
        return [places[n, first : first + 2].ravel() for n in range(2) for first in (0, 2)]
    if name == "layer_norm over two axes":
        return [each.ravel() for each in places]
    return list(places.reshape(-1, 3))


def at_fixed_deviation(name: str, x: np.ndarray, scale: np.ndarray, shift: np.ndarray | None) -> Map:
    """The normalisation as the full matrix of a linear map, [out, in]."""
    flat, K = x.ravel(), np.zeros((x.size, x.size))
    factors = np.broadcast_to(scale, SHAPE).ravel()
    for row in rows(name, x):
        centring = np.eye(len(row)) - (0 if name == "rms_norm" else 1 / len(row))
        deviation = np.sqrt(np.square(centring @ flat[row]).mean() + 1e-5)
        K[np.ix_(row, row)] = factors[row, None] * centring / deviation
    return Map(K, np.ones_like(K, bool), x, shift)


def draw(name: str, seed: int) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    parameters = PARAMETERS.get(name, (3,))
    return [
        2 + generator.normal(size=SHAPE),
        generator.normal(size=parameters),
        generator.normal(size=parameters),
        generator.normal(size=SHAPE),
    ]


def walked(name: str, operands: list[np.ndarray], R: np.ndarray, chosen) -> Walked:
    constant = tuple(range(1, len(operands)))
    return walk_op(op_of(name), operands, R, constant=constant, mode=chosen, **NORMS[name])


@pytest.mark.parametrize("affine", [0, 1, 2])
@pytest.mark.parametrize("name", NORMS)
def test_the_linear_part_shares_by_epsilon(name, affine):
    for seed in range(2):
        x, scale, shift, R = draw(name, seed)
        found = walked(name, [x, scale, shift][: 1 + affine], R, mode("lrp-epsilon", epsilon=0.01))
        if name == "rms_norm" and affine < 2:
            np.testing.assert_array_equal(found.relevance["x0"], R)
            continue
        linear = at_fixed_deviation(name, x, scale if affine else np.ones(()), shift if affine > 1 else None)
        expected = lrp_rule(signed, linear, R, 0.01)
        close(found.relevance["x0"], expected.share, 1e-10)
        for cause, kept in ((BIAS, expected.bias), (STABILISER, expected.stabiliser), (DEAD, np.zeros(1))):
            np.testing.assert_allclose(found.kept(cause), [kept.sum(), np.abs(kept).sum()], rtol=1e-10, atol=1e-12)
        assert_books_close(found.books)


def published(x: np.ndarray, scale: np.ndarray, shift: np.ndarray, R: np.ndarray, *, epsilon: float) -> np.ndarray:
    """RULES 6, letter for letter, for a norm over the last axis."""
    deviation = np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    y = scale * (x - x.mean(-1, keepdims=True)) / deviation + shift
    u = scale / deviation * R / (y + epsilon * np.sign(y))
    return x * (u - u.mean(-1, keepdims=True))


@pytest.mark.parametrize("name", FAMILY)
def test_every_mode_of_the_family_has_it_by_default(name):
    x, scale, shift, R = draw("layer_norm", 0)
    chosen = mode(name, **options(name))
    found = walked("layer_norm", [x, scale, shift], R, chosen)
    epsilon = dict(chosen.options).get("epsilon", 0.0)
    close(found.relevance["x0"], published(x, scale, shift, R, epsilon=epsilon), 1e-10)
    unchanged = walked("layer_norm", [x, scale, shift], R, mode(name, **options(name, norm="identity")))
    np.testing.assert_array_equal(unchanged.relevance["x0"], R)


@pytest.mark.parametrize("name", ["default", "dlbacktrace-0.0.24", "contrastive", "excitation-backprop"])
def test_other_modes_hand_everything_on(name):
    x, scale, shift, R = draw("group_norm", 0)
    R = np.stack([R, -R]) if name == "contrastive" else R
    found = walked("group_norm", [x, scale, shift], R, name)
    np.testing.assert_array_equal(found.relevance["x0"], R)


@pytest.mark.parametrize("name", NORMS)
def test_an_ignored_shift_takes_nothing(name):
    x, scale, shift, R = draw(name, 1)
    found = walked(name, [x, scale, shift], R, mode("lrp-epsilon", epsilon=0.01, bias="ignore"))
    expected = lrp_rule(signed, at_fixed_deviation(name, x, scale, None), R, 0.01)
    close(found.relevance["x0"], expected.share, 1e-10)
    assert found.kept(BIAS).tolist() == [0, 0]
    assert_books_close(found.books)


@pytest.mark.parametrize("op", ["lp_norm", "local_response_norm"])
def test_norms_without_a_mean_are_an_identity(op):
    x, R = draw("layer_norm", 0)[::3]
    params = {"axis": 2, "p": 2} if op == "lp_norm" else {"size": 3, "alpha": 0.1, "beta": 0.75, "bias": 1.0}
    found = walk_op(op, [x], R, mode="attnlrp", **params)
    np.testing.assert_array_equal(found.relevance["x0"], R)


@pytest.mark.parametrize("epsilon", [0.0, 1e-12, 1e-5])
@pytest.mark.parametrize("level", [0.0, 0.1, -1e4])
@pytest.mark.parametrize("width", [5, 768])
def test_a_constant_row_is_dead_and_the_books_close_in_single_precision(epsilon, level, width):
    """One row varies, the other one is constant but for rounding."""
    generator = np.random.default_rng(0)
    x = np.full((2, width), level, np.float32)
    x[0] += generator.normal(size=width).astype(np.float32) * max(abs(level), 1)
    x[1, ::3] = np.nextafter(x[1, ::3], np.float32(np.inf)) if level else 0
    scale, shift, R = (generator.normal(size=shape).astype(np.float32) for shape in (width, width, (2, width)))
    params = {"axes": (1,), "epsilon": epsilon}
    if epsilon == 0 and level == 0:
        x[1, 0] = 1e-30  # 0/0 is no forward pass
        params["epsilon"] = 1e-30
    found = walk_op("layer_norm", [x, scale, shift], R, constant=(1, 2), mode="attnlrp", **params)
    assert np.isfinite(found.relevance["x0"]).all()
    assert_books_close(found.books, 1e-5)
    if level:
        assert not found.relevance["x0"][1].any()
        np.testing.assert_allclose(found.kept(DEAD), [R[1].sum(), np.abs(R[1]).sum()], rtol=1e-5)


@settings(max_examples=25)
@given(
    st.integers(0, 1000),
    st.floats(-6, 6),
    st.sampled_from([1e-12, 1e-5]),
    st.sampled_from(["layer_norm", "group_norm"]),
)
def test_books_close_however_small_the_deviation_is(seed, exponent, epsilon, name):
    x, scale, shift, R = (each.astype(SINGLE) for each in draw(name, seed))
    x = (1 + (x - 2) * 10**exponent).astype(SINGLE)
    params = {**NORMS[name], "epsilon": epsilon}
    found = walk_op(op_of(name), [x, scale, shift], R, constant=(1, 2), mode="attnlrp", **params)
    assert_books_close(found.books, 1e-5)
    assert found.kept(CONSTANT).tolist() == [0, 0]
