"""Primitives that move entries: shapes, axes, copies, pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from .registry import primitive


@primitive("reshape")
def reshape(lowering: Lowering, x: Value, *, new_sizes: Sequence[int], **_: Any) -> Value:
    """The same entries in another shape."""
    return lowering.reshape(x, new_sizes)


@primitive("squeeze")
def squeeze(lowering: Lowering, x: Value, *, dimensions: Sequence[int]) -> Value:
    """Without some axes of size 1."""
    return lowering.squeeze(x, tuple(dimensions))


@primitive("expand_dims")
def expand_dims(lowering: Lowering, x: Value, *, dimensions: Sequence[int]) -> Value:
    """With new axes of size 1."""
    sizes, rank = iter(x.shape), len(x.shape) + len(dimensions)
    return lowering.reshape(x, [1 if axis in dimensions else next(sizes) for axis in range(rank)])


@primitive("transpose")
def transpose(lowering: Lowering, x: Value, *, permutation: Sequence[int]) -> Value:
    """Axes in another order."""
    return lowering.transpose(x, permutation)


@primitive("broadcast_in_dim")
def broadcast(
    lowering: Lowering, x: Value, *_: Value, shape: Sequence[int], broadcast_dimensions: Sequence[int], **__: Any
) -> Value:
    """Copies along new axes, and along axes of size 1."""
    placed = dict(zip(broadcast_dimensions, x.shape, strict=True))
    spread = lowering.reshape(x, [placed.get(axis, 1) for axis in range(len(shape))])
    return spread if spread.shape == tuple(shape) else lowering.emit("expand", spread, shape=tuple(shape))


@primitive("slice")
def slice_(
    lowering: Lowering,
    x: Value,
    *,
    start_indices: Sequence[int],
    limit_indices: Sequence[int],
    strides: Sequence[int] | None,
) -> Value:
    """A regular part of an array."""
    stride = tuple(strides or (1,) * len(x.shape))
    return lowering.emit("slice", x, start=tuple(start_indices), limit=tuple(limit_indices), stride=stride)


@primitive("rev")
def reverse(lowering: Lowering, x: Value, *, dimensions: Sequence[int]) -> Value:
    """Entries in reverse order along axes."""
    return lowering.emit("reverse", x, axes=tuple(dimensions))


@primitive("concatenate")
def concatenate(lowering: Lowering, *operands: Value, dimension: int) -> Value:
    """Arrays one after the other."""
    return lowering.emit("concat", *operands, axis=dimension)


@primitive("stack")
def stack(lowering: Lowering, *operands: Value, axis: int) -> Value:
    """Arrays side by side along a new axis."""
    return lowering.stack(operands, axis)


@primitive("unstack")
def unstack(lowering: Lowering, x: Value, *, axis: int) -> list[Value]:
    """The entries along an axis, without it."""
    shape = [size for k, size in enumerate(x.shape) if k != axis]
    return [lowering.reshape(lowering.part(x, axis, k, k + 1), shape) for k in range(x.shape[axis])]


@primitive("tile")
def tile(lowering: Lowering, x: Value, *, reps: Sequence[int]) -> Value:
    """Copies one after the other along every axis."""
    split = lowering.reshape(x, [size for each in x.shape for size in (1, each)])
    pairs = [size for pair in zip(reps, x.shape, strict=True) for size in pair]
    copies = split if split.shape == tuple(pairs) else lowering.emit("expand", split, shape=tuple(pairs))
    return lowering.reshape(copies, [count * size for count, size in zip(reps, x.shape, strict=True)])


@primitive("split")
def split(lowering: Lowering, x: Value, *, sizes: Sequence[int], axis: int) -> list[Value]:
    """An array cut into pieces along an axis."""
    ends = np.cumsum(sizes).tolist()
    return [lowering.part(x, axis, end - size, end) for size, end in zip(sizes, ends, strict=True)]


@primitive("iota")
def iota(lowering: Lowering, *, dtype: Any, shape: Sequence[int], dimension: int, **_: Any) -> Value:
    """Positions along an axis."""
    along = [-1 if axis == dimension else 1 for axis in range(len(shape))]
    return np.broadcast_to(np.arange(shape[dimension]).astype(dtype).reshape(along), tuple(shape))


@primitive("pad")
def pad(lowering: Lowering, x: Value, fill: Value, *, padding_config: Sequence[tuple[int, int, int]]) -> Value:
    """A border, and the same value between entries; negative sizes cut off."""
    for axis, (_, _, between) in enumerate(padding_config):
        x = interspersed(lowering, x, fill, axis, between)
    low, high = (tuple(border[side] for border in padding_config) for side in (0, 1))
    return lowering.emit("pad", x, fill, low=low, high=high) if any((*low, *high)) else x


def interspersed(lowering: Lowering, x: Value, fill: Value, axis: int, between: int) -> Value:
    """An array with a value between the entries along an axis."""
    shape, count = x.shape, x.shape[axis]
    if not between or not count:
        return x
    split = lowering.reshape(x, (*shape[: axis + 1], 1, *shape[axis + 1 :]))
    none = (0,) * (len(shape) + 1)
    filled = lowering.emit("pad", split, fill, low=none, high=(*none[: axis + 1], between, *none[axis + 2 :]))
    joined = lowering.reshape(filled, (*shape[:axis], count * (1 + between), *shape[axis + 1 :]))
    return lowering.part(joined, axis, 0, count + (count - 1) * between)
