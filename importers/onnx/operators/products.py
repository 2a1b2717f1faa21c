"""Products of many entries: over axes, and running along one.

Both are trees of products of two values, so that every mode explains them by its rule for products; a factor among n
is log2(n) products deep, and the shares of all of them are alike where n is a power of two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from .axes import from_front
from .registry import operator


def _part(lowering: Lowering, value: Value, axis: int, low: int, high: int) -> Value:
    """The positions from `low` up to `high` along an axis."""
    if (low, high) == (0, value.shape[axis]):
        return value
    start = tuple(low if k == axis else 0 for k in range(len(value.shape)))
    limit = tuple(high if k == axis else size for k, size in enumerate(value.shape))
    return lowering.emit("slice", value, start=start, limit=limit, stride=(1,) * len(limit))


def product_over(lowering: Lowering, data: Value, axes: Sequence[int], keepdims: bool) -> Value:
    """Product over axes, half with half; 1 where there are no entries."""
    kept = tuple(axis for axis in range(len(data.shape)) if axis not in axes)
    shape = tuple(1 if axis in axes else size for axis, size in enumerate(data.shape) if axis in kept or keepdims)
    count = math.prod(data.shape[axis] for axis in axes)
    if count == 0:
        return np.ones(shape, data.dtype)
    ordered = lowering.transpose(data, (*kept, *axes))
    rows = lowering.reshape(ordered, (*(data.shape[axis] for axis in kept), count))
    return lowering.reshape(_folded(lowering, rows), shape)


def _folded(lowering: Lowering, rows: Value) -> Value:
    """Product along the last axis, which keeps one entry; an odd one out waits for the next round."""
    axis = len(rows.shape) - 1
    while (count := rows.shape[axis]) > 1:
        half = count // 2
        halves = (_part(lowering, rows, axis, low, low + half) for low in (0, half))
        product = lowering.emit("mul", *halves)
        left = [_part(lowering, rows, axis, 2 * half, count)] if count % 2 else []
        rows = lowering.emit("concat", product, *left, axis=axis) if left else product
    return rows


@operator("CumProd", since=26)
def cumulative_product(lowering: Lowering, x: Value, axis: Value, *, exclusive: int = 0, reverse: int = 0) -> Value:
    """Running product along an axis: each step doubles how many entries every position has multiplied."""
    (along,) = lowering.integers(axis, "the axis to multiply along")
    along, rank = from_front(along, len(x.shape)), len(x.shape)
    result, count, reach = lowering.emit("reverse", x, axes=(along,)) if reverse else x, x.shape[along], 1
    while reach < count:
        first, others = (_part(lowering, result, along, *span) for span in ((0, reach), (reach, count)))
        product = lowering.emit("mul", others, _part(lowering, result, along, 0, count - reach))
        result, reach = lowering.emit("concat", first, product, axis=along), 2 * reach
    if exclusive:
        low = tuple(int(k == along) for k in range(rank))
        result = lowering.emit("pad", result, np.ones((), x.dtype), low=low, high=tuple(-n for n in low))
    return lowering.emit("reverse", result, axes=(along,)) if reverse else result
