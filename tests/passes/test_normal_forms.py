"""What has several spellings has one; what only looks alike keeps its own."""

from __future__ import annotations

import numpy as np
import pytest

from backtrace_jax.passes.normal_forms import bounds, normal_forms
from tests.passes.graphs import operations, program
from tests.passes.spelled import check_pass

ROW = np.array([0.5, -2.0, 3.0])
SIXES, NOUGHTS = np.full((2, 3), 6.0), np.zeros((1, 3))

BOUNDED = {
    "maximum with 0": (lambda w, x: w.maximum(x, 0), ["relu"]),
    "maximum with zeros": (lambda w, x: w.maximum(NOUGHTS, x), ["relu"]),
    "relu below 6": (lambda w, x: w.minimum(w.relu(x), 6), ["clip"]),
    "relu below sixes": (lambda w, x: w.minimum(w.relu(x), SIXES), ["clip"]),
    "clip from 0": (lambda w, x: w.clip(x, low=0.0, high=None), ["relu"]),
    "clips in a row": (lambda w, x: w.clip(w.clip(x, low=-1.0, high=2.0), low=-0.5, high=None), ["clip"]),
    "clips apart": (lambda w, x: w.clip(w.clip(x, low=-1.0, high=0.0), low=0.5, high=1.0), ["clip", "clip"]),
    "maximum with minus infinity": (lambda w, x: w.tanh(w.maximum(x, -np.inf)), ["tanh"]),
    "x where it is positive": (lambda w, x: w.where(w.greater(x, 0), x, 0), ["relu"]),
    "x where 0 is less": (lambda w, x: w.where(w.less(NOUGHTS, x), x, NOUGHTS), ["relu"]),
    "0 where it is not positive": (lambda w, x: w.where(w.less_equal(x, 0), 0, x), ["relu"]),
    "a slope where it is not": (lambda w, x: w.where(w.greater(x, 0), x, w.mul(x, 0.1)), ["leaky_relu"]),
    "a slope for all": (lambda w, x: w.prelu(x, np.full(3, 0.25)), ["leaky_relu"]),
    "over a row": (lambda w, x: w.div(x, ROW), ["mul"]),
    # left alone
    "the larger of two": (lambda w, x: w.maximum(x, w.tanh(x)), ["tanh", "maximum"]),
    "a lone bound, which an activation may hold": (lambda w, x: w.maximum(x, 0.5), ["maximum"]),
    "slopes that differ": (lambda w, x: w.prelu(x, ROW), ["prelu"]),
    "x where it is negative": (lambda w, x: w.where(w.less(x, 0), x, 0), ["less", "where"]),
    "another value where x is positive": (
        lambda w, x: w.where(w.greater(x, 0), w.tanh(x), 0),
        ["greater", "tanh", "where"],
    ),
    "x where it is above 1": (lambda w, x: w.where(w.greater(x, 1), x, 0), ["greater", "where"]),
    "bounds that make more of it": (lambda w, x: w.maximum(x, np.zeros((4, 1, 1))), ["maximum"]),
}
FORMS = {
    "lone bound": (lambda w, x: w.maximum(x, 0.5), ["clip"]),
    "over a number": (lambda w, x: w.div(x, 4), ["mul"]),
    "over minus 1": (lambda w, x: w.div(x, -1), ["neg"]),
    "times minus ones": (lambda w, x: w.mul(x, np.full(3, -1.0)), ["neg"]),
    "times itself": (lambda w, x: w.mul(x, x), ["integer_pow"]),
    "a power of a half": (lambda w, x: w.pow(w.abs(x), 0.5), ["abs", "sqrt"]),
    "a power of minus a half": (lambda w, x: w.pow(w.exp(x), -0.5), ["exp", "rsqrt"]),
    "a sum over its count": (lambda w, x: w.div(w.reduce_sum(x, axes=(1,), keepdims=True), 3), ["reduce_mean"]),
    "minus minus": (lambda w, x: w.tanh(w.neg(w.neg(x))), ["tanh"]),
    "plus the negative": (lambda w, x: w.add(w.tanh(x), w.neg(x)), ["tanh", "sub"]),
    "less the negative": (lambda w, x: w.sub(w.tanh(x), w.neg(x)), ["tanh", "add"]),
    "0 less": (lambda w, x: w.sub(0, x), ["neg"]),
    "zeros less": (lambda w, x: w.sub(NOUGHTS, x), ["neg"]),
    "less a constant": (lambda w, x: w.sub(x, ROW), ["add"]),
    "shifted, then scaled": (lambda w, x: w.mul(w.add(x, ROW), ROW), ["mul", "add"]),
    # left alone
    "over 0": (lambda w, x: w.where(w.equal(x, 9), w.div(x, 0), x), ["equal", "div", "where"]),
    "a constant less": (lambda w, x: w.sub(ROW, x), ["sub"]),
    "a quotient of two": (lambda w, x: w.div(x, w.exp(x)), ["exp", "div"]),
    "a product of two": (lambda w, x: w.mul(x, w.exp(x)), ["exp", "mul"]),
    "powers that differ": (lambda w, x: w.pow(w.exp(x), ROW), ["exp", "pow"]),
    "a sum over another count": (
        lambda w, x: w.div(w.reduce_sum(x, axes=(1,), keepdims=True), 2),
        ["reduce_sum", "mul"],
    ),
    "minus ones that make more of it": (lambda w, x: w.mul(x, np.full((4, 1, 1), -1.0)), ["mul"]),
    "zeros less, that make more of it": (lambda w, x: w.sub(np.zeros((4, 1, 1)), x), ["sub"]),
}
PASSES = ((bounds, BOUNDED), (normal_forms, FORMS))
CASES = [(brought, name, *case) for brought, table in PASSES for name, case in table.items()]


@pytest.mark.parametrize(("brought", "name", "expression", "expected"), CASES, ids=[case[1] for case in CASES])
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_one_spelling_for_each(brought, name, expression, expected):
    check_pass(brought, expression, expected)


def test_integers_keep_their_own_arithmetic():
    """A quotient of whole numbers is cut off."""
    before = program(lambda b, x: b.emit("div", b.emit("cast", x, dtype="int32"), np.array(2, np.int32)), (2, 3))
    assert operations(normal_forms(before)) == ["cast", "div"]
