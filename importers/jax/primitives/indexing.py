"""Primitives that read entries at places that may be computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.lax import GatherScatterMode

from backtrace_jax.errors import UnsupportedError
from backtrace_jax.ir import Eqn, Var
from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from .registry import primitive


class _Numbers(NamedTuple):
    """Which axis is which in a gather.

    Attributes:
        indexed: Axis of x that each index of a tuple is for.
        shared: Axes of x that the tuples have as well.
        batch: The same axes of the tuples.
        collapsed: Axes of x that the result does not have.
        offset: Axes of the result that are of x.
    """

    indexed: tuple[int, ...]
    shared: tuple[int, ...]
    batch: tuple[int, ...]
    collapsed: tuple[int, ...]
    offset: tuple[int, ...]

    @classmethod
    def of(cls, numbers: Any) -> _Numbers:
        """From JAX's own, in which some are NumPy's."""
        names = ("start_index_map", "operand_batching_dims", "start_indices_batching_dims", "collapsed_slice_dims")
        return cls(*(tuple(map(int, getattr(numbers, name))) for name in (*names, "offset_dims")))


@primitive("gather")
def gather(
    lowering: Lowering,
    x: Value,
    indices: Value,
    *,
    dimension_numbers: Any,
    slice_sizes: Sequence[int],
    mode: Any,
    fill_value: Any = None,
    **_: Any,
) -> Value:
    """Windows of x at tuples of indices, which are the last axis of `indices`.

    A window of several entries along an axis is read as so many tuples. What is read has the axes that x and the
    tuples share, then those of the tuples and of the windows, then the others of x.
    """
    if not (fill_value is None or np.isnan(fill_value)) and isinstance(indices, Var):
        raise UnsupportedError(f"an index out of range reads {fill_value}; only NaN is read there")
    numbers = _Numbers.of(dimension_numbers)
    columns = {axis: _column(lowering, indices, k) for k, axis in enumerate(numbers.indexed)}
    windows = {axis: slice_sizes[axis] for axis in columns}
    for axis, size in windows.items():
        if size == x.shape[axis] and (mode != GatherScatterMode.FILL_OR_DROP or _is_zero(columns[axis])):
            del columns[axis]  # all of it is read
    others = tuple(axis for axis in range(len(x.shape)) if axis not in (*columns, *numbers.shared))
    for axis in others:
        x = lowering.part(x, axis, 0, slice_sizes[axis])
    tuples = (*numbers.batch, *(axis for axis in range(len(indices.shape) - 1) if axis not in numbers.batch))
    read = []
    for k, (axis, column) in enumerate(columns.items()):
        first = _bounded(lowering, column, x.shape[axis], windows[axis], mode)
        read.append(_windows(lowering, lowering.transpose(first, tuples), k, [windows[each] for each in columns]))
    found = _read(lowering, x, read, numbers.shared, (*columns,), others) if columns else x
    held = [*(("tuple", axis) for axis in tuples if columns), *(("x", axis) for axis in (*columns, *others))]
    return _placed(lowering, found, held, numbers)


def _column(lowering: Lowering, indices: Value, k: int) -> Value:
    """An index of all tuples; where they were put together, the one that was put in."""
    last = len(indices.shape) - 1
    maker = lowering.maker(indices)
    if (
        maker is not None
        and maker.op == "concat"
        and maker.params["axis"] == last
        and len(maker.invars) == indices.shape[last]
    ):
        indices, k = lowering.held(maker.invars[k]), 0
    return lowering.reshape(lowering.part(indices, last, k, k + 1), indices.shape[:last])


def _is_zero(index: Value) -> bool:
    return isinstance(index, np.ndarray) and not index.any()


def _bounded(lowering: Lowering, first: Value, size: int, window: int, mode: Any) -> Value:
    """Where windows begin, in range or beyond the end, which reads NaN; a gather of ours counts negative ones back."""
    if mode == GatherScatterMode.CLIP:
        zero, most = (np.asarray(each, first.dtype) for each in (0, size - window))
        return lowering.emit("minimum", lowering.emit("maximum", first, zero), most)
    if window == 1 and (plain := _as_given(lowering, first, size)) is not None:
        return plain
    if mode == GatherScatterMode.PROMISE_IN_BOUNDS:
        return first
    zero, most, outside = (np.asarray(each, first.dtype) for each in (0, size - window, size))
    wrong = lowering.emit("logical_or", lowering.emit("less", first, zero), lowering.emit("greater", first, most))
    return lowering.emit("where", wrong, outside, first)


def _as_given(lowering: Lowering, index: Value, size: int) -> Value | None:
    """The index before JAX counted negative ones from the end, which gathers do themselves: i of i + size if i < 0."""
    shape, chosen = index.shape, _unshaped(lowering, index)
    if chosen is None or chosen.op != "where":
        return None
    condition, counted, given = chosen.invars
    below, sum_ = lowering.maker(condition), lowering.maker(counted)
    if below is None or sum_ is None or (below.op, sum_.op) != ("less", "add"):
        return None
    if below.invars[0] != given or sum_.invars[0] != given:
        return None
    zero, length = lowering.held(below.invars[1]), lowering.held(sum_.invars[1])
    same = all(isinstance(each, np.ndarray) and (each == value).all() for each, value in ((zero, 0), (length, size)))
    return lowering.reshape(lowering.held(given), shape) if same else None


def _unshaped(lowering: Lowering, value: Value) -> Eqn | None:
    """What made the entries of a value, shapes aside."""
    maker = lowering.maker(value)
    while maker is not None and maker.op == "reshape":
        maker = lowering.maker(maker.invars[0])
    return maker


def _windows(lowering: Lowering, first: Value, k: int, windows: Sequence[int]) -> Value:
    """Indices of the entries of windows, with an axis of their own for each index: the k-th one moves here."""
    spread = [1] * len(first.shape) + [size if i == k else 1 for i, size in enumerate(windows)]
    index = lowering.reshape(first, (*first.shape, *(1 for _ in windows)))
    if windows[k] == 1:
        return index
    return lowering.emit("add", index, np.arange(windows[k]).astype(first.dtype).reshape(spread))


def _read(
    lowering: Lowering,
    x: Value,
    columns: Sequence[Value],
    shared: Sequence[int],
    indexed: Sequence[int],
    others: Sequence[int],
) -> Value:
    """Entries of x, the axes of the indices in front of the others of x."""
    if len(indexed) == 1 and not shared:
        (axis,), (index,) = indexed, columns
        found = lowering.emit("gather", x, index, axis=axis)
        own = range(axis, axis + len(index.shape))
        return lowering.transpose(found, (*own, *(k for k in range(len(found.shape)) if k not in own)))
    x = lowering.transpose(x, (*shared, *indexed, *others))
    if len(indexed) == 1 and not others:
        (index,) = columns
        rows = lowering.reshape(index, (*index.shape[: len(shared)], -1 if 0 in index.shape else _rest(index, shared)))
        return lowering.reshape(lowering.emit("gather_elements", x, rows, axis=len(shared)), index.shape)
    shape = np.broadcast_shapes(*(column.shape for column in columns))
    whole = [column if column.shape == shape else lowering.emit("expand", column, shape=shape) for column in columns]
    tuples = [lowering.reshape(column, (*shape, 1)) for column in whole]
    index = tuples[0] if len(tuples) == 1 else lowering.emit("concat", *tuples, axis=len(shape))
    return lowering.emit("gather_nd", x, index, batch_dims=len(shared))


def _rest(index: Value, shared: Sequence[int]) -> int:
    return int(np.prod(index.shape[len(shared) :], dtype=np.int64))


def _placed(lowering: Lowering, found: Value, held: Sequence[tuple[str, int]], numbers: _Numbers) -> Value:
    """What was read, its axes in the order in which JAX has them."""
    kept = [name for name in held if name not in [("x", axis) for axis in numbers.collapsed]]
    found = lowering.reshape(found, [size for name, size in zip(held, found.shape, strict=True) if name in kept])
    windows = iter(sorted(name for name in kept if name[0] == "x"))
    places = iter(sorted(name for name in kept if name[0] == "tuple"))
    wanted = [next(windows if axis in numbers.offset else places) for axis in range(len(kept))]
    return lowering.transpose(found, [kept.index(name) for name in wanted])


@primitive("dynamic_slice")
def dynamic_slice(lowering: Lowering, x: Value, *starts: Value, slice_sizes: Sequence[int]) -> Value:
    """A part of an array whose place may be computed, moved to lie inside."""
    for axis, (start, size) in enumerate(zip(starts, slice_sizes, strict=True)):
        most = x.shape[axis] - size
        if isinstance(start, np.ndarray):
            low = int(np.clip(start, 0, most))
            x = lowering.part(x, axis, low, low + size)
        elif most:
            first = _bounded(lowering, start, x.shape[axis], size, GatherScatterMode.CLIP)
            x = lowering.emit("gather", x, _windows(lowering, first, 0, [size]), axis=axis)
    return x


@primitive("dynamic_update_slice")
def dynamic_update_slice(lowering: Lowering, x: Value, update: Value, *starts: Value) -> Value:
    """An array in which a part is another one's."""
    known = [start for start in starts if isinstance(start, np.ndarray)]
    if len(known) < len(starts):
        raise UnsupportedError("where an array is written to depends on the inputs")
    most = [size - own for size, own in zip(x.shape, update.shape, strict=True)]
    low = tuple(int(np.clip(start, 0, room)) for start, room in zip(known, most, strict=True))
    high = tuple(room - before for room, before in zip(most, low, strict=True))
    written = np.zeros(x.shape, np.bool_)
    written[tuple(slice(start, start + size) for start, size in zip(low, update.shape, strict=True))] = True
    spread = lowering.emit("pad", update, np.zeros((), x.dtype), low=low, high=high)
    return spread if written.all() else lowering.emit("where", written, spread, x)
