"""The state of one lowering, which every operator function gets as its first argument."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from backtrace_jax.errors import DataDependentError, ModelError
from backtrace_jax.ir import Builder, Value, Var

from .load import OnnxModel


class Lowering(Builder):
    """The graph under construction, the values of the ONNX names seen so far, and shorthands for operators.

    Attributes:
        opsets: Opset of each imported domain; the standard one is called "ai.onnx".
        values: Value of each ONNX name.
        result_count: How many results the node being lowered has.
    """

    def __init__(self, model: OnnxModel) -> None:
        super().__init__()
        self.model = model
        self.opsets = {entry.domain or "ai.onnx": entry.version for entry in model.proto.opset_import}
        self.values: dict[str, Value] = {}
        self.result_count = 1

    def define(self, name: str, value: Value) -> None:
        """Bind an ONNX name to its value."""
        if not name:
            return
        if name in self.values:
            raise ModelError(f"value {name!r} is computed twice; the file is not valid ONNX")
        self.values[name] = value
        if isinstance(value, np.ndarray):
            self.label(value, name)
        else:
            self.rename(value, name)

    def known(self, value: Value, what: str) -> np.ndarray:
        """The array itself, where an operator cannot do without knowing it.

        Raises:
            DataDependentError: When the value depends on the model's inputs.
        """
        if isinstance(value, np.ndarray):
            return value
        inputs = self.inputs_of(value)
        raise DataDependentError(
            f"{what} depends on the values of the inputs ({', '.join(sorted(inputs))}), so it is not known beforehand; "
            "make it a constant of the model",
            inputs,
        )

    def integers(self, value: Value | Sequence[int], what: str) -> tuple[int, ...]:
        """Sizes or positions as Python integers, from a known array or an attribute."""
        array = self.known(value, what) if isinstance(value, np.ndarray | Var) else value
        return tuple(int(number) for number in np.asarray(array).reshape(-1))

    def derived(self, original: Value, array: np.ndarray) -> np.ndarray:
        """A known array made from another one, under the other one's name."""
        name = self.label_of(original)
        if name:
            self.label(array, name)
        return array

    def reshape(self, value: Value, shape: Sequence[int]) -> Value:
        """The same entries in another shape; known arrays keep their name."""
        shape = tuple(shape)
        if value.shape == shape:
            return value
        if math.prod(value.shape) != math.prod(shape):
            raise ModelError(f"shape {value.shape} cannot be reshaped to {shape}")
        if isinstance(value, np.ndarray):
            return self.derived(value, value.reshape(shape))
        return self.emit("reshape", value, shape=shape)

    def transpose(self, value: Value, perm: Sequence[int]) -> Value:
        """Axes in another order; known arrays keep their name."""
        perm = tuple(perm)
        if perm == tuple(range(len(value.shape))):
            return value
        if isinstance(value, np.ndarray):
            return self.derived(value, value.transpose(perm))
        return self.emit("transpose", value, perm=perm)

    def scale(self, value: Value, factor: int | float) -> Value:
        """The value times a number; known arrays keep their name."""
        if factor == 1:
            return value
        number = np.asarray(factor).astype(value.dtype)
        if isinstance(value, np.ndarray):
            return self.derived(value, np.asarray(value * number))
        return self.emit("mul", value, number)

    def cast(self, value: Value, dtype: np.dtype) -> Value:
        """The value in another dtype; known arrays keep their name."""
        if value.dtype == dtype:
            return value
        if isinstance(value, np.ndarray):
            return self.derived(value, value.astype(dtype))
        return self.emit("cast", value, dtype=np.dtype(dtype).name)

    def along_channels(self, value: Value, rank: int) -> Value:
        """One number per channel, shaped to meet results [N, C, *spatial] of this rank; per-position shapes stay."""
        return self.reshape(value, (1, *value.shape, *(1,) * (rank - 1 - len(value.shape))))
