"""Statistics that get their axes back keep them throughout; what is no statistic is left alone."""

from __future__ import annotations

import numpy as np
import pytest

from backtrace_jax.passes.kept_axes import keep_axes
from tests.passes.spelled import check_pass


def _mean(w, x, op="reduce_mean"):
    return getattr(w, op)(x, axes=(1,), keepdims=False)


def _back(w, value, shape=(2, 1)):
    return w.reshape(value, shape=shape)


KEPT = {
    "a mean": (lambda w, x: w.sub(x, _back(w, _mean(w, x))), ["reduce_mean", "sub"]),
    "the largest entry": (lambda w, x: w.sub(x, _back(w, _mean(w, x, "reduce_max"))), ["reduce_max", "sub"]),
    "a variance that is not negative": (
        lambda w, x: w.mul(x, _back(w, w.rsqrt(w.add(w.maximum(_mean(w, w.mul(x, x)), 0), 1e-5)))),
        ["mul", "reduce_mean", "maximum", "add", "rsqrt", "mul"],
    ),
    "two statistics": (
        lambda w, x: w.mul(x, _back(w, w.sub(_mean(w, w.mul(x, x)), _mean(w, x)))),
        ["mul", "reduce_mean", "reduce_mean", "sub", "mul"],
    ),
    "a number of one axis": (
        lambda w, x: w.sub(x, _back(w, w.mul(_mean(w, x), np.array([2.0])))),
        ["reduce_mean", "mul", "sub"],
    ),
}
LEFT = {
    "another place for the axis": lambda w, x: _back(w, _mean(w, x), (1, 2)),
    "axes that are kept": lambda w, x: _back(w, w.reduce_mean(x, axes=(1,), keepdims=True), (1, 2)),
    "numbers that differ": lambda w, x: w.sub(x, _back(w, w.mul(_mean(w, x), np.array([2.0, 3.0])))),
    "no statistic": lambda w, x: w.reshape(w.tanh(x), shape=(2, 3, 1)),
    "a product over it": lambda w, x: _back(w, w.matmul(_mean(w, x), np.array([[1.0, 2.0], [0.0, 1.0]]))),
}


@pytest.mark.parametrize("name", KEPT)
def test_axes_that_come_back_are_kept(name):
    check_pass(keep_axes, *KEPT[name])


@pytest.mark.parametrize("name", LEFT)
def test_what_is_no_statistic_is_left(name):
    check_pass(keep_axes, LEFT[name])
