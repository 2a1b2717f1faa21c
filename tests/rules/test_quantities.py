"""Relevance passes from floats to the integers that stand for them and back."""

from __future__ import annotations

import numpy as np
import pytest

from backtrace_jax.engine.plan import plan_walk
from backtrace_jax.passes.build import Builder
from backtrace_jax.rules import find_mode
from tests.rules.running import DOUBLE, close, walk_back

SCALE, ZERO = np.array([0.1, 0.2, 0.5, 0.1]), np.array([3.0, 0.0, -7.0, 0.0])
X = np.array([[0.33, -1.0, 60.0, -0.04], [2.0, 99.0, -2.0, 0.06]])
INSIDE = np.array([[1, 1, 1, 1], [1, 0, 1, 1]])  # 60 / 0.5 - 7 = 113, 99 / 0.2 = 495


def through_integers(builder: Builder, x):
    """Quantised, moved, selected, and turned back into floats."""
    q = builder.emit("quantize", x, SCALE, ZERO, dtype="int8")
    turned = builder.emit("transpose", q, perm=(1, 0))
    largest = builder.emit("maximum", turned, np.full((4, 1), -128, np.int8))
    restored = builder.emit("transpose", largest, perm=(1, 0))
    return builder.emit("dequantize", restored, SCALE, ZERO, dtype="float64")


def program():
    builder = Builder()
    return builder.finish({"y": through_integers(builder, builder.input("x", X.shape, DOUBLE))})


@pytest.mark.parametrize("mode", ["default", "lrp-epsilon", "lrp-zplus", "attnlrp"])
def test_relevance_is_handed_on_as_it_is(mode):
    R = np.random.default_rng(0).normal(size=X.shape)
    walked = walk_back(program(), {"x": X}, R, mode=mode)
    close(walked.relevance["x"], R)
    assert (np.abs(walked.result - X) * INSIDE <= 0.51 * SCALE).all()


def test_gradients_pass_rounding_but_not_clipping():
    walked = walk_back(program(), {"x": X}, np.ones(X.shape), mode="gradient")
    close(walked.relevance["x"], INSIDE.astype(float), 1e-6)


def test_deeplift_compares_what_is_clipped_and_not_rounded():
    reference = {"x": np.full(X.shape, 0.02)}
    walked = walk_back(program(), {"x": X}, np.ones(X.shape), mode="deeplift", reference=reference)
    low, high = ((end - ZERO) * SCALE for end in (-128.5, 127.5))  # where the last levels end
    expected = (np.clip(X, low, high) - 0.02) / (X - 0.02)
    close(walked.relevance["x"], expected, 1e-6)


def test_gradients_pass_to_half_a_step_beyond_the_range():
    """The levels -128 and 127 stand for what is rounded to them, on both sides."""
    builder = Builder()
    x = builder.input("x", (8,), DOUBLE)
    q = builder.emit("quantize", x, np.array(0.1), np.array(0.0), dtype="int8")
    made = builder.finish({"y": builder.emit("dequantize", q, np.array(0.1), np.array(0.0), dtype="float64")})
    edges = np.array([-12.86, -12.85, -12.84, -12.8, 12.7, 12.74, 12.75, 12.76])
    walked = walk_back(made, {"x": edges}, np.ones(8), mode="gradient")
    assert walked.relevance["x"].tolist() == [0, 1, 1, 1, 1, 1, 1, 0]


@pytest.mark.parametrize("entries", [[-1.0, 0.3, 1.0], [-0.5, 0.2, 1.5], [0.1, 0.2, 0.7], [-3.0, -2.0, -0.1]])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_largest_entries_of_a_dynamic_range_have_a_gradient(entries, dtype):
    """The zero point is rounded, so one end of the range may lie past the last level: by half a step if symmetric."""
    builder = Builder()
    x = builder.input("x", (3,), np.dtype(dtype))
    scale, zero = builder.emit("dynamic_range", x)
    zero = builder.emit("cast", zero, dtype="float32")
    q = builder.emit("quantize", x, scale, zero, dtype="uint8")
    made = builder.finish({"y": builder.emit("dequantize", q, scale, zero, dtype=np.dtype(dtype).name)})
    walked = walk_back(made, {"x": np.array(entries, dtype)}, np.ones(3, dtype), mode="gradient")
    np.testing.assert_allclose(walked.relevance["x"], np.ones(3), rtol=1e-6)


def test_positions_cut_from_floats_are_no_quantities():
    builder = Builder()
    x = builder.input("x", X.shape, DOUBLE)
    steps = builder.emit("cast", builder.emit("cast", x, dtype="int32"), dtype="float64")
    graph = builder.finish({"y": builder.emit("add", x, steps)}).graph
    assert plan_walk(graph, find_mode("default"), graph.outputs[0]).steps[0].bears == (True, False)
    assert not builder.holds_quantities(steps)


def test_quantities_are_known_while_a_graph_is_built():
    builder = Builder()
    x, ids = builder.input("x", X.shape, DOUBLE), builder.input("ids", (2,), np.dtype(np.int64))
    q = builder.emit("quantize", x, SCALE, ZERO, dtype="int8")
    wide = builder.emit("cast", builder.emit("reshape", q, shape=(8,)), dtype="int32")
    assert builder.holds_quantities(wide)
    assert not builder.holds_quantities(builder.emit("cast", ids, dtype="int32"))
    assert not builder.holds_quantities(np.zeros(3, np.int8))
