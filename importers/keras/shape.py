"""Layers that move entries: reshaping, padding, cropping, resizing."""

from __future__ import annotations

from typing import Any

import numpy as np

from backtrace_jax.errors import UnsupportedError

from .registry import layer
from .spatial import as_keras, axes, channels_first, tuple_of
from .tensor import Operand, Tensor
from .writer import Writer

_MODES = {
    "nearest": {"mode": "nearest"},
    "bilinear": {"mode": "linear"},
    "bicubic": {"mode": "cubic", "cubic_coeff_a": -0.5, "exclude_outside": 1},
}


@layer("Flatten")
def flatten(writer: Writer, layer: Any, inputs: Tensor) -> Operand:
    """All axes but the batch as one, in channels-last order."""
    value: Operand = inputs
    if layer.data_format == "channels_first" and inputs.rank > 1:
        value = writer.transpose(inputs, (0, *range(2, inputs.rank), 1))
    return writer.reshape(value, 0, -1) if inputs.rank > 1 else writer.reshape(value, 0, 1)


@layer("Reshape")
def reshape(writer: Writer, layer: Any, inputs: Tensor) -> Operand:
    """Another shape; the batch stays."""
    return writer.reshape(inputs, writer.size(inputs, 0, 1), *layer.target_shape)


@layer("Permute")
def permute(writer: Writer, layer: Any, inputs: Tensor) -> Operand:
    """Axes in another order."""
    return writer.transpose(inputs, (0, *layer.dims))


@layer("RepeatVector")
def repeat_vector(writer: Writer, layer: Any, inputs: Tensor) -> str:
    """A vector at every step."""
    return writer.emit("Tile", writer.emit("Unsqueeze", inputs, writer.integers(1)), writer.integers(1, layer.n, 1))


@layer("ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D")
def zero_padding(writer: Writer, layer: Any, inputs: Tensor) -> str:
    """Zeros around space or time."""
    pads = np.zeros((2, inputs.rank), np.int64)
    pads[:, list(axes(layer, inputs.rank))] = np.array(_ends(layer.padding)).T
    return writer.emit("Pad", inputs, writer.constant(pads.ravel()), writer.number(0, inputs))


@layer("Cropping1D", "Cropping2D", "Cropping3D")
def cropping(writer: Writer, layer: Any, inputs: Tensor) -> Operand:
    """Less of space or time."""
    places = axes(layer, inputs.rank) if hasattr(layer, "data_format") else (1,)
    value: Operand = inputs
    for axis, (begin, end) in zip(places, _ends(layer.cropping), strict=True):
        value = writer.slice(value, axis, begin, -end if end else None) if begin or end else value
    return value


def _ends(sizes: Any) -> tuple[tuple[int, int], ...]:
    """(begin, end) of each axis."""
    return (tuple(sizes),) if isinstance(sizes[0], int) else tuple(tuple(each) for each in sizes)


@layer("UpSampling1D", "UpSampling2D", "UpSampling3D")
def up_sampling(writer: Writer, layer: Any, inputs: Tensor) -> Operand:
    """Every entry several times, or interpolated between."""
    rank = inputs.rank - 2
    scales = writer.constant(np.array([1, 1, *tuple_of(layer.size, rank)], np.float32))
    chosen = getattr(layer, "interpolation", "nearest")
    if chosen == "nearest":
        settings = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    else:
        settings = {**interpolation(chosen), "coordinate_transformation_mode": "half_pixel"}
    perm = (0, inputs.rank - 1, *range(1, inputs.rank - 1)), (0, *range(2, inputs.rank), 1)
    last = getattr(layer, "data_format", "channels_last") == "channels_last"
    value = writer.transpose(inputs, perm[0]) if last else inputs
    result = writer.emit("Resize", value, None, scales, **settings)
    return writer.transpose(result, perm[1]) if last else result


@layer("Resizing")
def resizing(writer: Writer, layer: Any, inputs: Tensor) -> Operand:
    """Images of another size, resampled at the centres of pixels and without a filter."""
    if layer.crop_to_aspect_ratio or layer.pad_to_aspect_ratio or getattr(layer, "antialias", False):
        raise UnsupportedError("crop_to_aspect_ratio, pad_to_aspect_ratio and antialias have no ONNX form here")
    value: Operand = Tensor(str(writer.cast(inputs, layer.compute_dtype)), inputs.shape, layer.compute_dtype)
    value = inputs if inputs.dtype == layer.compute_dtype else value
    first = channels_first(writer, layer, value, inputs.rank)
    sizes = writer.emit("Concat", writer.size(first, 0, 2), writer.integers(layer.height, layer.width), axis=0)
    settings = {**interpolation(layer.interpolation), "coordinate_transformation_mode": "half_pixel"}
    if layer.interpolation == "nearest":
        settings["nearest_mode"] = "round_prefer_ceil"
    return as_keras(writer, layer, writer.emit("Resize", first, None, None, sizes, **settings), inputs.rank)


def interpolation(name: str) -> dict[str, Any]:
    """The attributes of a Resize that interpolates as Keras calls it."""
    if name not in _MODES:
        raise UnsupportedError(f"interpolation {name!r} has no ONNX form; use one of {', '.join(_MODES)}")
    return _MODES[name]
