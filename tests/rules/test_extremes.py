"""No rule makes NaN or Inf of finite values, and the books close however large or small they are (RULES 0)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from backtrace_jax.ops import CONTROL, KINDS, NONE, OPS, PRODUCT
from tests.rules.running import SINGLE, assert_books_close, walk_op
from tests.rules.uses import USES

NAMES = ("matmul", "mul", "conv with bias", "div", "avg_pool", "reduce_mean", "cumsum", "add", "sub", "softmax")
NAMES += ("max_pool", "reduce_max", "maximum", "concat", "where", "gather", "pad", "layer_norm", "relu")
CHOSEN = [use for use in USES if use.name in NAMES]
FILLS = {
    "normal": lambda generator, shape: generator.normal(size=shape),
    "zero": lambda generator, shape: np.zeros(shape),
    "negative": lambda generator, shape: -generator.uniform(0.5, 2, size=shape),
    "huge": lambda generator, shape: 1e30 * generator.normal(size=shape),
    "tiny": lambda generator, shape: 1e-30 * generator.normal(size=shape),
    "subnormal": lambda generator, shape: 1e-40 * generator.normal(size=shape),
}
ORDINARY = np.array([0, 0, 1, -1, 1e-30, 1e-20, -1e-3, 1e3])
SPECIAL = np.array([*ORDINARY, 1e-40, -1e-40, 1.2e-38, -1e-30, -1e20, 1e30, -1e30])


def check_finite(use, inputs, R) -> bool:
    """Hold relevance and books finite and closed where the forward pass is finite; whether it was."""
    single = {key: np.asarray(array, SINGLE) for key, array in inputs.items()}
    walked = use.walk(single, np.asarray(R, SINGLE))
    if not all(np.isfinite(value).all() for value in walked.values.values()):
        return False
    assert all(np.isfinite(walked.relevance[key]).all() for key in use.wrt), (single, R)
    assert np.isfinite(walked.books.absolute).all()
    assert_books_close(walked.books, 1e-5)
    return True


def test_every_kind_is_among_them():
    assert {OPS[use.specimen.op].kind for use in CHOSEN} == set(KINDS) - {NONE, CONTROL}


@pytest.mark.parametrize("use", CHOSEN, ids=str)
def test_uniform_scales(use):
    """Every choice of a scale for the first operand and for the others; start relevance may be all zero."""
    generator, checked = np.random.default_rng(0), 0
    sample, start = use.draw(generator)
    choices = list(itertools.product(FILLS, FILLS, ("normal", "zero")))
    for first, others, top in choices:
        fills = {key: FILLS[first if key == "x0" else others] for key in sample}
        inputs = {key: fill(generator, sample[key].shape) for key, fill in fills.items()}
        checked += check_finite(use, inputs, FILLS[top](generator, start.shape))
    assert checked > len(choices) / 3


def check_mixed(use, values, weights) -> None:
    """What bears relevance and what does not, drawn entry by entry from these numbers; the start is ordinary."""
    generator, checked = np.random.default_rng(1), 0
    sample, start = use.draw(generator)
    for _ in range(150):
        choices = {key: values if key in use.wrt else weights for key in sample}
        inputs = {key: generator.choice(numbers, size=sample[key].shape) for key, numbers in choices.items()}
        checked += check_finite(use, inputs, generator.choice([0, 1, -1, 1e-3, 1e3], size=start.shape))
    assert checked > 5


WEIGHTED = [use for use in CHOSEN if use.plan().steps[-1].kind != PRODUCT]
MULTIPLIED = [use for use in CHOSEN if use.name in ("matmul", "mul", "div")]


@pytest.mark.parametrize("use", WEIGHTED, ids=str)
def test_values_of_any_size_under_ordinary_weights(use):
    check_mixed(use, SPECIAL, ORDINARY)


@pytest.mark.parametrize("use", MULTIPLIED, ids=str)
def test_values_and_weights_of_any_size(use):
    check_mixed(use, SPECIAL, SPECIAL)


@pytest.mark.parametrize(("op", "constant"), [("matmul", {1}), ("add", ())])
def test_evidence_that_overflows_is_accounted_for(op, constant):
    """z is finite, |K||x| is not: what is not handed on has to stand in the books."""
    x = np.array([[3e38, -3e38]], SINGLE)
    operands = [x, np.ones((2, 1), SINGLE)] if op == "matmul" else [x, -x]
    walked = walk_op(op, operands, np.ones((1, 1) if op == "matmul" else (1, 2), SINGLE), constant)
    assert np.isfinite(walked.result).all()
    assert_books_close(walked.books, 1e-5)
