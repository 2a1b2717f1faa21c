"""The winner takes all and exact ties share equally (RULES 2)."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backtrace_jax.rules import CONSTANT, DEAD
from tests.rules.cases import broadcasts, seeds, sizes, windows
from tests.rules.matrices import inside
from tests.rules.matrices import windows as windows_of
from tests.rules.oracles import place, winner_rule
from tests.rules.running import agree, close, walk_op


def tied(generator, shape):
    """Few different values, so that ties are common; half of them negative."""
    return generator.integers(-2, 3, size=shape).astype(float)


@settings(max_examples=20)
@given(st.integers(1, 3).flatmap(windows), seeds, st.integers(1, 2))
def test_max_pool(setting, generator, channels):
    spatial, window = setting.pop("spatial"), setting["window"]
    reach = [d * (k - 1) for d, k in zip(setting["dilation"], window, strict=True)]
    pairs = zip(setting["padding"], reach, strict=True)
    setting["padding"] = tuple((min(low, most), min(high, most)) for (low, high), most in pairs)
    x = tied(generator, (1, channels, *spatial))
    reads = dict(windows_of(spatial, **setting))

    def candidates(at):
        return [(0, (*at[:2], *source)) for _, source in reads[at[2:]] if inside(source, spatial)]

    R = generator.normal(size=(1, channels, *np.add(list(reads)[-1], 1)))
    values, shares = winner_rule(candidates, [x], R)
    walked = walk_op("max_pool", [x], R, **setting)
    np.testing.assert_array_equal(walked.result, values)
    agree(walked, {0: shares[0]})


@pytest.mark.parametrize(("stride", "low"), [(7, 1), (9, 0), (10**9, 1)])
def test_max_pool_with_windows_far_apart(stride, low):
    """What lies between them wins nothing, however much that is."""
    generator = np.random.default_rng(0)
    x, expected = generator.normal(size=(1, 1, 30)), np.zeros((1, 1, 30))
    setting = {"window": (3,), "strides": (stride,), "padding": ((low, 0),), "dilation": (1,)}
    starts = range(-low, 28, stride)
    R = generator.normal(size=(1, 1, len(starts)))
    for share, start in zip(R[0, 0], starts, strict=True):
        inside = np.arange(max(start, 0), start + 3)
        expected[0, 0, inside[x[0, 0, inside].argmax()]] = share
    agree(walk_op("max_pool", [x], R, **setting), {0: expected})


@settings(max_examples=15)
@given(st.lists(sizes, min_size=1, max_size=4), st.data(), seeds, st.sampled_from(["max", "min"]), st.booleans())
def test_largest_and_smallest_over_axes(shape, data, generator, which, keepdims):
    axes = tuple(sorted(data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1), label="axes")))
    x = tied(generator, shape)
    kept = [1 if axis in axes else size for axis, size in enumerate(shape)]
    R = generator.normal(size=kept)

    def candidates(at):
        ranges = [range(size) if axis in axes else [at[axis]] for axis, size in enumerate(shape)]
        return [(0, source) for source in itertools.product(*ranges)]

    values, shares = winner_rule(candidates, [x], R, {"max": max, "min": min}[which])
    start = R if keepdims else R.squeeze(axes)
    walked = walk_op(f"reduce_{which}", [x], start, axes=axes, keepdims=keepdims)
    np.testing.assert_array_equal(walked.result, values.reshape(start.shape))
    agree(walked, {0: shares[0]})


@settings(max_examples=15)
@given(st.integers(2, 3).flatmap(broadcasts), seeds, st.sampled_from(["maximum", "minimum"]), st.data())
def test_largest_and_smallest_of_operands(shapes, generator, op, data):
    constant = data.draw(st.sets(st.integers(0, len(shapes) - 1), max_size=len(shapes) - 1), label="constant")
    operands = [tied(generator, shape) for shape in shapes]
    R = generator.normal(size=np.broadcast_shapes(*shapes))
    every = range(len(operands))

    def candidates(at):
        return [(k, place(operands[k].shape, at)) for k in every]

    _, shares = winner_rule(candidates, operands, R, {"maximum": max, "minimum": min}[op])
    agree(walk_op(op, operands, R, constant), dict(enumerate(shares)), constant)


def test_ties_share_equally_by_hand():
    walked = walk_op("reduce_max", [np.array([2.0, 5.0, 5.0, 5.0])], np.array(3.0), axes=(0,), keepdims=False)
    close(walked.relevance["x0"], np.array([0.0, 1.0, 1.0, 1.0]))
    walked = walk_op("maximum", [np.array([2.0, 5.0, 1.0]), np.array(2.0)], np.ones(3), constant=(1,))
    close(walked.relevance["x0"], np.array([0.5, 1.0, 0.0]))
    assert walked.kept(CONSTANT).tolist() == [1.5, 1.5]


@pytest.mark.parametrize("keepdims", [True, False])
def test_log_sum_exp_shares_by_its_terms(keepdims):
    """Of log Σ exp x the logarithm hands all to the sum, which shares by exp x; a row of nothing but -inf is dead."""
    x = np.array([[1.0, -2.0, 800.0], [3.0, 3.0, -math.inf], [-math.inf] * 3])
    R = np.array([[2.0], [-1.0], [5.0]])
    walked = walk_op("log_sum_exp", [x], R if keepdims else R[:, 0], axes=(1,), keepdims=keepdims)
    close(walked.relevance["x0"], np.array([[0.0, 0.0, 2.0], [-0.5, -0.5, 0.0], [0.0] * 3]))
    assert walked.kept(DEAD).tolist() == [5.0, 5.0]
