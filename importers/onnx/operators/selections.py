"""Operators whose result has as many entries as values say: NonZero, Compress, Unique.

The values that decide must be known while lowering; where they depend on inputs, the graph is specialised to these
inputs' values.
"""

from __future__ import annotations

import numpy as np

from backtrace_jax.errors import ModelError
from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from .axes import from_front
from .registry import operator


@operator("NonZero")
def non_zero(lowering: Lowering, X: Value) -> Value:
    """Positions of the entries that are not zero: a row for each axis, a column for each entry."""
    positions = np.argwhere(lowering.known(X, "which entries are not zero"))
    return np.ascontiguousarray(positions.T, np.int64)


@operator("Compress")
def compress(lowering: Lowering, input: Value, condition: Value, *, axis: int | None = None) -> Value:
    """Positions along an axis (of all entries in a row if none is given) where the condition holds."""
    positions = np.flatnonzero(lowering.known(condition, "which positions are kept"))
    if axis is None:
        input, axis = lowering.reshape(input, (int(np.prod(input.shape, dtype=np.int64)),)), 0
    axis = from_front(axis, len(input.shape))
    if positions.size and positions[-1] >= input.shape[axis]:
        raise ModelError(f"position {positions[-1]} is to be kept of an axis of size {input.shape[axis]}")
    return lowering.emit("gather", input, positions, axis=axis)


@operator("Unique")
def unique(lowering: Lowering, X: Value, *, axis: int | None = None, sorted: int = 1) -> tuple[Value, ...]:
    """Different entries, or slices along an axis: these, where each is first, which one each entry is, how many of it.

    Entries are in ascending order or, if not sorted, in the order of their first positions.
    """
    known = lowering.known(X, "which entries differ")
    array, axis = (known.reshape(-1), 0) if axis is None else (known, axis % known.ndim)
    comparable = array if array.dtype.isbuiltin else array.astype(np.float64)
    rows = np.moveaxis(comparable, axis, 0).reshape(array.shape[axis], -1)
    _, first, inverse, counts = np.unique(rows, return_index=True, return_inverse=True, return_counts=True, axis=0)
    order = np.arange(first.size) if sorted else np.argsort(first)
    first, rank, counts = first[order], np.argsort(order), counts[order]
    results = first, rank[inverse.reshape(-1)], counts
    return np.take(array, first, axis), *(result.astype(np.int64) for result in results)
