"""Products of one-hot rows and a table become look-ups, and only where both compute the same."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from backtrace_jax.engine.forward import forward
from backtrace_jax.passes.check import check
from backtrace_jax.passes.lookups import recognise_lookups
from backtrace_jax.runtime.numerics import exact_types
from tests.passes.graphs import DOUBLE, operations, program

TABLE = np.random.default_rng(0).normal(size=(4, 3))
KEYS = np.array([2.0, 0.0, 1.0, 7.0])
IDS = (5, 1)


def rows(builder, ids, keys=KEYS):
    return builder.emit("cast", builder.emit("equal", ids, keys), dtype="float64")


def product(builder, ids, keys=KEYS, table=TABLE):
    return builder.emit("matmul", rows(builder, ids, keys), table)


def chosen(builder, ids):
    truths = builder.emit("equal", KEYS, ids)
    return builder.emit("einsum", builder.emit("where", truths, np.ones(()), np.zeros(())), TABLE, equation="ij,jk->ik")


def reshaped(builder, ids):
    square = builder.emit("reshape", ids, shape=(1, 5, 1))
    return builder.emit("matmul", builder.emit("reshape", rows(builder, square), shape=(5, 4)), TABLE)


def keys_first(builder, ids):
    across = builder.emit("reshape", ids, shape=(1, 5))
    return builder.emit("matmul", builder.emit("transpose", rows(builder, across, KEYS[:, None]), perm=(1, 0)), TABLE)


def with_entry(array, entry):
    changed = array.copy()
    changed[-1] = entry
    return changed


def values(found, ids):
    with exact_types():
        weights = {name: jnp.asarray(array) for name, array in found.weights.items()}
        computed = forward(found.graph, weights, {"x0": jnp.asarray(ids)})
        return [np.asarray(computed[var.name]) for var in found.graph.outputs]


def check_the_same(before, after):
    check(after.graph)
    for ids in ([[0.0], [7.0], [2.0], [1.0], [0.0]], [[3.0], [-1.0], [0.5], [np.nan], [np.inf]]):  # the latter: no key
        for old, new in zip(values(before, np.array(ids)), values(after, np.array(ids)), strict=True):
            np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize("build", [product, chosen, reshaped, keys_first])
def test_one_hot_rows_times_a_table_are_rows_of_it(build):
    before = program(build, IDS, dtype=DOUBLE)
    after = recognise_lookups(before)
    assert "gather_by_key" in operations(after)
    check_the_same(before, after)


@pytest.mark.parametrize(
    ("keys", "table"),
    [
        (with_entry(KEYS, np.nan), TABLE),  # a NaN equals nothing, itself included
        (with_entry(KEYS, 1.0), TABLE),  # two rows at once
        (KEYS, with_entry(TABLE, np.inf)),  # zero times infinity is in every row
        (KEYS, with_entry(TABLE, np.nan)),
        (KEYS, TABLE[None]),  # a table for each example
    ],
)
def test_other_products_stay(keys, table):
    before = program(lambda builder, ids: product(builder, ids, keys, table), IDS, dtype=DOUBLE)
    after = recognise_lookups(before)
    assert "gather_by_key" not in operations(after)
    check_the_same(before, after)


def test_a_table_that_is_computed_stays():
    before = program(lambda b, ids, table: b.emit("matmul", rows(b, ids), table), IDS, (4, 3), dtype=DOUBLE)
    assert "gather_by_key" not in operations(recognise_lookups(before))


def test_keys_along_the_other_axis_are_no_rows():
    """Every id is compared with the key of its own row: nothing is looked up."""
    before = program(
        lambda b, ids: b.emit("matmul", rows(b, ids, KEYS[:, None]), np.ones((1, 3))), (4, 1), dtype=DOUBLE
    )
    assert "gather_by_key" not in operations(recognise_lookups(before))
