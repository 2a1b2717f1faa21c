"""What a one-input function gives of nothing as a constant: an alternative to the identity for composites."""

from __future__ import annotations

import numpy as np
import pytest

from backtrace_jax.rules import BIAS, DEAD, FROM_ZERO, Selector, composite
from tests.rules.running import assert_books_close, close, walk_op

CHOSEN = composite("from zero", [(Selector(kind="pointwise"), FROM_ZERO)], base="lrp-epsilon")
FUNCTIONS = {
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "exp": np.exp,
    "cos": np.cos,
    "tanh": np.tanh,
}


@pytest.mark.parametrize("op", FUNCTIONS)
def test_what_a_function_gives_of_nothing_is_bias(op):
    generator = np.random.default_rng(0)
    x, R = generator.normal(size=(3, 4)), generator.normal(size=(3, 4))
    walked, f = walk_op(op, [x], R, mode=CHOSEN), FUNCTIONS[op]
    share, constant = R * (f(x) - f(0.0)) / f(x), R * f(0.0) / f(x)
    close(walked.relevance["x0"], share, 1e-10)
    np.testing.assert_allclose(walked.kept(BIAS), [constant.sum(), np.abs(constant).sum()], rtol=1e-10, atol=1e-12)
    assert_books_close(walked.books)


def test_relevance_per_input_stays_bounded_near_zero():
    x = np.array([1e-3, -1e-6, 1e-9])
    walked = walk_op("sigmoid", [x], np.ones(3), mode=CHOSEN)
    np.testing.assert_allclose(walked.relevance["x0"] / x, 0.5, rtol=1e-3)


def test_a_function_without_a_value_at_zero_hands_everything_on():
    R = np.array([1.0, -2.0])
    walked = walk_op("reciprocal", [np.array([0.5, 2.0])], R, mode=CHOSEN)
    assert walked.relevance["x0"].tolist() == R.tolist()


def test_where_the_result_is_nothing_relevance_is_dead():
    walked = walk_op("softplus", [np.array([-1e4])], np.ones(1), mode=CHOSEN)
    assert walked.relevance["x0"].tolist() == [0]
    assert walked.kept(DEAD).tolist() == [1, 1]
    assert_books_close(walked.books)
