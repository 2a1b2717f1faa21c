"""Pools over windows and over all spatial axes. A window that is the whole value is a reduction."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from .registry import operator
from .windows import Windows, windows


def _spatial(X: Value) -> tuple[int, ...]:
    return tuple(range(2, len(X.shape)))


def _geometry(window: Windows, sizes: tuple[int, ...]) -> dict[str, tuple]:
    padding = window.reaching(sizes)
    return {
        "window": window.shape,
        "strides": window.strides,
        "padding": padding,
        "dilation": window.dilation,
    }


@operator("MaxPool")
def max_pool(
    lowering: Lowering,
    X: Value,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    kernel_shape: Sequence[int],
    pads: Sequence[int] | None = None,
    storage_order: int = 0,
    strides: Sequence[int] | None = None,
) -> Value | tuple[Value, Value]:
    """Largest entry of each window and, where asked for, its position in the flattened value."""
    spatial = {"auto_pad": auto_pad, "dilations": dilations, "pads": pads, "strides": strides}
    window = windows(X.shape[2:], tuple(kernel_shape), ceil=bool(ceil_mode), **spatial)
    if lowering.result_count > 1:
        geometry = _geometry(window, X.shape[2:])
        largest = lowering.emit("max_pool", X, **geometry)
        lowering.limits.check((*largest.shape, *kernel_shape), np.int64)  # every window is written out
        return largest, lowering.emit("max_positions", X, column_major=bool(storage_order), **geometry)
    if window.covers(X.shape[2:]):
        return lowering.emit("reduce_max", X, axes=_spatial(X), keepdims=True)
    return lowering.emit("max_pool", X, **_geometry(window, X.shape[2:]))


@operator("AveragePool")
def average_pool(
    lowering: Lowering,
    X: Value,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Sequence[int] | None = None,
    kernel_shape: Sequence[int],
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Value:
    """Mean of each window, with or without the declared padding."""
    spatial = {"auto_pad": auto_pad, "dilations": dilations, "pads": pads, "strides": strides}
    window = windows(X.shape[2:], tuple(kernel_shape), ceil=bool(ceil_mode), **spatial)
    if window.covers(X.shape[2:]):
        return lowering.emit("reduce_mean", X, axes=_spatial(X), keepdims=True)
    counted = window.padding if count_include_pad else ((0, 0),) * len(window.shape)
    return lowering.emit("avg_pool", X, counted=counted, **_geometry(window, X.shape[2:]))


@operator("LpPool", since=2)
def lp_pool(
    lowering: Lowering,
    X: Value,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    kernel_shape: Sequence[int],
    p: int = 2,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Value:
    """p-norm of each window."""
    spatial = {"auto_pad": auto_pad, "dilations": dilations, "pads": pads, "strides": strides}
    window = windows(X.shape[2:], tuple(kernel_shape), ceil=bool(ceil_mode), **spatial)
    geometry = _geometry(window, X.shape[2:])
    mean = lowering.emit("avg_pool", _power(lowering, X, p), counted=geometry["padding"], **geometry)
    return _root(lowering, lowering.scale(mean, math.prod(window.shape)), p)


@operator("GlobalAveragePool")
def global_average_pool(lowering: Lowering, X: Value) -> Value:
    """Mean over all spatial axes."""
    return lowering.emit("reduce_mean", X, axes=_spatial(X), keepdims=True)


@operator("GlobalMaxPool")
def global_max_pool(lowering: Lowering, X: Value) -> Value:
    """Largest entry over all spatial axes."""
    return lowering.emit("reduce_max", X, axes=_spatial(X), keepdims=True)


@operator("GlobalLpPool", since=2)
def global_lp_pool(lowering: Lowering, X: Value, *, p: int = 2) -> Value:
    """p-norm over all spatial axes."""
    total = lowering.emit("reduce_sum", _power(lowering, X, p), axes=_spatial(X), keepdims=True)
    return _root(lowering, total, p)


def _power(lowering: Lowering, X: Value, p: int) -> Value:
    return lowering.emit("integer_pow", lowering.emit("abs", X), exponent=p)


def _root(lowering: Lowering, X: Value, p: int) -> Value:
    return lowering.emit("pow", X, np.asarray(1 / p).astype(X.dtype))
