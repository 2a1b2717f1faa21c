"""What holds for every rule: books close, and relevance is linear in the start and equivariant."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backtrace_jax.ops import CONTROL, FUNCTION, KINDS, NONE, QUOTIENT
from tests.ops.specimens import Specimen
from tests.rules.cases import entries, seeds
from tests.rules.running import SINGLE, assert_books_close, close, walk_op
from tests.rules.uses import USES, Use


def test_every_kind_is_used():
    kinds = {step.kind for use in USES for step in use.plan().steps}
    assert kinds == set(KINDS) - {
        NONE,
        QUOTIENT,
        CONTROL,
        FUNCTION,
    }  # which hands everything to its numerator: test_products


@pytest.mark.parametrize("use", USES, ids=str)
def test_books_close(use):
    for seed in range(5):
        inputs, R = use.draw(np.random.default_rng(seed))
        walked = use.walk(inputs, R)
        assert_books_close(walked.books)
        assert [var.name for var in walked.plan.inputs] == list(use.wrt)
        handed = sum(walked.relevance[key].sum() for key in use.wrt)
        kept = walked.books.signed[:, 2:].sum()
        np.testing.assert_allclose(handed + kept, R.sum(), rtol=0, atol=1e-12 * np.abs(R).sum())


@pytest.mark.parametrize("use", USES, ids=str)
def test_scaling_the_start_scales_relevance(use):
    inputs, R = use.draw(np.random.default_rng(0))
    base = use.walk(inputs, R)
    for factor in (2.0, -0.3, 1e6, 1e-6):
        scaled = use.walk(inputs, R * factor)
        for key in use.wrt:
            close(scaled.relevance[key], base.relevance[key] * factor)
        close(scaled.books.signed, base.books.signed * factor)


@pytest.mark.parametrize("factor", [1e-30, 1e-6, 1e6, 1e20, 1e30])
def test_scaling_the_start_in_single_precision(factor):
    generator, factor = np.random.default_rng(0), np.float32(factor)
    x, K, R = (generator.uniform(0.1, 0.3, size=(4, 4)).astype(SINGLE) for _ in range(3))
    base, scaled = (walk_op("matmul", [x, K], R * scale, constant={1}) for scale in (np.float32(1), factor))
    close(scaled.relevance["x0"], base.relevance["x0"] * factor, 1e-5)


CONV = {"strides": (1,), "padding": ((1, 0),), "dilation": (1,), "groups": 1}
EQUIVARIANT = {
    "matmul": (Specimen("matmul", ((3, 4), (4, 5))), (1, 0), (1, 1)),
    "conv": (Specimen("conv", ((1, 4, 6), (5, 4, 2)), CONV), (1, 1), (1, 0)),
}
"""Each with the axes (of x and of K) of the input channels and those (of R and of K) of the output channels."""


@pytest.mark.parametrize("name", EQUIVARIANT)
@pytest.mark.parametrize("activation", [None, "tanh"])
@settings(max_examples=10)
@given(seeds, st.permutations(range(4)), st.permutations(range(5)))
def test_permuting_channels_permutes_relevance(name, activation, generator, order, outputs):
    specimen, (axis, weights_in), (axis_out, weights_out) = EQUIVARIANT[name]
    use = Use(name, specimen, ("x0",), activation)
    inputs, R = use.draw(generator)
    x, K = 3 * inputs["x0"], inputs["x1"]
    plain = use.walk({"x0": x, "x1": K}, R).relevance["x0"]
    shuffled = {"x0": x.take(order, axis), "x1": K.take(order, weights_in).take(outputs, weights_out)}
    permuted = use.walk(shuffled, R.take(outputs, axis_out)).relevance["x0"]
    close(permuted, plain.take(order, axis))


@settings(max_examples=10)
@given(seeds, st.permutations(range(3)))
def test_the_order_of_a_sum_does_not_matter(generator, order):
    operands, R = [entries(generator, (2, 3)) for _ in range(3)], generator.normal(size=(2, 3))
    plain = walk_op("add", operands, R).relevance
    permuted = walk_op("add", [operands[i] for i in order], R).relevance
    for place, i in enumerate(order):
        close(permuted[f"x{place}"], plain[f"x{i}"])
