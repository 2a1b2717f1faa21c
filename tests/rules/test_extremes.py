"""No rule makes NaN or Inf of finite values, and the books close however large or small they are (RULES 0)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from backtrace_jax.ops import CONTROL, FUNCTION, KINDS, NONE, OPS, PRODUCT
from backtrace_jax.rules import find_mode, mode
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


def check_finite(use, inputs, R, mode="default", reference=None, *, exact=True) -> bool:
    """Hold relevance and books finite, and if `exact` the books closed, where the forward pass is; whether it is."""
    single = in_single(inputs)
    walked = use.walk(single, np.asarray(R, SINGLE), mode, reference)
    if not all(np.isfinite(value).all() for value in walked.values.values()):
        return False
    assert all(np.isfinite(walked.relevance[key]).all() for key in use.wrt), (single, R)
    if find_mode(mode).conserving:
        assert np.isfinite(walked.books.absolute).all()
        assert_books_close(walked.books, 1e-5 if exact else np.inf)
    return True


def in_single(arrays):
    return {key: np.asarray(array, SINGLE) for key, array in arrays.items()}


def test_every_kind_is_among_them():
    assert {OPS[use.specimen.op].kind for use in CHOSEN} == set(KINDS) - {NONE, CONTROL, FUNCTION}


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


BOX = mode("lrp-epsilon-gamma-box", low=-1.0, high=1e3)
REPRESENTATIVES = {
    "contrastive": ("matmul", "add", "mul", "reduce_mean"),
    "lrp-epsilon": ("matmul", "conv with bias", "add", "sub", "avg_pool", "mul", "div"),
    "lrp-zero": ("matmul", "add"),
    "lrp-gamma": ("matmul", "conv with bias"),
    "lrp-alpha2-beta1": ("matmul", "conv with bias"),
    "lrp-zplus": ("matmul",),
    "lrp-wsquare": ("matmul", "conv with bias"),
    "lrp-flat": ("matmul",),
    BOX: ("matmul",),
    "attnlrp": ("softmax",),
    "gradient": ("div", "softmax", "layer_norm", "max_pool"),
    "guided-backprop": ("relu",),
    "deconvnet": ("relu",),
}
"""For every rule, operations to try it on: all operands bear relevance, or the first one alone."""
SHARING_BY_PARTS = ("contrastive", "lrp-alpha2-beta1", "lrp-zplus", "lrp-wsquare", "lrp-flat", "attnlrp")
OF_MODES = [
    (use, chosen)
    for chosen, names in REPRESENTATIVES.items()
    for use in CHOSEN
    if use.name in names and use.activation is None and use.wrt[0] == "x0"
]
every_mode = pytest.mark.parametrize(("use", "chosen"), OF_MODES, ids=lambda value: getattr(value, "name", None))
MODERATE = np.array([*ORDINARY, -1e-30, 1e20, -1e20, 1e30, -1e30])


def like(R: np.ndarray, chosen) -> np.ndarray:
    """A start for and one against, where the mode travels in pairs."""
    return np.stack([R, R[..., ::-1]]) if find_mode(chosen).paired else R


@every_mode
def test_uniform_scales_in_every_mode(use, chosen):
    generator, checked = np.random.default_rng(0), 0
    sample, start = use.draw(generator)
    for first, others in itertools.product(FILLS, FILLS):
        inputs = {key: FILLS[first if key == "x0" else others](generator, sample[key].shape) for key in sample}
        checked += check_finite(use, inputs, like(generator.normal(size=start.shape), chosen), chosen)
    assert checked > 10


@every_mode
def test_entries_of_any_size_in_every_mode(use, chosen):
    """What bears relevance and what does not.

    Rules that share by z itself are exact no further than z is, and z = 1e30 - 1e30 + 1 is 0 or 1. AttnLRP's softmax
    multiplies by its scores, which are logits.
    """
    generator, checked, exact = np.random.default_rng(1), 0, chosen in SHARING_BY_PARTS
    sample, start = use.draw(generator)
    values, starts = (ORDINARY, [0, 1, -1]) if use.name == "softmax" else (MODERATE, [0, 1, -1, 1e-3, 1e3])
    for _ in range(40):
        choices = {key: values if key in use.wrt else ORDINARY for key in sample}
        inputs = {key: generator.choice(numbers, size=sample[key].shape) for key, numbers in choices.items()}
        R = generator.choice(starts, size=start.shape)
        checked += check_finite(use, inputs, like(R, chosen), chosen, exact=exact)
    assert checked > 2


COMPARED = ("matmul", "div", "softmax", "layer_norm", "max_pool", "maximum", "relu")


@pytest.mark.parametrize("use", [use for use in CHOSEN if use.name in COMPARED and not use.activation], ids=str)
def test_differences_from_a_reference(use):
    """DeepLIFT divides by differences, which may be as small, or as large, as floats get."""
    generator, checked = np.random.default_rng(2), 0
    sample, start = use.draw(generator)
    for first, second in itertools.product(FILLS, FILLS):
        inputs, before = (
            {key: FILLS[fill](generator, sample[key].shape) for key in sample} for fill in (first, second)
        )
        fixed = {key: inputs[key] for key in sample if key not in use.wrt}
        reference = in_single({**before, **fixed})
        if all(np.isfinite(value).all() for value in use.walk(reference, start.astype(SINGLE)).values.values()):
            checked += check_finite(use, inputs, generator.normal(size=start.shape), "deeplift", reference)
    assert checked > 5
