"""A value on its way from Keras to ONNX: its name there, its shape and type."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from onnx import helper

Shape: TypeAlias = tuple[int | None, ...]


@dataclass(eq=False)
class Tensor:
    """A value on its way through the model, as Keras sees it; masks come and go on the very same tensor.

    Attributes:
        name: Its ONNX name.
        shape: Its shape in Keras' layout, batch first; None where it is dynamic.
        dtype: Its type.
        mask: Which of its time steps count, where it is masked.
    """

    name: str
    shape: Shape
    dtype: str
    mask: Tensor | None = None

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)


Operand: TypeAlias = "Tensor | str"
"""A value or its ONNX name."""


def as_array(value: Any) -> np.ndarray:
    """A weight, a backend's tensor or a number as an array."""
    if isinstance(value, np.ndarray | int | float | list | tuple):
        return np.asarray(value)
    tensor = getattr(value, "value", value)  # of a variable
    return np.asarray(importlib.import_module("keras").ops.convert_to_numpy(tensor))


def size_of(shape: Sequence[int]) -> int:
    """Number of entries."""
    return math.prod(shape)


def name_of(operand: Operand | None) -> str:
    """Its ONNX name; none for an operand that is left out."""
    if operand is None:
        return ""
    return operand if isinstance(operand, str) else operand.name


def dims(shape: Shape) -> list[int | str]:
    """Declared sizes; the batch has a name, other dynamic axes have none in common."""
    return [("batch" if axis == 0 else f"axis{axis}") if size is None else size for axis, size in enumerate(shape)]


def element(dtype: str) -> int:
    """ONNX's number of a type."""
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
