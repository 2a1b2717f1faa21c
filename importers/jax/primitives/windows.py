"""Primitives that reduce windows: pools, whatever axes they slide along."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from backtrace_jax.errors import UnsupportedError
from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from .registry import primitive


@primitive("reduce_window_max", "reduce_window_min", "reduce_window_sum")
def reduce_window(
    lowering: Lowering,
    x: Value,
    *,
    window_dimensions: Sequence[int],
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    base_dilation: Sequence[int],
    window_dilation: Sequence[int],
) -> Value:
    """Largest entry, smallest entry or sum of each window; a sum is the mean times the number of entries."""
    if any(step != 1 for step in base_dilation):
        raise UnsupportedError("windows over an input with gaps between its entries")
    settings = [*zip(window_dimensions, window_strides, padding, window_dilation, strict=True)]
    slid = [axis for axis, (size, stride, border, _) in enumerate(settings) if (size, stride, *border) != (1, 1, 0, 0)]
    if not slid:
        return x
    still = [axis for axis in range(len(x.shape)) if axis not in slid]
    if len(still) < 1 or still[0] != 0:
        raise UnsupportedError("windows over the axis of the batch")
    names = ("window", "strides", "padding", "dilation")
    geometry: dict[str, Any] = dict(zip(names, zip(*(settings[axis] for axis in slid), strict=True), strict=True))
    geometry["padding"] = tuple(map(tuple, geometry["padding"]))
    order = [*still, *slid]
    moved = lowering.transpose(x, order)
    kept = moved.shape[: len(still)]
    pooled = _pooled(
        lowering, lowering.reshape(moved, (kept[0], math.prod(kept[1:]), *moved.shape[len(still) :])), geometry
    )
    back = lowering.reshape(pooled, (*kept, *pooled.shape[2:]))
    return lowering.transpose(back, [order.index(axis) for axis in range(len(order))])


def _pooled(lowering: Lowering, x: Value, geometry: dict[str, Any]) -> Value:
    """Windows over all axes behind batch and channels."""
    if lowering.primitive == "reduce_window_sum":
        mean = lowering.emit("avg_pool", x, counted=geometry["padding"], **geometry)
        return lowering.scale(mean, math.prod(geometry["window"]))
    if lowering.primitive == "reduce_window_min":
        return lowering.emit("neg", lowering.emit("max_pool", lowering.emit("neg", x), **geometry))
    return lowering.emit("max_pool", x, **geometry)
