"""Operators that pick entries: slices, splits, borders, gathers, conditions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Literal

import numpy as np

from backtrace_jax.errors import ModelError, UnsupportedError
from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from .axes import each_from_front, from_front
from .registry import operator


def _slice(lowering: Lowering, data: Value, ranges: dict[int, range]) -> Value:
    """Positions along some axes; a range that runs backwards is a slice in reverse order."""
    full = [ranges.get(axis, range(size)) for axis, size in enumerate(data.shape)]
    if full == [range(size) for size in data.shape]:
        return data
    backwards = tuple(axis for axis, span in enumerate(full) if span.step < 0)
    forwards = [span[::-1] if span.step < 0 else span for span in full]
    bounds = [(span.start, span[-1] + 1, span.step) if span else (0, 0, 1) for span in forwards]
    start, limit, stride = (tuple(column) for column in zip(*bounds, strict=True))
    part = lowering.emit("slice", data, start=start, limit=limit, stride=stride)
    return lowering.emit("reverse", part, axes=backwards) if backwards else part


@operator("Slice", since=10)
def slice_(
    lowering: Lowering,
    data: Value,
    starts: Value,
    ends: Value,
    axes: Value | None = None,
    steps: Value | None = None,
) -> Value:
    """Positions from `starts` to `ends` by `steps`, as Python slices them."""
    begins, stops = (lowering.integers(operand, "where to slice") for operand in (starts, ends))
    along = range(len(begins)) if axes is None else lowering.integers(axes, "the axes to slice")
    strides = (1,) * len(begins) if steps is None else lowering.integers(steps, "the steps of the slice")
    ranges = {}
    for axis, begin, stop, stride in zip(each_from_front(along, len(data.shape)), begins, stops, strides, strict=True):
        ranges[axis] = range(data.shape[axis])[slice(begin, stop, stride)]
    return _slice(lowering, data, ranges)


@operator("Slice", since=1)
def slice_1(
    lowering: Lowering, data: Value, *, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int] | None = None
) -> Value:
    """Before opset 10 everything is an attribute."""
    return slice_(lowering, data, np.asarray(starts), np.asarray(ends), None if axes is None else np.asarray(axes))


def _split(lowering: Lowering, data: Value, axis: int, sizes: Sequence[int]) -> tuple[Value, ...]:
    axis = from_front(axis, len(data.shape))
    if sum(sizes) != data.shape[axis] or min(sizes, default=0) < 0:
        raise ModelError(f"parts of sizes {tuple(sizes)} do not add up to {data.shape[axis]}")
    edges = pairwise(accumulate(sizes, initial=0))
    return tuple(_slice(lowering, data, {axis: range(low, high)}) for low, high in edges)


def _equal_parts(lowering: Lowering, data: Value, axis: int, count: int | None) -> list[int]:
    """Sizes of as many parts as asked for, or as the node has results; alike but the last, which may be smaller."""
    size, count = data.shape[from_front(axis, len(data.shape))], count or lowering.result_count
    part = -(-size // count)
    if not 0 < count <= max(size, 1):
        raise ModelError(f"an axis of size {size} cannot be split into {count} parts")
    return [part] * (count - 1) + [size - part * (count - 1)]


@operator("Split", since=13)
def split(
    lowering: Lowering, input: Value, split: Value | None = None, *, axis: int = 0, num_outputs: int | None = None
) -> tuple[Value, ...]:
    """Parts of given sizes, or as equal as can be."""
    if split is not None:
        return _split(lowering, input, axis, lowering.integers(split, "the sizes of the parts"))
    return _split(lowering, input, axis, _equal_parts(lowering, input, axis, num_outputs))


@operator("Split", since=1)
def split_1(
    lowering: Lowering, input: Value, sizes: Value | None = None, *, axis: int = 0, split: Sequence[int] | None = None
) -> tuple[Value, ...]:
    """Before opset 13 the sizes are an attribute (at opset 1 also an operand)."""
    given = split or (None if sizes is None else lowering.integers(sizes, "the sizes of the parts"))
    return _split(lowering, input, axis, given or _equal_parts(lowering, input, axis, None))


@operator("Pad", since=11)
def pad(
    lowering: Lowering,
    data: Value,
    pads: Value,
    constant_value: Value | None = None,
    axes: Value | None = None,
    *,
    mode: str = "constant",
) -> Value:
    """A border around the value; negative sizes cut off."""
    sizes, rank = lowering.integers(pads, "the sizes of the border"), len(data.shape)
    along = range(rank) if axes is None else lowering.integers(axes, "the axes to pad")
    borders = [(0, 0)] * rank
    for axis, low, high in zip(along, sizes[: len(along)], sizes[len(along) :], strict=True):
        borders[axis] = (low, high)
    if mode == "constant":
        return _constant_border(lowering, data, borders, constant_value)
    return _copied_border(lowering, data, borders, mode)


@operator("Pad", since=2)
def pad_2(lowering: Lowering, data: Value, *, mode: str = "constant", pads: Sequence[int], value: float = 0.0) -> Value:
    """Before opset 11 everything is an attribute."""
    return pad(lowering, data, np.asarray(pads), np.asarray(value).astype(data.dtype), mode=mode)


@operator("Pad", since=1)
def pad_1(
    lowering: Lowering, data: Value, *, mode: str = "constant", paddings: Sequence[int], value: float = 0.0
) -> Value:
    """At opset 1 the sizes are called otherwise."""
    return pad_2(lowering, data, mode=mode, pads=paddings, value=value)


def _constant_border(lowering: Lowering, data: Value, borders: Sequence[tuple[int, int]], fill: Value | None) -> Value:
    if not any(map(any, borders)):
        return data
    scalar = np.zeros((), data.dtype) if fill is None else lowering.reshape(fill, ())
    low, high = (tuple(column) for column in zip(*borders, strict=True))
    return lowering.emit("pad", data, scalar, low=low, high=high)


_COPIED: tuple[Literal["reflect", "edge", "wrap"], ...] = ("reflect", "edge", "wrap")


def _copied_border(lowering: Lowering, data: Value, borders: Sequence[tuple[int, int]], mode: str) -> Value:
    """A border of copied entries: the positions to copy are known, axis by axis."""
    if mode not in _COPIED:
        raise UnsupportedError(f"padding mode {mode!r}; implemented are constant, {', '.join(_COPIED)}")
    for axis, (low, high) in enumerate(borders):
        if low or high:
            size = data.shape[axis]
            lowering.limits.check_known((size + max(low, 0) + max(high, 0),), np.int64)
            positions = np.pad(np.arange(max(-low, 0), size + min(high, 0)), (max(low, 0), max(high, 0)), mode)
            data = lowering.emit("gather", data, positions, axis=axis)
    return data


@operator("Gather")
def gather(lowering: Lowering, data: Value, indices: Value, *, axis: int = 0) -> Value:
    """Entries along an axis by index; one known index is a slice."""
    axis = from_front(axis, len(data.shape))
    check_range(indices, data.shape[axis])
    if isinstance(indices, np.ndarray) and indices.size == 1:
        index = int(indices.item()) % data.shape[axis]
        part = _slice(lowering, data, {axis: range(index, index + 1)})
        return lowering.reshape(part, data.shape[:axis] + indices.shape + data.shape[axis + 1 :])
    return lowering.emit("gather", data, indices, axis=axis)


@operator("GatherElements")
def gather_elements(lowering: Lowering, data: Value, indices: Value, *, axis: int = 0) -> Value:
    """Entry by entry along one axis."""
    axis = from_front(axis, len(data.shape))
    check_range(indices, data.shape[axis])
    return lowering.emit("gather_elements", data, indices, axis=axis)


@operator("GatherND")
def gather_nd(lowering: Lowering, data: Value, indices: Value, *, batch_dims: int = 0) -> Value:
    """Parts by tuples of indices, after `batch_dims` shared leading axes."""
    for column in range(indices.shape[-1]):
        known = indices[..., column] if isinstance(indices, np.ndarray) else indices
        check_range(known, data.shape[batch_dims + column])
    return lowering.emit("gather_nd", data, indices, batch_dims=batch_dims)


def check_range(indices: Value, size: int) -> None:
    """Refuse known indices that reach beyond an axis."""
    if isinstance(indices, np.ndarray) and ((indices < -size) | (indices >= size)).any():
        raise ModelError(f"indices from {indices.min()} to {indices.max()} reach beyond an axis of size {size}")


@operator("Where")
def where(lowering: Lowering, condition: Value, X: Value, Y: Value) -> Value:
    """X where the condition holds, Y elsewhere."""
    return lowering.emit("where", condition, X, Y)


@operator("Trilu")
def triangle(lowering: Lowering, input: Value, k: Value | None = None, *, upper: int = 1) -> Value:
    """The part of each matrix above or below a diagonal; the rest is 0."""
    diagonal = 0 if k is None else int(lowering.known(k, "the diagonal").item())
    ones = np.ones(input.shape[-2:], np.bool_)
    kept = np.triu(ones, diagonal) if upper else np.tril(ones, diagonal)
    return lowering.emit("where", kept, input, np.zeros((), input.dtype))


@operator("OneHot")
def one_hot(lowering: Lowering, indices: Value, depth: Value, values: Value, *, axis: int = -1) -> Value:
    """`values[1]` at each index along a new axis, `values[0]` elsewhere; negative indices count from the end."""
    count = int(lowering.known(depth, "the depth of the one-hot axis").item())
    rank = len(indices.shape) + 1
    axis = from_front(axis, rank)
    lowering.limits.check((*indices.shape, count), values.dtype)
    whole = lowering.cast(indices, np.dtype(np.int64))
    column = lowering.reshape(whole, (*indices.shape[:axis], 1, *indices.shape[axis:]))
    negative = lowering.emit("less", column, np.asarray(0))
    turned = lowering.emit("where", negative, lowering.emit("add", column, np.asarray(count)), column)
    classes = np.arange(count).reshape((count,) + (1,) * (rank - 1 - axis))
    off, on = (gather(lowering, values, np.asarray(position)) for position in (0, 1))
    return lowering.emit("where", lowering.emit("equal", turned, classes), on, off)


@operator("ReverseSequence", since=10)
def reverse_sequence(
    lowering: Lowering, input: Value, sequence_lens: Value, *, batch_axis: int = 1, time_axis: int = 0
) -> Value:
    """The first steps of each sequence, as many as its length says, in reverse order; the steps after them stay."""
    rank, lengths = len(input.shape), lowering.cast(sequence_lens, np.dtype(np.int64))
    batch_axis, time_axis = from_front(batch_axis, rank), from_front(time_axis, rank)
    sizes = [size if axis == time_axis else 1 for axis, size in enumerate(input.shape)]
    time = np.arange(input.shape[time_axis]).reshape(sizes)
    ends = lowering.reshape(lengths, [size if axis == batch_axis else 1 for axis, size in enumerate(input.shape)])
    mirrored = lowering.emit("sub", lowering.emit("sub", ends, np.asarray(1)), time)
    positions = lowering.emit("where", lowering.emit("less", time, ends), mirrored, time)
    indices = lowering.emit("expand", positions, shape=input.shape)
    return lowering.emit("gather_elements", input, indices, axis=time_axis)
