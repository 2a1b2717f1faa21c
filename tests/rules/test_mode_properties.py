"""What holds for the rules of every mode that keeps books: they close, scale with the start, and are equivariant."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backtrace_jax.ops import CONTROL, FUNCTION, KINDS, LINEAR, NONE, PRODUCT, QUOTIENT, SUM
from tests.rules.cases import entries, seeds
from tests.rules.running import assert_books_close, close, walk_op
from tests.rules.test_properties import EQUIVARIANT
from tests.rules.uses import USES, Use, conserving_modes, told_apart

MODES = {each.name: each for each in conserving_modes()}
OTHERS = [each for name, each in MODES.items() if name not in ("default", "dlbacktrace-0.0.24", "lrp-zero")]
UNGATED = [use for use in USES if use.activation is None and "einsum" not in use.name]
SHARING = [use for use in UNGATED if use.plan().steps[-1].kind in (LINEAR, SUM, PRODUCT)]
PAIRS = [
    *told_apart(SHARING, OTHERS),
    *told_apart([use for use in UNGATED if use.name == "softmax"], [MODES["attnlrp"]]),
    *told_apart([use for use in USES if use.name == "layer_norm"], [MODES["contrastive"]]),
]
every_pair = pytest.mark.parametrize(("use", "mode"), PAIRS, ids=[f"{use}-{mode.name}" for use, mode in PAIRS])


def draw(use: Use, mode, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Inputs, and relevance of the result: in pairs one channel after the other."""
    generator = np.random.default_rng(seed)
    inputs, start = use.draw(generator)
    return inputs, np.stack([start, generator.normal(size=start.shape)]) if mode.paired else start


def test_every_kind_has_a_rule_in_every_mode():
    kinds = {step.kind for mode in MODES.values() for use in USES for step in use.plan(mode).steps}
    assert kinds == set(KINDS) - {
        NONE,
        QUOTIENT,
        CONTROL,
        FUNCTION,
    }  # quotients: test_products; control: the recurrent networks


@every_pair
def test_books_close_and_scale_with_the_start(use, mode):
    for seed in range(3):
        inputs, R = draw(use, mode, seed)
        walked = use.walk(inputs, R, mode)
        assert_books_close(walked.books)
        handed = sum(walked.relevance[key].sum() for key in use.wrt)
        size = max(np.abs(walked.books.absolute).max(), np.abs(R).sum())
        np.testing.assert_allclose(handed + walked.books.signed[:, 2:].sum(), R.sum(), rtol=0, atol=1e-12 * size)
        for factor in (2.0, 1e-6, 1e6) if mode.paired else (2.0, -0.3, 1e-6, 1e6):
            scaled = use.walk(inputs, R * factor, mode)
            for key in use.wrt:
                close(scaled.relevance[key], walked.relevance[key] * factor)
            close(scaled.books.absolute, walked.books.absolute * abs(factor))
            rounding = 1e-12 * scaled.books.absolute  # a total may cancel to much less than what it adds up
            assert (np.abs(scaled.books.signed - walked.books.signed * factor) <= rounding).all()


KEEPING = [(use, mode) for use, mode in PAIRS if all(step.keeps_sign for step in use.plan(mode).steps)]


@pytest.mark.parametrize(("use", "mode"), KEEPING, ids=[f"{use}-{mode.name}" for use, mode in KEEPING])
def test_rules_said_to_keep_the_sign_do(use, mode):
    """The books take that for granted and leave out the magnitudes, which are then the totals themselves."""
    for seed in range(3):
        inputs, R = draw(use, mode, seed)
        walked = use.walk(inputs, np.abs(R), mode)
        assert all((walked.relevance[key] >= 0).all() for key in use.wrt)
        close(walked.books.signed, walked.books.absolute)


LINEAR_RULES = ("contrastive", "lrp-epsilon", "lrp-gamma", "lrp-alpha2-beta1", "lrp-zplus", "lrp-wsquare", "lrp-flat")


@pytest.mark.parametrize("name", EQUIVARIANT)
@pytest.mark.parametrize("chosen", [*LINEAR_RULES, "lrp-epsilon-gamma-box"])
@settings(max_examples=6)
@given(seeds, st.permutations(range(4)), st.permutations(range(5)))
def test_permuting_channels_permutes_relevance(name, chosen, generator, order, outputs):
    specimen, (axis, weights_in), (axis_out, weights_out) = EQUIVARIANT[name]
    use, mode = Use(name, specimen, ("x0",)), MODES[chosen]
    inputs, start = use.draw(generator)
    x, K = inputs["x0"], inputs["x1"]
    R, front = (np.stack([start, np.abs(start)]), 1) if mode.paired else (start, 0)
    plain = use.walk({"x0": x, "x1": K}, R, mode).relevance["x0"]
    shuffled = {"x0": x.take(order, axis), "x1": K.take(order, weights_in).take(outputs, weights_out)}
    permuted = use.walk(shuffled, R.take(outputs, axis_out + front), mode).relevance["x0"]
    close(permuted, plain.take(order, axis + front), 1e-11)


@pytest.mark.parametrize("chosen", ["contrastive", "lrp-epsilon"])
@settings(max_examples=8)
@given(seeds, st.permutations(range(3)))
def test_the_order_of_a_sum_does_not_matter(chosen, generator, order):
    operands, R = [entries(generator, (2, 3)) for _ in range(3)], generator.normal(size=(2, 3))
    R = np.stack([R, R[::-1]]) if MODES[chosen].paired else R
    plain = walk_op("add", operands, R, mode=chosen).relevance
    permuted = walk_op("add", [operands[i] for i in order], R, mode=chosen).relevance
    for place, i in enumerate(order):
        close(permuted[f"x{place}"], plain[f"x{i}"], 1e-11)
