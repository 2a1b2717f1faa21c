"""The table of operations is complete, and says what the functions do."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from backtrace_jax.ops import (
    KINDS,
    LINEAR,
    MOVE,
    NONE,
    NORM,
    OPS,
    POINTWISE,
    PRODUCT,
    QUOTIENT,
    SELECT,
    SUM,
    evaluate_by_xla,
    result_types,
)
from backtrace_jax.runtime.numerics import exact_types
from tests.ops.specimens import SPECIMENS, carrying_operations, of_type

DOUBLE = np.dtype(np.float64)


def operands_of(name: str, dtype: np.dtype = DOUBLE) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [
        np.asarray(generator.uniform(0.5, 2, size=operand), dtype)
        if isinstance(operand, tuple)
        else of_type(operand, dtype)
        for operand in SPECIMENS[name].operands
    ]


def test_every_operation_that_carries_relevance_has_a_specimen():
    assert {specimen.op for specimen in SPECIMENS.values()} == set(carrying_operations())


def test_every_operation_has_a_known_kind():
    assert {op.kind for op in OPS.values()} == set(KINDS)
    assert all(name == op.name for name, op in OPS.items())


@pytest.mark.parametrize("name", SPECIMENS)
def test_types_are_foretold_and_floats_keep_theirs(name):
    specimen, dtype = SPECIMENS[name], np.dtype(np.float32)
    operands = operands_of(name, dtype)
    (foretold,) = result_types(specimen.op, operands, specimen.params)
    result = evaluate_by_xla(specimen.op, operands, specimen.params)
    assert (result.shape, result.dtype) == foretold
    assert result.dtype == {"cast": np.float16, "quantize": np.int8}.get(name, dtype)


CARRIERS = {
    "where": (False, True, True),
    "gather": (True, False),
    "pow": (True, True),
    "prelu": (True, False),
    "layer_norm": (True, False, False),
    "matmul with bias": (True, True, False),
    "add": (True, True, True, True),
    "pad": (True, True),
    "div": (True, True),
}


@pytest.mark.parametrize("name", CARRIERS)
def test_relevance_flows_through_some_operands_only(name):
    op = OPS[SPECIMENS[name].op]
    assert tuple(op.carries(i) for i in range(len(CARRIERS[name]))) == CARRIERS[name]


@pytest.mark.parametrize("name", [name for name, op in OPS.items() if op.kind == NONE])
def test_nothing_flows_through_the_rest(name):
    assert not any(OPS[name].carries(i) for i in range(3))


def flipped(x: np.ndarray) -> np.ndarray:
    """Entries in reverse; a number stays an array, which NumPy's own flip does not grant."""
    return np.asarray(np.flip(x))


@pytest.mark.parametrize("name", [name for name, s in SPECIMENS.items() if OPS[s.op].kind in (LINEAR, MOVE)])
def test_linear_operations_and_moves_are_linear(name):
    """f(2a - 3b) = 2 f(a) - 3 f(b) in all the floats that carry relevance together."""
    specimen, op = SPECIMENS[name], OPS[SPECIMENS[name].op]
    first = operands_of(name)
    varied = [x.dtype == DOUBLE and op.carries(i) for i, x in enumerate(first)]
    second = [flipped(x) if vary else x for x, vary in zip(first, varied, strict=True)]
    mixed = [np.asarray(2 * a - 3 * b) if vary else a for a, b, vary in zip(first, second, varied, strict=True)]
    f = [np.asarray(evaluate_by_xla(op.name, operands, specimen.params)) for operands in (first, second, mixed)]
    np.testing.assert_allclose(f[2], 2 * f[0] - 3 * f[1], rtol=0, atol=1e-12 * np.abs(f[2]).max())


@pytest.mark.parametrize("name", [name for name, s in SPECIMENS.items() if OPS[s.op].kind == PRODUCT])
@pytest.mark.parametrize("factor", [0, 1])
def test_products_are_linear_in_each_factor(name, factor):
    specimen, operands = SPECIMENS[name], operands_of(name)[:2]
    other = [flipped(x) for x in operands]
    values = []
    for combine in (lambda a, b: a, lambda a, b: b, lambda a, b: 2 * a - 3 * b):
        used = [
            np.asarray(combine(a, b)) if i == factor else a
            for i, (a, b) in enumerate(zip(operands, other, strict=True))
        ]
        values.append(evaluate_by_xla(specimen.op, used, specimen.params))
    np.testing.assert_allclose(values[2], 2 * values[0] - 3 * values[1], rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ["matmul with bias", "conv with bias"])
def test_the_third_operand_of_a_product_is_added(name):
    specimen, operands = SPECIMENS[name], operands_of(name)
    with exact_types():
        without = OPS[specimen.op](*map(jnp.asarray, operands[:2]), **specimen.params)
        together = OPS[specimen.op](*map(jnp.asarray, operands), **specimen.params)
    np.testing.assert_allclose(together, np.asarray(without) + operands[2], rtol=1e-15)


def test_signs_and_kinds_that_rules_rely_on():
    assert (OPS["add"].signs, OPS["sub"].signs) == (None, (1, -1))
    kinds = {"div": QUOTIENT, "max_pool": SELECT, "sub": SUM, "relu": POINTWISE, "rms_norm": NORM, "argmax": NONE}
    assert {name: OPS[name].kind for name in kinds} == kinds
