"""Pooling over windows, and over all of space or time."""

from __future__ import annotations

from typing import Any

from .registry import layer, mask
from .spatial import as_keras, axes, channels_first, tuple_of
from .tensor import Operand, Tensor
from .writer import Writer

_AUTO = {"same": "SAME_UPPER", "valid": "VALID"}


@layer("MaxPooling1D", "MaxPooling2D", "MaxPooling3D")
def max_pooling(writer: Writer, layer: Any, inputs: Tensor) -> Operand:
    """The largest of each window."""
    return _pooled(writer, layer, inputs, "MaxPool")


@layer("AveragePooling1D", "AveragePooling2D", "AveragePooling3D")
def average_pooling(writer: Writer, layer: Any, inputs: Tensor) -> Operand:
    """The mean of each window; padding does not count."""
    return _pooled(writer, layer, inputs, "AveragePool")


def _pooled(writer: Writer, layer: Any, inputs: Tensor, op_type: str) -> Operand:
    rank = inputs.rank - 2
    result = writer.emit(
        op_type,
        channels_first(writer, layer, inputs, inputs.rank),
        kernel_shape=tuple_of(layer.pool_size, rank),
        strides=tuple_of(layer.pool_size if layer.strides is None else layer.strides, rank),
        auto_pad=_AUTO[layer.padding],
    )
    return as_keras(writer, layer, result, inputs.rank)


@layer("GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalMaxPooling3D")
def global_max(writer: Writer, layer: Any, inputs: Tensor) -> str:
    """The largest of all places."""
    return _reduced(writer, layer, "ReduceMax", inputs, inputs.rank)


@layer("GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling3D")
def global_average(writer: Writer, layer: Any, inputs: Tensor, mask: Tensor | None = None) -> str:
    """The mean of all places that count."""
    if mask is None:
        return _reduced(writer, layer, "ReduceMean", inputs, inputs.rank)
    (axis,) = axes(layer, inputs.rank)
    kept = writer.emit("Unsqueeze", writer.cast(mask, "bool"), writer.integers(3 - axis))
    counted = writer.emit("Where", kept, inputs, writer.number(0, inputs))
    total = _reduced(writer, layer, "ReduceSum", counted, inputs.rank)
    return writer.emit(
        "Div", total, _reduced(writer, layer, "ReduceSum", writer.recast(kept, inputs.dtype), inputs.rank)
    )


@mask("GlobalAveragePooling1D")
def no_mask(writer: Writer, layer: Any, inputs: Any, previous: Any) -> None:
    """Time is gone."""


def _reduced(writer: Writer, layer: Any, op_type: str, value: Operand, rank: int) -> str:
    return writer.emit(op_type, value, writer.integers(*axes(layer, rank)), keepdims=int(layer.keepdims))
