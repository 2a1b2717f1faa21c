"""Operations of keras.ops that move entries: joined, cut, turned, repeated, picked by position."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from backtrace_jax.errors import UnsupportedError

from .reductions import listed
from .registry import operation
from .tensor import Operand, Tensor, as_array
from .terms import Term, term
from .writer import Writer

_PADS = ("constant", "reflect", "edge", "wrap")


@operation("Flip", "Fliplr", "Flipud")
def flip(writer: Writer, layer: Any, x: Tensor) -> Operand:
    """Entries backwards along axes."""
    chosen = {"Fliplr": 1, "Flipud": 0}.get(type(layer).__name__, getattr(layer, "axis", None))
    value: Operand = x
    for axis in listed(chosen, x.rank):
        value = writer.reverse(value, axis)
    return value


@operation("Roll")
def roll(writer: Writer, layer: Any, x: Tensor) -> Operand:
    """Entries moved along axes, the last ones to the front."""
    if layer.axis is None:
        raise UnsupportedError("rolls all entries of all examples in a row; roll along an axis")
    axes = listed(layer.axis, x.rank)
    shifts = [layer.shift] * len(axes) if isinstance(layer.shift, int) else layer.shift
    value = term(writer, x)
    for axis, shift in zip(axes, shifts, strict=True):
        moved = shift % (x.shape[axis] or 1) if x.shape[axis] else shift
        if moved:
            value = value.sliced(axis, -moved, None).node("Concat", value.sliced(axis, 0, -moved), axis=axis)
    return value.name


@operation("Rot90")
def rotate(writer: Writer, layer: Any, array: Tensor) -> Operand:
    """A plane turned by so many quarters."""
    first, second = listed(layer.axes, array.rank)
    perm = list(range(array.rank))
    perm[first], perm[second] = second, first
    value: Operand = array
    for _ in range(layer.k % 4):
        value = writer.reverse(writer.transpose(value, perm), first)
    return value


@operation("Moveaxis")
def move_axis(writer: Writer, layer: Any, x: Tensor) -> Operand:
    """Axes at other places, the rest in order."""
    source, target = listed(layer.source, x.rank), listed(layer.destination, x.rank)
    perm = [axis for axis in range(x.rank) if axis not in source]
    for place, axis in sorted(zip(target, source, strict=True)):
        perm.insert(place, axis)
    return writer.transpose(x, perm)


@operation("Ravel")
def ravel(writer: Writer, layer: Any, x: Tensor) -> Operand:
    """All entries in a row."""
    return writer.reshape(x, -1)


@operation("BroadcastTo")
def broadcast_to(writer: Writer, layer: Any, x: Tensor) -> Operand:
    """Copies along axes of size 1, and along new ones in front."""
    missing = len(layer.shape) - x.rank
    sizes = [
        writer.size(x, axis - missing, axis - missing + 1) if size is None else writer.integers(int(size))
        for axis, size in enumerate(layer.shape)
    ]
    return writer.emit("Expand", x, writer.emit("Concat", *sizes, axis=0))


@operation("Tile")
def tile(writer: Writer, layer: Any, x: Tensor) -> Operand:
    """The whole value several times along its axes."""
    repeats = [layer.repeats] if isinstance(layer.repeats, int) else list(layer.repeats)
    repeats = [1] * (x.rank - len(repeats)) + repeats
    value = term(writer, x).unsqueezed(*range(len(repeats) - x.rank))
    return value.node("Tile", writer.integers(*repeats)).name


@operation("Repeat")
def repeat(writer: Writer, layer: Any, x: Tensor) -> Operand:
    """Every entry along an axis several times."""
    if layer.axis is None:
        raise UnsupportedError("repeats the entries of all examples in a row; repeat along an axis")
    axis, counts = layer.axis % x.rank, as_array(layer.repeats).reshape(-1)
    size = counts.size if counts.size > 1 else x.shape[axis]
    if size is None:
        raise UnsupportedError(f"repeats entries along axis {axis}, which has no fixed size; repeat along another one")
    return term(writer, x).gathered(np.repeat(np.arange(size), counts), axis).name


@operation("Pad")
def pad(writer: Writer, layer: Any, x: Tensor, constant_values: Any = None) -> Operand:
    """A border: of a number, of what is mirrored, of the outermost entries."""
    if layer.mode not in (*_PADS, "symmetric"):
        raise UnsupportedError(f"pads by mode {layer.mode!r}; there are {', '.join(_PADS)} and symmetric")
    widths = np.broadcast_to(np.asarray(layer.pad_width), (x.rank, 2))
    if layer.mode == "symmetric":
        return _mirrored(term(writer, x), x, widths).name
    pads = writer.constant(widths.T.reshape(-1).astype(np.int64))
    if layer.mode != "constant":
        return writer.emit("Pad", x, pads, mode=layer.mode)
    fill = term(writer, 0 if constant_values is None else constant_values, x.dtype)
    return writer.emit("Pad", x, pads, fill.name)


def _mirrored(value: Term, x: Tensor, widths: np.ndarray) -> Term:
    """A border that repeats the outermost entries as well."""
    for axis, (low, high) in enumerate(widths.tolist()):
        if low or high:
            size = x.shape[axis]
            if size is None:
                raise UnsupportedError(f"mirrors axis {axis}, which has no fixed size; pad another axis")
            value = value.gathered(np.pad(np.arange(size), (low, high), "symmetric"), axis)
    return value


@operation("Take")
def take(writer: Writer, layer: Any, x: Any, indices: Any) -> Operand:
    """Entries along an axis by position; all entries in a row if none is given."""
    value, axis = term(writer, x), layer.axis
    if axis is None:
        value, axis = value.reshaped(-1), 0
    places = indices if isinstance(indices, Tensor) else as_array(indices)
    if isinstance(places, Tensor):
        places = term(writer, places)
        places = places if places.dtype in ("int32", "int64") else places.cast("int32")
        return value.node("Gather", places, axis=axis).name
    return value.gathered(places, axis).name


@operation("TakeAlongAxis")
def take_along_axis(writer: Writer, layer: Any, x: Any, indices: Any) -> Operand:
    """Entry by entry along an axis by position."""
    value, places = term(writer, x), term(writer, indices)
    places = places if places.dtype in ("int32", "int64") else places.cast("int64")
    if layer.axis is None:
        return value.reshaped(-1).node("GatherElements", places.reshaped(-1), axis=0).name
    axis = layer.axis % len(x.shape)
    rank = len(x.shape)
    read = _like(value, places, axis, rank)
    return read.node("GatherElements", _like(places, value, axis, rank), axis=axis).name


def _like(value: Term, other: Term, axis: int, rank: int) -> Term:
    """Copies along all axes but one, as far as the other value reaches."""
    writer = value.writer
    sizes = []
    for place in range(rank):
        own = writer.size(value.name, place, place + 1)
        wider = writer.emit("Max", own, writer.size(other.name, place, place + 1))
        sizes.append(own if place == axis else wider)
    return value.node("Expand", writer.emit("Concat", *sizes, axis=0))


@operation("Rearrange")
def rearrange(writer: Writer, layer: Any, tensor: Tensor, pattern: str, **axes_lengths: int) -> Operand:
    """Axes taken apart, moved and joined as a pattern says (einops)."""
    given, wanted = (re.findall(r"\(.*?\)|\w+", side) for side in pattern.split("->"))
    groups = [re.findall(r"\w+", each) for each in given]
    sizes: list[int | str] = []
    for axis, group in enumerate(groups):
        unknown = [name for name in group if name not in axes_lengths]
        whole = writer.size(tensor, axis, axis + 1)
        known = math.prod(axes_lengths[name] for name in group if name in axes_lengths)
        rest = whole if known == 1 else writer.emit("Div", whole, writer.integers(known))
        sizes += [rest if name in unknown else axes_lengths[name] for name in group]
    names = [name for group in groups for name in group]
    value = term(writer, tensor).reshaped(*sizes)
    targets = [re.findall(r"\w+", each) for each in wanted]
    order = [names.index(name) for group in targets for name in group]
    moved, place, shape = value.transposed(order), 0, []
    for group in targets:
        ends = [writer.size(moved.name, place + i, place + i + 1) for i in range(len(group))]
        size: str = ends[0] if ends else writer.integers(1)
        for end in ends[1:]:
            size = writer.emit("Mul", size, end)
        shape.append(size)
        place += len(group)
    return moved.reshaped(*shape).name


@operation("Slice")
def slice_(writer: Writer, layer: Any, inputs: Tensor, start_indices: Any) -> Operand:
    """A part of a known shape from a position on, moved back where it would reach beyond the end."""
    sizes = writer.size(inputs, 0)
    given = [writer.size(inputs, axis, axis + 1) if size in (None, -1) else writer.integers(int(size))
             for axis, size in enumerate(layer.shape)]  # fmt: skip
    parts = Term(writer, writer.emit("Concat", *given, axis=0), "int64")
    latest = Term(writer, sizes, "int64") - parts
    starts = term(writer, start_indices, "int64").node("Min", latest).node("Max", 0)
    return writer.emit("Slice", inputs, starts.name, (starts + parts).name)


@operation("DepthToSpace", "SpaceToDepth")
def blocks(writer: Writer, layer: Any, x: Tensor) -> Operand:
    """Channels spread over blocks of space, or the other way round; with channels first they are the outer part."""
    size, last = layer.block_size, layer.data_format == "channels_last"
    value = term(writer, x).transposed((0, 3, 1, 2)) if last else term(writer, x)
    if type(layer).__name__ == "DepthToSpace":
        result = value.node("DepthToSpace", blocksize=size, mode="DCR" if last else "CRD")
    else:
        result = value.node("SpaceToDepth", blocksize=size)
        channels = x.shape[1]
        if not last and channels is not None:
            places = np.arange(channels * size**2).reshape(size**2, channels).T.reshape(-1)
            result = result.gathered(places, 1)
    return (result.transposed((0, 2, 3, 1)) if last else result).name
