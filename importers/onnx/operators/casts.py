"""Operators that change the type of numbers."""

from __future__ import annotations

import numpy as np
import onnx

from backtrace_jax.errors import ModelError, UnsupportedError
from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from .registry import operator


def element_type(code: int) -> np.dtype:
    """NumPy's dtype of an ONNX element type.

    Raises:
        UnsupportedError: For text.
    """
    if code in (onnx.TensorProto.STRING, onnx.TensorProto.UNDEFINED):
        raise UnsupportedError("text cannot be explained; turn it into numbers before the model")
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(code))


def is_integer(dtype: np.dtype) -> bool:
    """Whether a type holds integers, of whatever width."""
    return np.dtype(dtype).name.startswith(("int", "uint"))


def is_float(dtype: np.dtype) -> bool:
    """Whether a type holds floating-point numbers, of whatever width."""
    return "float" in np.dtype(dtype).name


def as_quantities(lowering: Lowering, value: Value, dtype: np.dtype) -> Value:
    """Integers as the floats they stand for, which bear relevance if the integers do."""
    return lowering.emit("dequantize", value, *_UNCHANGED, dtype=np.dtype(dtype).name)


_UNCHANGED = (np.ones((), np.float32), np.zeros((), np.float32))
"""Scale and zero point of numbers that stand for themselves."""


def _converted(lowering: Lowering, value: Value, dtype: np.dtype, saturate: int = 1, round_mode: str = "up") -> Value:
    if dtype.name.startswith("float6_"):
        raise UnsupportedError(f"conversion to {dtype.name}; use a wider float type")
    if value.dtype == dtype:
        return value
    if is_integer(value.dtype) and is_float(dtype) and lowering.holds_quantities(value):
        return as_quantities(lowering, value, dtype)
    if dtype.itemsize == 1 or (is_integer(dtype) and is_float(value.dtype)):
        return lowering.emit("cast", value, **_narrowing(dtype, saturate, round_mode))
    return lowering.cast(value, dtype)


def _narrowing(dtype: np.dtype, saturate: int, round_mode: str) -> dict[str, str | bool]:
    """Settings of a cast; those that do not matter for the type are left out."""
    settings: dict[str, str | bool] = {"dtype": dtype.name}
    if dtype.name.startswith("float8"):
        settings["saturate"] = bool(saturate)
    if dtype.name.startswith("float8_e8m0"):
        settings["round_mode"] = round_mode
    return settings


@operator("Cast", since=6)
def cast(lowering: Lowering, input: Value, *, to: int, saturate: int = 1, round_mode: str = "up") -> Value:
    """The same numbers in another type."""
    return _converted(lowering, input, element_type(to), saturate, round_mode)


@operator("Cast", since=1)
def cast_1(lowering: Lowering, input: Value, *, to: str) -> Value:
    """Before opset 6 the type is given by name."""
    return _converted(lowering, input, element_type(onnx.TensorProto.DataType.Value(to)))


@operator("CastLike", since=15)
def cast_like(
    lowering: Lowering, input: Value, target_type: Value, *, saturate: int = 1, round_mode: str = "up"
) -> Value:
    """The same numbers in the type of another value."""
    return _converted(lowering, input, np.dtype(target_type.dtype), saturate, round_mode)


@operator("BitCast", since=26)
def bit_cast(lowering: Lowering, input: Value, *, to: int) -> Value:
    """The same bits read as another type of the same width."""
    dtype = element_type(to)
    for each in (input.dtype, dtype):
        if each.name.startswith(("float6_", "complex")):
            raise UnsupportedError(f"the bits of {each.name}; use a type of real numbers of 8 bits or more")
    if _bits(input.dtype) != _bits(dtype):
        raise ModelError(f"{input.dtype.name} and {dtype.name} do not have the same number of bits")
    return input if input.dtype == dtype else lowering.emit("bitcast", input, dtype=dtype.name)


def _bits(dtype: np.dtype) -> int:
    """Width of a type; types of fewer than 8 bits lie in bytes of their own in memory."""
    narrow = {"int4": 4, "uint4": 4, "float4_e2m1fn": 4, "int2": 2, "uint2": 2}
    return narrow.get(dtype.name, 8 * dtype.itemsize)
