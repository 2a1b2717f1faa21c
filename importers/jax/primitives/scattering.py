"""Primitives that write entries at places that may be computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.lax import GatherScatterMode

from backtrace_jax.passes.build import Value

from ...scattering import scatter_rows
from ..lowering import Lowering
from .registry import primitive

_REDUCTIONS = {
    "scatter": "none",
    "scatter-add": "add",
    "scatter_add": "add",
    "scatter-mul": "mul",
    "scatter_mul": "mul",
    "scatter-max": "max",
    "scatter_max": "max",
    "scatter-min": "min",
    "scatter_min": "min",
}


class _Axes(NamedTuple):
    """Which axis is which in a scatter.

    Attributes:
        written: Axes of x that tuples of indices, or the axes shared with them, say the place of.
        whole: The other axes of x, which updates have in full.
        tuples: Axes of the updates that are of the tuples.
        windows: Axis of the updates for each axis of x that they have.
    """

    written: tuple[int, ...]
    whole: tuple[int, ...]
    tuples: tuple[int, ...]
    windows: dict[int, int]


@primitive(*_REDUCTIONS)
def scatter(
    lowering: Lowering,
    x: Value,
    indices: Value,
    updates: Value,
    *,
    dimension_numbers: Any,
    mode: Any,
    **_: Any,
) -> Value:
    """An array with windows written to the places that tuples of indices name, or combined with what is there.

    Axes that every update has in full stay beside the entries that are written to, so that a batch is one of them.
    """
    if 0 in updates.shape or 0 in x.shape:
        return x
    axes = _axes(x, updates, dimension_numbers)
    if dimension_numbers.operand_batching_dims:
        return _each(lowering, x, indices, updates, axes, dimension_numbers, mode)
    inner = [axes.windows[axis] for axis in axes.whole]
    outer = [axis for axis in range(len(updates.shape)) if axis not in inner]
    cells = _cells(lowering, x, indices, updates, axes, outer, dimension_numbers, mode)
    sizes, kept = ([x.shape[axis] for axis in some] for some in (axes.written, axes.whole))
    rows = lowering.reshape(lowering.transpose(x, (*axes.written, *axes.whole)), (math.prod(sizes), *kept))
    written = lowering.reshape(lowering.transpose(updates, (*outer, *inner)), (math.prod(cells.shape), *kept))
    flat = lowering.reshape(cells, (math.prod(cells.shape),))
    found = scatter_rows(lowering, rows, written, flat, _REDUCTIONS[lowering.primitive])
    order = (*axes.written, *axes.whole)
    return lowering.transpose(
        lowering.reshape(found, (*sizes, *kept)), [order.index(axis) for axis in range(len(order))]
    )


def _each(lowering: Lowering, x: Value, indices: Value, updates: Value, axes: _Axes, numbers: Any, mode: Any) -> Value:
    """The same for each position of the axes that x and the tuples share, each by itself."""
    shared = [*map(int, numbers.operand_batching_dims)]
    own = [axes.tuples[axis] for axis in map(int, numbers.scatter_indices_batching_dims)]
    others = [axis for axis in range(len(x.shape)) if axis not in shared]
    outer = [*own, *(axis for axis in range(len(updates.shape)) if axis not in own)]
    axes = axes._replace(written=tuple(others), whole=())
    cells = _cells(lowering, x, indices, updates, axes, outer, numbers, mode)
    count, size = math.prod(x.shape[axis] for axis in shared), math.prod(x.shape[axis] for axis in others)
    rows = lowering.reshape(lowering.transpose(x, (*shared, *others)), (count, size))
    written = lowering.reshape(lowering.transpose(updates, outer), (count, -(-math.prod(updates.shape) // count)))
    places = lowering.emit("element_cells", lowering.reshape(cells, written.shape), shape=rows.shape, axis=1)
    data, values, flat = (lowering.reshape(each, (math.prod(each.shape),)) for each in (rows, written, places))
    found = scatter_rows(lowering, data, values, flat, _REDUCTIONS[lowering.primitive])
    order = (*shared, *others)
    whole = lowering.reshape(found, [x.shape[axis] for axis in order])
    return lowering.transpose(whole, [order.index(axis) for axis in range(len(order))])


def _axes(x: Value, updates: Value, numbers: Any) -> _Axes:
    gone = {*numbers.inserted_window_dims, *numbers.operand_batching_dims}
    held = [axis for axis in range(len(x.shape)) if axis not in gone]
    windows = dict(zip(held, map(int, numbers.update_window_dims), strict=True))
    named = {*map(int, numbers.scatter_dims_to_operand_dims)}
    whole = tuple(a for a in held if a not in named and updates.shape[windows[a]] == x.shape[a])
    written = tuple(axis for axis in range(len(x.shape)) if axis not in whole)
    tuples = tuple(axis for axis in range(len(updates.shape)) if axis not in windows.values())
    return _Axes(written, whole, tuples, windows)


def _cells(
    lowering: Lowering,
    x: Value,
    indices: Value,
    updates: Value,
    axes: _Axes,
    outer: Sequence[int],
    numbers: Any,
    mode: Any,
) -> Value:
    """Place of each entry of the updates among those written to, in row-major order; past the end for none."""
    shape = tuple(updates.shape[axis] for axis in outer)
    wide = lowering.cast(indices, np.dtype(np.int64))
    last = len(indices.shape) - 1
    named = [*map(int, numbers.scatter_dims_to_operand_dims)]
    total: Value = np.zeros(shape, np.int64)
    outside: Value = np.zeros(shape, np.bool_)
    for place, axis in enumerate(axes.written):
        stride = math.prod(x.shape[each] for each in axes.written[place + 1 :])
        coordinate: Value = np.zeros((1,) * len(shape), np.int64)
        if axis in named:
            k = named.index(axis)
            start = lowering.reshape(lowering.part(wide, last, k, k + 1), indices.shape[:last])
            room = x.shape[axis] - (updates.shape[axes.windows[axis]] if axis in axes.windows else 1)
            if mode == GatherScatterMode.CLIP:
                low = lowering.emit("maximum", start, np.asarray(0))
                start = lowering.emit("minimum", low, np.asarray(room))
            below = lowering.emit("less", start, np.asarray(0))
            wrong = lowering.emit("logical_or", below, lowering.emit("greater", start, np.asarray(room)))
            sizes = [updates.shape[a] if a in axes.tuples else 1 for a in outer]
            coordinate = lowering.reshape(start, sizes)
            outside = lowering.emit("logical_or", outside, lowering.reshape(wrong, sizes))
        if axis in axes.windows:
            own = axes.windows[axis]
            offset = _along(outer.index(own), len(shape), updates.shape[own])
            coordinate = lowering.emit("add", coordinate, offset)
        total = lowering.emit("add", total, lowering.emit("mul", coordinate, np.asarray(stride)))
    beyond = np.asarray(math.prod(x.shape[axis] for axis in axes.written))
    return lowering.emit("where", outside, beyond, total)


def _along(axis: int, rank: int, size: int) -> np.ndarray:
    """Positions along an axis."""
    return np.arange(size).reshape([size if k == axis else 1 for k in range(rank)])
