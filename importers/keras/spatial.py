"""What layers over space and time share: ONNX has channels first, Keras as a rule last."""

from __future__ import annotations

from typing import Any

from .tensor import Operand
from .writer import Writer


def channels_first(writer: Writer, layer: Any, value: Operand, rank: int) -> Operand:
    """The value as ONNX reads it."""
    if layer.data_format == "channels_first":
        return value
    return writer.transpose(value, (0, rank - 1, *range(1, rank - 1)))


def as_keras(writer: Writer, layer: Any, value: Operand, rank: int) -> Operand:
    """The value in Keras' own layout."""
    if layer.data_format == "channels_first":
        return value
    return writer.transpose(value, (0, *range(2, rank), 1))


def axes(layer: Any, rank: int) -> tuple[int, ...]:
    """The axes of space and time in the layer's layout."""
    return tuple(range(2, rank)) if layer.data_format == "channels_first" else tuple(range(1, rank - 1))


def tuple_of(value: Any, count: int) -> tuple[int, ...]:
    """A number for each axis."""
    return (value,) * count if isinstance(value, int) else tuple(value)
