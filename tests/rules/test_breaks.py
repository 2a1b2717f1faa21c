"""Entries that are NaN or Inf where the answer does not look: 0 times them is 0, in every rule (RULES 0).

Each network is compared with one that computes the same without breaking: whatever would break is replaced by an
ordinary number before the operation.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from backtrace_jax.analysis.facts import hidden_breaks
from backtrace_jax.ir import Program
from backtrace_jax.passes.build import Builder, Value
from backtrace_jax.rules import find_mode
from tests.rules.running import DOUBLE, assert_books_close, close, walk_back

X = np.array([[0.0, 2.0, 0.0, -1.5], [1.0, 0.0, 0.5, 3.0], [0.0, 0.0, 4.0, 1000.0]])
RNG = np.random.default_rng(0)
W, V, B = RNG.normal(size=(4, 4)), RNG.normal(size=(4, 3)), RNG.normal(size=4)
ZERO, ONE = np.array(0.0), np.array(1.0)
Branch = Callable[[Builder, Value], Value]


def logarithm(builder: Builder, x: Value) -> Value:
    """Scaled and shifted before it is discarded."""
    return builder.emit("add", builder.emit("mul", builder.emit("log", x), B), np.full(4, 0.3))


def quotient(builder: Builder, x: Value) -> Value:
    """A constant, and x itself, divided by x."""
    return builder.emit("add", builder.emit("div", np.ones((3, 4)), x), builder.emit("div", x, x))


def root(builder: Builder, x: Value) -> Value:
    return builder.emit("mul", builder.emit("sqrt", x), builder.emit("rsqrt", x))


def power(builder: Builder, x: Value) -> Value:
    return builder.emit("sub", builder.emit("pow", x, np.array(-0.7)), builder.emit("reciprocal", x))


def weighted(builder: Builder, x: Value) -> Value:
    """Divided by a number that is no factor of relevance."""
    return builder.emit(
        "div", builder.emit("log", x), builder.emit("cast", builder.emit("greater", x, ZERO), dtype="float64")
    )


def network(branch: Branch, *, safe: bool) -> Program:
    """The branch where x lies in (0, 100), x elsewhere, then a layer."""
    builder = Builder()
    x = builder.input("x", X.shape, DOUBLE)
    inside = builder.emit("logical_and", builder.emit("greater", x, ZERO), builder.emit("less", x, np.array(100.0)))
    safely = builder.emit("where", inside, x, ONE) if safe else x
    chosen = builder.emit("where", inside, branch(builder, safely), builder.emit("mul", x, np.array(0.01)))
    return builder.finish({"y": builder.emit("matmul", builder.emit("tanh", builder.emit("matmul", chosen, W)), V)})


def exponential(builder: Builder, x: Value) -> Value:
    """Too large for x = 1000, where it is discarded."""
    return builder.emit("mul", builder.emit("exp", x), builder.emit("exp", x))


BRANCHES = (logarithm, quotient, root, power, weighted, exponential)
WALKED = (
    "default",
    "contrastive",
    "lrp-epsilon",
    "lrp-zplus",
    "lrp-gamma",
    "attnlrp",
    "cp-lrp",
    "gradient",
    "deeplift",
)


def check_same(found: Program, expected: Program, mode: str, inputs: dict[str, np.ndarray]) -> None:
    start = RNG.normal(size=found.graph.outputs[0].shape)
    start = np.stack([np.abs(start), np.abs(start[::-1])]) if find_mode(mode).paired else start
    reference = {name: np.full(array.shape, 0.5) for name, array in inputs.items()} if mode == "deeplift" else None
    walked, plain = (walk_back(each, inputs, start, mode=mode, reference=reference) for each in (found, expected))
    assert np.isfinite(plain.result).all()
    assert not all(np.isfinite(value).all() for value in walked.values.values() if value.dtype == DOUBLE)
    close(walked.relevance["x"], plain.relevance["x"], 1e-9)
    assert np.isfinite(walked.books.absolute).all()
    if find_mode(mode).conserving:
        assert_books_close(walked.books)


@pytest.mark.parametrize("mode", ["default", "lrp-epsilon", "deeplift"])
@pytest.mark.parametrize("branch", BRANCHES)
def test_discarded_by_a_condition(branch, mode):
    check_same(network(branch, safe=False), network(branch, safe=True), mode, {"x": X})


def attended(*, safe: bool) -> Program:
    """Scores of rows divided by their length, which is 0 for the last one; a mask hides it and it is not read."""
    builder = Builder()
    x = builder.input("x", (3, 4), DOUBLE)
    squared = builder.emit("reduce_sum", builder.emit("mul", x, x), axes=(1,), keepdims=True)
    length = builder.emit("sqrt", squared)
    length = builder.emit("where", builder.emit("equal", length, ZERO), ONE, length) if safe else length
    rows = builder.emit("div", x, length)
    scores = builder.emit("matmul", rows, builder.emit("transpose", rows, perm=(1, 0)))
    shown = builder.emit("where", np.array([[True, True, False]]), scores, np.array(-np.inf))
    weights = builder.emit("softmax", shown, axis=-1)
    mixed = builder.emit("matmul", weights, builder.emit("matmul", x, W))
    return builder.finish({"y": builder.emit("slice", mixed, start=(0, 0), limit=(2, 4), stride=(1, 1))})


@pytest.mark.parametrize("mode", WALKED)
def test_hidden_by_a_mask(mode):
    """A NaN key meets queries in one product; relevance of the others is not lost with it."""
    x = np.concatenate([X[:2], np.zeros((1, 4))])
    check_same(attended(safe=False), attended(safe=True), mode, {"x": x})


def guarded_softmax(*, safe: bool) -> Program:
    """Every score of the last row is masked, and the NaN of its softmax replaced by 0, as torch exports it."""
    builder = Builder()
    x = builder.input("x", (3, 4), DOUBLE)
    hidden = np.zeros((3, 4))
    hidden[2] = 0 if safe else -np.inf
    weights = builder.emit("softmax", builder.emit("add", builder.emit("matmul", x, W), hidden), axis=-1)
    gone = np.array([[False], [False], [True]]) if safe else builder.emit("is_nan", weights)
    return builder.finish({"y": builder.emit("matmul", builder.emit("where", gone, ZERO, weights), V)})


@pytest.mark.parametrize("mode", ["default", "attnlrp", "gradient"])
def test_a_softmax_of_nothing(mode):
    check_same(guarded_softmax(safe=False), guarded_softmax(safe=True), mode, {"x": X})


def test_only_what_may_break_unseen_is_guarded():
    """Division by a number, and an end that shows whatever broke, cost nothing."""
    builder = Builder()
    x = builder.input("x", (3, 4), DOUBLE)
    scaled = builder.emit("div", x, np.full(4, 2.0))
    y = builder.emit("log", builder.emit("matmul", builder.emit("relu", scaled), W))
    assert hidden_breaks(builder.finish({"y": builder.emit("matmul", y, V)}).graph) == frozenset()
    assert hidden_breaks(network(logarithm, safe=False).graph)
