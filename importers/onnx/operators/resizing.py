"""Resize and Upsample: known matrices of weights, one for each axis, or for "nearest" a choice of entries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from backtrace_jax.errors import ModelError, UnsupportedError
from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from .axes import each_from_front
from .registry import operator


@dataclass(frozen=True)
class Resizing:
    """How positions of a result are read from positions of the operand, by ONNX's attribute names."""

    mode: str = "nearest"
    coordinate_transformation_mode: str = "half_pixel"
    nearest_mode: str = "round_prefer_floor"
    cubic_coeff_a: float = -0.75
    exclude_outside: int = 0
    extrapolation_value: float = 0.0
    antialias: int = 0


@dataclass(frozen=True)
class Axis:
    """One axis to be resized: sizes before and after, the scale, and the part that is cropped."""

    axis: int
    before: int
    after: int
    scale: float
    crop: tuple[float, float] = (0.0, 1.0)

    def positions(self, transformation: str) -> np.ndarray:
        """Where on the operand each entry of the result lies."""
        x = np.arange(self.after, dtype=np.float64)
        if transformation not in _POSITIONS:
            raise UnsupportedError(
                f"coordinate_transformation_mode {transformation!r}; there are {', '.join(_POSITIONS)}"
            )
        return _POSITIONS[transformation](self, x)


def _half_pixel(axis: Axis, x: np.ndarray) -> np.ndarray:
    return (x + 0.5) / axis.scale - 0.5


def _symmetric(axis: Axis, x: np.ndarray) -> np.ndarray:
    centre = axis.before / 2
    return centre * (1 - axis.after / (axis.scale * axis.before)) + _half_pixel(axis, x)


def _aligned(axis: Axis, x: np.ndarray) -> np.ndarray:
    return x * 0 if axis.after == 1 else x * (axis.before - 1) / (axis.scale * axis.before - 1)


def _cropped(axis: Axis, x: np.ndarray) -> np.ndarray:
    (start, end), last = axis.crop, axis.before - 1
    if axis.after == 1:
        return x * 0 + 0.5 * (start + end) * last
    return start * last + x * (end - start) * last / (axis.scale * axis.before - 1)


_POSITIONS = {
    "half_pixel": _half_pixel,
    "half_pixel_symmetric": _symmetric,
    "pytorch_half_pixel": lambda axis, x: _half_pixel(axis, x) if axis.after > 1 else x * 0,
    "align_corners": _aligned,
    "asymmetric": lambda axis, x: x / axis.scale,
    "tf_half_pixel_for_nn": lambda axis, x: (x + 0.5) / axis.scale,
    "tf_crop_and_resize": _cropped,
}
_NEAREST = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


@operator("Resize", since=11)
def resize(
    lowering: Lowering,
    X: Value,
    roi: Value | None = None,
    scales: Value | None = None,
    sizes: Value | None = None,
    *,
    axes: Sequence[int] | None = None,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    coordinate_transformation_mode: str = "half_pixel",
    nearest_mode: str = "round_prefer_floor",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    antialias: int = 0,
) -> Value:
    """The value at another size, by its nearest entries or by linear or cubic interpolation."""
    settings = Resizing(
        mode,
        coordinate_transformation_mode,
        nearest_mode,
        cubic_coeff_a,
        exclude_outside,
        extrapolation_value,
        antialias,
    )
    rank = len(X.shape)
    chosen = each_from_front(axes, rank) if axes else tuple(range(rank))
    before = [X.shape[axis] for axis in chosen]
    factors = _numbers(lowering, scales, "the scales of Resize")
    wanted = _numbers(lowering, sizes, "the sizes of Resize")
    if bool(factors) == bool(wanted) or len(factors or wanted) != len(chosen):
        raise ModelError(f"Resize takes a scale or a size for each of the axes {chosen}")
    after, factors = _results(before, factors, wanted, keep_aspect_ratio_policy)
    crops = [(0.0, 1.0)] * len(chosen)
    if coordinate_transformation_mode == "tf_crop_and_resize":
        ends = _numbers(lowering, roi, "the region of Resize")
        crops = list(zip(ends[: len(chosen)], ends[len(chosen) :], strict=True))
    return _resized(
        lowering, X, [Axis(*each) for each in zip(chosen, before, after, factors, crops, strict=True)], settings
    )


def _numbers(lowering: Lowering, value: Value | None, what: str) -> list[float]:
    return [] if value is None else [float(x) for x in lowering.known(value, what).reshape(-1)]


def _results(
    before: Sequence[int], scales: Sequence[float], sizes: Sequence[float], policy: str
) -> tuple[list[int], list[float]]:
    """Size and scale of each axis of the result."""
    if scales:
        if any(not math.isfinite(scale) or scale <= 0 for scale in scales):
            raise ModelError(f"scales {list(scales)} are not all positive")
        return [math.floor(size * scale) for size, scale in zip(before, scales, strict=True)], list(scales)
    ratios = [after / size if size else 1.0 for after, size in zip(sizes, before, strict=True)]
    if policy == "stretch":
        return [int(after) for after in sizes], ratios
    common = {"not_larger": min, "not_smaller": max}[policy](ratios)
    return [math.floor(size * common + 0.5) for size in before], [common] * len(before)


@operator("Resize", since=10)
def resize_10(lowering: Lowering, X: Value, scales: Value, *, mode: str = "nearest") -> Value:
    """At opset 10 there are scales alone, and positions are counted from the first entry."""
    old = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return resize(lowering, X, None, scales, mode=mode, **old)


@operator("Upsample", since=9)
def upsample(lowering: Lowering, X: Value, scales: Value, *, mode: str = "nearest") -> Value:
    """Resize as it was before opset 10."""
    return resize_10(lowering, X, scales, mode=mode)


@operator("Upsample", since=7)
def upsample_7(lowering: Lowering, X: Value, *, scales: Sequence[float], mode: str = "nearest") -> Value:
    """Before opset 9 the scales are an attribute."""
    return resize_10(lowering, X, np.asarray(scales, np.float32), mode=mode)


def _resized(lowering: Lowering, X: Value, axes: Sequence[Axis], settings: Resizing) -> Value:
    if settings.mode not in _ALONG:
        raise UnsupportedError(f"mode {settings.mode!r} of Resize; there are {', '.join(_ALONG)}")
    outside = np.zeros((1,) * len(X.shape), np.bool_)
    resized: list[tuple[Axis, np.ndarray]] = []
    for axis in axes:
        lowering.limits.check_known((4, axis.after), np.float64)
        positions = axis.positions(settings.coordinate_transformation_mode)
        if settings.coordinate_transformation_mode == "tf_crop_and_resize":
            beyond = (positions < 0) | (positions > axis.before - 1)
            outside = outside | beyond.reshape([-1 if i == axis.axis else 1 for i in range(len(X.shape))])
        if axis.before != axis.after or axis.scale != 1 or axis.crop != (0.0, 1.0):
            resized.append((axis, positions))
    result = _ALONG[settings.mode](lowering, X, resized, settings) if resized else X
    if not outside.any():
        return result
    fill = np.asarray(settings.extrapolation_value).astype(X.dtype)
    return lowering.emit("where", np.broadcast_to(outside, result.shape), fill, result)


Resized: TypeAlias = "Sequence[tuple[Axis, np.ndarray]]"
"""Axes that are resized, and where on the operand each entry of the result lies."""


def _nearest(lowering: Lowering, X: Value, resized: Resized, settings: Resizing) -> Value:
    for axis, positions in resized:
        index = np.clip(_NEAREST[settings.nearest_mode](positions), 0, axis.before - 1).astype(np.int64)
        X = lowering.emit("gather", X, index, axis=axis.axis)
    return X


def _interpolated(lowering: Lowering, X: Value, resized: Resized, settings: Resizing) -> Value:
    """All axes at once: one linear map, whose weights are products of those along the axes."""
    weights = [_weights(lowering, X, axis, positions, settings) for axis, positions in resized]
    signed = any((matrix < 0).any() for matrix in weights)
    return lowering.emit("interpolate", X, *weights, axes=tuple(axis.axis for axis, _ in resized), signed=signed)


def _weights(lowering: Lowering, X: Value, axis: Axis, positions: np.ndarray, settings: Resizing) -> np.ndarray:
    lowering.limits.check_known((2, axis.after, axis.before), np.float64)
    return interpolation(axis, positions, settings).astype(X.dtype)


_ALONG = {"nearest": _nearest, "linear": _interpolated, "bilinear": _interpolated, "cubic": _interpolated}


def interpolation(axis: Axis, positions: np.ndarray, settings: Resizing) -> np.ndarray:
    """Weights [after, before] of linear or cubic interpolation; beyond the ends the outermost entries go on."""
    linear = "linear" in settings.mode
    stretch = min(axis.scale, 1.0) if settings.antialias else 1.0
    reach = math.ceil((1 if linear else 2) / stretch)
    near = np.floor(positions)[:, None] + np.arange(-reach, reach + 2)
    distance = np.abs(near - positions[:, None]) * stretch
    weights = np.maximum(1 - distance, 0) if linear else _cubic(distance, settings.cubic_coeff_a)
    if settings.exclude_outside:
        weights = np.where((near >= 0) & (near < axis.before), weights, 0)
    weights /= weights.sum(axis=1, keepdims=True)
    matrix = np.zeros((axis.after, axis.before))
    rows = np.broadcast_to(np.arange(axis.after)[:, None], near.shape)
    np.add.at(matrix, (rows, np.clip(near, 0, axis.before - 1).astype(np.int64)), weights)
    return matrix


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel (Keys 1981, eq. 4)."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))
