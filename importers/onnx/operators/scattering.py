"""Operators that write entries to places given by indices: Scatter, ScatterElements, ScatterND, TensorScatter.

What is written to one place twice: without a reduction ONNX leaves it open, and the last update stays. Relevance of a
plain scatter follows each entry to the update or the datum that it is (a gather and a condition); with `add` an entry
is the sum of its datum and of what was written to it; with `max` and `min` the winner takes all; with `mul` entries
that were written to are products, one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from backtrace_jax.errors import UnsupportedError
from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from .axes import from_front
from .indexing import check_range
from .registry import operator

_MOST_FACTORS = 64  # updates multiplied into one entry: each is a step of the graph


def _last(lowering: Lowering, data: Value, updates: Value, cells: Value) -> Value:
    """The last update written to each cell, or what was there."""
    writers = lowering.emit("last_writers", cells, count=data.shape[0])
    return _written(lowering, data, updates, writers, lambda candidates: candidates)


def _written(
    lowering: Lowering, data: Value, updates: Value, writers: Value, combine: Callable[[Value], Value]
) -> Value:
    """Data, but where a cell has a writer, what `combine` makes of the update that it is."""
    if isinstance(writers, np.ndarray) and (writers < 0).all():
        return data
    zero = np.zeros((), np.int64)
    candidates = lowering.emit("gather", updates, lowering.emit("maximum", writers, zero), axis=0)
    column = lowering.reshape(writers, (*writers.shape, *(1,) * (len(data.shape) - 1)))
    return lowering.emit("where", lowering.emit("greater_equal", column, zero), combine(candidates), data)


def _add(lowering: Lowering, data: Value, updates: Value, cells: Value) -> Value:
    total = lowering.emit("scatter_add", updates, cells, count=data.shape[0])
    empty = isinstance(data, np.ndarray) and not data.any()  # sums of messages usually start from zeros
    return total if empty else lowering.emit("add", data, total)


def _multiply(lowering: Lowering, data: Value, updates: Value, cells: Value) -> Value:
    """Factor after factor: the first one that each cell is multiplied by, then the second, ..."""
    for writers in _rounds(lowering.known(cells, "where factors are scattered to"), data.shape[0]):
        before = data
        data = _written(lowering, before, updates, writers, lambda factor, x=before: lowering.emit("mul", x, factor))
    return data


def _rounds(cells: np.ndarray, count: int) -> list[np.ndarray]:
    """Writers of each cell, one to a cell and round, in the order of the updates."""
    inside = np.flatnonzero(cells < count)
    order = inside[np.argsort(cells[inside], kind="stable")]
    targets = cells[order]
    turn = np.arange(targets.size) - np.searchsorted(targets, targets)
    most = int(turn.max(initial=-1)) + 1
    if most > _MOST_FACTORS:
        raise UnsupportedError(
            f"{most} factors scattered to one entry, more than {_MOST_FACTORS}; multiply them before they are scattered"
        )
    rounds = np.full((most, count), -1, np.int64)
    rounds[turn, targets] = order
    return list(rounds)


def _extreme(op: str) -> Callable[[Lowering, Value, Value, Value], Value]:
    return lambda lowering, data, updates, cells: lowering.emit(op, data, updates, cells)


_REDUCTIONS: dict[str, Callable[[Lowering, Value, Value, Value], Value]] = {
    "none": _last,
    "add": _add,
    "mul": _multiply,
    "max": _extreme("scatter_max"),
    "min": _extreme("scatter_min"),
}


def _scatter(lowering: Lowering, data: Value, updates: Value, cells: Value, width: int, reduction: str) -> Value:
    """Write updates, `width` entries each, to cells of data."""
    if 0 in updates.shape or 0 in data.shape:
        return data
    count = math.prod(cells.shape)
    inner = () if width == 1 else (width,)
    rows = lowering.reshape(data, (math.prod(data.shape) // width, *inner))
    written = lowering.reshape(updates, (count, *inner))
    result = _REDUCTIONS[reduction](lowering, rows, written, lowering.reshape(cells, (count,)))
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
