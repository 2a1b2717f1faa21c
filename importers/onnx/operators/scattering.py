"""Operators that write entries to places given by indices: Scatter, ScatterElements, ScatterND, TensorScatter.

What is written to one place twice: without a reduction ONNX leaves it open, and the last update stays. Relevance of a
plain scatter follows each entry to the update or the datum that it is (a gather and a condition); with `add` an entry
is the sum of its datum and of what was written to it; with `max` and `min` the winner takes all; with `mul` entries
that were written to are products, one after the other.
"""

from __future__ import annotations

import math

import numpy as np

from backtrace_jax.passes.build import Value

from ...scattering import scatter_rows
from ..lowering import Lowering
from .axes import from_front
from .indexing import check_range
from .registry import operator


def _scatter(lowering: Lowering, data: Value, updates: Value, cells: Value, width: int, reduction: str) -> Value:
    """Write updates, `width` entries each, to cells of data."""
    if 0 in updates.shape or 0 in data.shape:
        return data
    count = math.prod(cells.shape)
    inner = () if width == 1 else (width,)
    rows = lowering.reshape(data, (math.prod(data.shape) // width, *inner))
    written = lowering.reshape(updates, (count, *inner))
    result = scatter_rows(lowering, rows, written, lowering.reshape(cells, (count,)), reduction)
    return lowering.reshape(result, data.shape)


@operator("Scatter", "ScatterElements")
def scatter_elements(
    lowering: Lowering, data: Value, indices: Value, updates: Value, *, axis: int = 0, reduction: str = "none"
) -> Value:
    """Data with updates written entry by entry, each to its own place but for one axis, where it is given."""
    axis = from_front(axis, len(data.shape))
    check_range(indices, data.shape[axis])
    cells = lowering.emit("element_cells", indices, shape=data.shape, axis=axis)
    return _scatter(lowering, data, updates, cells, 1, reduction)


@operator("ScatterND")
def scatter_nd(lowering: Lowering, data: Value, indices: Value, updates: Value, *, reduction: str = "none") -> Value:
    """Data with parts written to the places that tuples of indices (the last axis) name."""
    depth = indices.shape[-1]
    for column in range(depth):
        known = indices[..., column] if isinstance(indices, np.ndarray) else indices
        check_range(known, data.shape[column])
    cells = lowering.emit("tuple_cells", indices, shape=data.shape[:depth])
    return _scatter(lowering, data, updates, cells, math.prod(data.shape[depth:]), reduction)


@operator("TensorScatter")
def tensor_scatter(
    lowering: Lowering,
    past_cache: Value,
    update: Value,
    write_indices: Value | None = None,
    *,
    axis: int = -2,
    mode: str = "linear",
) -> Value:
    """A cache with an update written along an axis, from a position of each example on, around the end if circular."""
    axis = from_front(axis, len(past_cache.shape))
    batch, length = past_cache.shape[0], past_cache.shape[axis]
    begin = np.zeros(batch, np.int64) if write_indices is None else write_indices
    column = lowering.reshape(lowering.cast(begin, np.dtype(np.int64)), (batch, 1))
    offsets = lowering.emit("sub", np.arange(length), column)
    if mode == "circular":
        offsets = lowering.emit("mod", offsets, np.asarray(length), truncate=False)
    written = [lowering.emit("less", offsets, np.asarray(update.shape[axis])), _not_negative(lowering, offsets)]
    mask = lowering.emit("logical_and", *written)
    positions = lowering.emit("where", mask, offsets, np.asarray(0))
    shape = (batch, *(length if k == axis else 1 for k in range(1, len(past_cache.shape))))
    indices = lowering.emit("expand", lowering.reshape(positions, shape), shape=past_cache.shape)
    candidates = lowering.emit("gather_elements", update, indices, axis=axis)
    return lowering.emit("where", lowering.reshape(mask, shape), candidates, past_cache)


def _not_negative(lowering: Lowering, value: Value) -> Value:
    return lowering.emit("greater_equal", value, np.asarray(0))
