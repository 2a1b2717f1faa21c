"""Products of many entries, and what runs along an axis.

Both are trees of operations of two values, so that every mode explains them by its rule for these; a factor among n is
log2(n) products deep, and the shares of all of them are alike where n is a power of two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from backtrace_jax.passes.build import Builder, Value


def product_over(builder: Builder, data: Value, axes: Sequence[int], keepdims: bool) -> Value:
    """Product over axes, half with half; 1 where there are no entries."""
    kept = tuple(axis for axis in range(len(data.shape)) if axis not in axes)
    shape = tuple(1 if axis in axes else size for axis, size in enumerate(data.shape) if axis in kept or keepdims)
    count = math.prod(data.shape[axis] for axis in axes)
    if count == 0:
        return np.ones(shape, data.dtype)
    ordered = builder.transpose(data, (*kept, *axes))
    rows = builder.reshape(ordered, (*(data.shape[axis] for axis in kept), count))
    return builder.reshape(_folded(builder, rows), shape)


def _folded(builder: Builder, rows: Value) -> Value:
    """Product along the last axis, which keeps one entry; an odd one out waits for the next round."""
    axis = len(rows.shape) - 1
    while (count := rows.shape[axis]) > 1:
        half = count // 2
        halves = (builder.part(rows, axis, low, low + half) for low in (0, half))
        product = builder.emit("mul", *halves)
        left = [builder.part(rows, axis, 2 * half, count)] if count % 2 else []
        rows = builder.emit("concat", product, *left, axis=axis) if left else product
    return rows


def running(builder: Builder, op: str, x: Value, axis: int, *, reverse: bool = False) -> Value:
    """An operation of two operands running along an axis: each step doubles how many entries every position has."""
    result, count, reach = builder.emit("reverse", x, axes=(axis,)) if reverse else x, x.shape[axis], 1
    while reach < count:
        first, others = (builder.part(result, axis, *span) for span in ((0, reach), (reach, count)))
        joined = builder.emit(op, others, builder.part(result, axis, 0, count - reach))
        result, reach = builder.emit("concat", first, joined, axis=axis), 2 * reach
    return builder.emit("reverse", result, axes=(axis,)) if reverse else result
