"""Normalisation over the batch, over features, and over groups of channels."""

from __future__ import annotations

from typing import Any

import numpy as np

from backtrace_jax.errors import UnsupportedError

from .merging import normalised
from .registry import layer
from .tensor import Operand, Tensor, as_array
from .writer import Writer


@layer("BatchNormalization")
def batch_normalization(writer: Writer, layer: Any, inputs: Tensor, mask: Any = None) -> str:
    """With the statistics of training this is a scale and a shift for each channel."""
    deviation = np.sqrt(as_array(layer.moving_variance).astype(np.float64) + layer.epsilon)
    scale = (as_array(layer.gamma) if layer.scale else 1.0) / deviation
    shift = (as_array(layer.beta) if layer.center else 0.0) - as_array(layer.moving_mean) * scale
    shape = [1] * (inputs.rank - 1 - layer.axis % inputs.rank)  # axes behind the channels
    operands = [writer.constant(each.reshape(-1, *shape), inputs.dtype) for each in (scale, shift)]
    return writer.emit("Add", writer.emit("Mul", inputs, operands[0]), operands[1])


@layer("LayerNormalization")
def layer_normalization(writer: Writer, layer: Any, inputs: Tensor) -> Operand:
    """Standardised over the given axes."""
    if getattr(layer, "rms_scaling", False):
        raise UnsupportedError("rms_scaling is deprecated in Keras and has no ONNX form; use RMSNormalization")
    return _over_last(writer, layer, inputs, "LayerNormalization", ("gamma", "beta"))


@layer("RMSNormalization")
def rms_normalization(writer: Writer, layer: Any, inputs: Tensor) -> Operand:
    """Divided by the root of the mean square over the given axes."""
    return _over_last(writer, layer, inputs, "RMSNormalization", ("scale",))


def _over_last(writer: Writer, layer: Any, inputs: Tensor, op_type: str, names: tuple[str, ...]) -> Operand:
    """ONNX normalises over the last axes: others are brought there and back."""
    given = [layer.axis] if isinstance(layer.axis, int) else layer.axis
    places = sorted(axis % inputs.rank for axis in given)
    front = [axis for axis in range(inputs.rank) if axis not in places]
    value = writer.transpose(inputs, (*front, *places))
    weights = [_weight(writer, layer, name) for name in names]
    operands = [each or writer.constant(np.ones(_sizes(inputs, places), inputs.dtype)) for each in weights[:1]]
    operands += [each for each in weights[1:] if each]
    result = writer.emit(op_type, value, *operands, axis=len(front) - inputs.rank, epsilon=float(layer.epsilon))
    return writer.transpose(result, tuple(np.argsort([*front, *places]).tolist()))


def _weight(writer: Writer, layer: Any, name: str) -> str | None:
    return None if getattr(layer, name, None) is None else writer.weight(layer, name)


def _sizes(inputs: Tensor, places: list[int]) -> list[int]:
    sizes = [inputs.shape[axis] for axis in places]
    if None in sizes:
        raise UnsupportedError("an axis normalised over has no fixed size")
    return [int(size) for size in sizes if size is not None]


@layer("GroupNormalization")
def group_normalization(writer: Writer, layer: Any, inputs: Tensor) -> Operand:
    """Standardised over all places and over the channels of a group."""
    axis = layer.axis % inputs.rank
    perm = (0, axis, *(each for each in range(1, inputs.rank) if each != axis))
    channels = _sizes(inputs, [axis])
    weights = [
        writer.weight(layer, name) if getattr(layer, name, None) is not None else writer.constant(fill(channels, "f4"))
        for name, fill in (("gamma", np.ones), ("beta", np.zeros))
    ]
    value = writer.transpose(inputs, perm)
    settings = {"num_groups": layer.groups, "epsilon": float(layer.epsilon)}
    result = writer.emit("GroupNormalization", value, *weights, **settings)
    return writer.transpose(result, tuple(np.argsort(perm).tolist()))


@layer("UnitNormalization")
def unit_normalization(writer: Writer, layer: Any, inputs: Tensor) -> str:
    """Divided by the Euclidean norm."""
    return normalised(writer, inputs, layer.axis, 1e-12)


@layer("SpectralNormalization")
def spectral_normalization(writer: Writer, layer: Any, inputs: Tensor) -> Tensor:
    """The layer inside; its kernel was normalised in training."""
    from .graph import call

    return call(writer, layer.layer, (inputs,), {})
