"""Quantised networks: floats stored in few bits, and products of what is stored.

Relevance passes from floats to the integers that stand for them and back (`quantize`, `dequantize`). Products of
integers are computed in floats, less the zero points, in a type that holds every sum exactly: the result is the one
that integer arithmetic gives, and the rules of products hold as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from ml_dtypes import iinfo

from backtrace_jax.errors import ModelError
from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from .axes import from_front
from .casts import as_quantities, element_type, is_float, is_integer
from .contractions import conv
from .registry import operator

_SINGLE, _DOUBLE = np.dtype(np.float32), np.dtype(np.float64)
_EXACT = 2**24  # whole numbers up to it, and so all sums of them that stay below, are exact in float32
_ZERO, _ONE = np.zeros((), np.float32), np.ones((), np.float32)


@operator("QuantizeLinear", since=10)
def quantize_linear(
    lowering: Lowering,
    x: Value,
    y_scale: Value,
    y_zero_point: Value | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
) -> Value:
    """Floats in units of a scale, rounded to integers or to floats of few bits."""
    dtype = _quantised_type(y_zero_point, output_dtype)
    wide = _division_type(y_scale, precision)
    x = as_quantities(lowering, x, wide) if is_integer(x.dtype) else lowering.cast(x, wide)
    scale = _spread(lowering, lowering.cast(y_scale, wide), x.shape, axis, block_size)
    offset = _spread(lowering, _offset(lowering, y_zero_point), x.shape, axis, block_size)
    return _quantised(lowering, x, scale, offset, dtype, saturate)


def _quantised(lowering: Lowering, x: Value, scale: Value, offset: Value, dtype: np.dtype, saturate: int = 1) -> Value:
    settings = {"saturate": bool(saturate)} if dtype.name.startswith("float8") else {}
    return lowering.emit("quantize", x, scale, offset, dtype=dtype.name, **settings)


def _quantised_type(zero_point: Value | None, output_dtype: int) -> np.dtype:
    if zero_point is None:
        return element_type(output_dtype) if output_dtype else np.dtype(np.uint8)
    if output_dtype and element_type(output_dtype) != zero_point.dtype:
        raise ModelError(f"output_dtype {element_type(output_dtype).name} is not the type of the zero point")
    return np.dtype(zero_point.dtype)


def _division_type(scale: Value, precision: int) -> np.dtype:
    """The type of the scale, unless that is none to compute in."""
    if precision:
        return element_type(precision)
    return np.dtype(scale.dtype) if is_float(scale.dtype) and scale.dtype.itemsize > 1 else _SINGLE


def _offset(lowering: Lowering, zero_point: Value | None) -> Value:
    return _ZERO if zero_point is None else lowering.cast(zero_point, _SINGLE)


def _spread(lowering: Lowering, setting: Value, shape: Sequence[int], axis: int, block_size: int) -> Value:
    """A scale or zero point in a shape that meets x: one number, one for each place along an axis or each block."""
    if math.prod(setting.shape) == 1:
        return lowering.reshape(setting, ())
    axis = from_front(axis, len(shape))
    if len(setting.shape) == 1 and not block_size:
        return _along(lowering, setting, shape, axis)
    blocks = list(shape)
    blocks[axis] = -(-shape[axis] // block_size) if block_size else 0
    if setting.shape != tuple(blocks):
        raise ModelError(f"a scale of shape {setting.shape} does not fit {tuple(shape)} in blocks of {block_size}")
    return lowering.emit("gather", setting, np.arange(shape[axis]) // block_size, axis=axis)


def _along(lowering: Lowering, setting: Value, shape: Sequence[int], axis: int) -> Value:
    if setting.shape[0] != shape[axis]:
        raise ModelError(f"{setting.shape[0]} scales do not fit axis {axis} of {tuple(shape)}")
    return lowering.reshape(setting, [size if place == axis else 1 for place, size in enumerate(shape)])


@operator("DequantizeLinear", since=10)
def dequantize_linear(
    lowering: Lowering,
    x: Value,
    x_scale: Value,
    x_zero_point: Value | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> Value:
    """The floats that quantised numbers stand for."""
    dtype = element_type(output_dtype) if output_dtype else np.dtype(x_scale.dtype)
    scale = _spread(lowering, lowering.cast(x_scale, _SINGLE), x.shape, axis, block_size)
    offset = _spread(lowering, _offset(lowering, x_zero_point), x.shape, axis, block_size)
    return lowering.emit("dequantize", x, scale, offset, dtype=dtype.name)


@operator("DynamicQuantizeLinear", since=11)
def dynamic_quantize_linear(lowering: Lowering, x: Value) -> tuple[Value, Value, Value]:
    """Quantisation by the range of the entries; the range itself takes no relevance, as statistics of a norm do not."""
    scale, zero_point = lowering.emit("dynamic_range", x)
    quantised = _quantised(lowering, x, scale, lowering.cast(zero_point, _SINGLE), np.dtype(np.uint8))
    return quantised, scale, zero_point


def _reach(x: Value, zero_point: Value | None) -> int:
    """Largest distance of any entry from the zero point."""
    if not is_integer(x.dtype):
        return 0  # floats of 8 bits: sums are rounded whatever the type
    low, high = iinfo(x.dtype).min, iinfo(x.dtype).max
    if zero_point is None:
        return max(-low, high)
    if not isinstance(zero_point, np.ndarray):
        return high - low
    offset = zero_point.astype(np.int64)
    return int(max((offset - low).max(), (high - offset).max()))


def _summing_type(terms: int, a: int, b: int, bias: Value | None = None) -> np.dtype:
    """A float type in which a sum of so many products, and a bias, is exact in any order."""
    known = 0 if bias is None else int(np.abs(bias.astype(np.int64)).max()) if isinstance(bias, np.ndarray) else _EXACT
    return _SINGLE if terms * a * b + known <= _EXACT else _DOUBLE


def _centred(lowering: Lowering, x: Value, offset: Value, dtype: np.dtype) -> Value:
    """Distances from the zero point, exact."""
    return lowering.emit("dequantize", x, _ONE, offset, dtype=dtype.name)


def per_row(lowering: Lowering, setting: Value) -> Value:
    """Scales or zero points of the rows of a matrix, in a shape that meets it: a vector of them is a column."""
    if math.prod(setting.shape) == 1:
        return lowering.reshape(setting, ())
    return lowering.reshape(setting, (*setting.shape, 1)) if len(setting.shape) == 1 else setting


def per_column(lowering: Lowering, setting: Value) -> Value:
    """Scales or zero points of the columns of a matrix, in a shape that meets it."""
    return lowering.reshape(setting, ()) if math.prod(setting.shape) == 1 else setting


def _per_channel(lowering: Lowering, setting: Value, rank: int) -> Value:
    """Numbers of the output channels in a shape that meets weights, or (at axis 1) results."""
    if math.prod(setting.shape) == 1:
        return lowering.reshape(setting, ())
    return lowering.reshape(setting, (*setting.shape, *(1,) * (rank - 1)))


def integer_matmul(
    lowering: Lowering,
    A: Value,
    B: Value,
    a_zero: Value | None,
    b_zero: Value | None,
    bias: Value | None = None,
) -> Value:
    """Matrix product of distances from zero points, exact, as floats."""
    dtype = _summing_type(A.shape[-1], _reach(A, a_zero), _reach(B, b_zero), bias)
    a = _centred(lowering, A, per_row(lowering, _offset(lowering, a_zero)), dtype)
    b = _centred(lowering, B, per_column(lowering, _offset(lowering, b_zero)), dtype)
    sums = lowering.emit("matmul", a, b)
    return sums if bias is None else lowering.emit("add", sums, lowering.cast(bias, dtype))


def _integer_conv(
    lowering: Lowering,
    X: Value,
    W: Value,
    x_zero: Value | None,
    w_zero: Value | None,
    bias: Value | None,
    **geometry: Any,
) -> Value:
    """Convolution of distances from zero points, exact, as floats; borders are at the zero point."""
    dtype = _summing_type(math.prod(W.shape[1:]), _reach(X, x_zero), _reach(W, w_zero), bias)
    x = _centred(lowering, X, lowering.reshape(_offset(lowering, x_zero), ()), dtype)
    w = _centred(lowering, W, _per_channel(lowering, _offset(lowering, w_zero), len(W.shape)), dtype)
    return conv(lowering, x, w, None if bias is None else lowering.cast(bias, dtype), **geometry)


def as_integers(lowering: Lowering, sums: Value) -> Value:
    """Whole numbers that floats hold, in 32 bits."""
    return _quantised(lowering, sums, np.ones((), sums.dtype), _ZERO, np.dtype(np.int32))


@operator("MatMulInteger", since=10)
def matmul_integer(
    lowering: Lowering, A: Value, B: Value, a_zero_point: Value | None = None, b_zero_point: Value | None = None
) -> Value:
    """Matrix product of 8-bit integers, in 32 bits."""
    return as_integers(lowering, integer_matmul(lowering, A, B, a_zero_point, b_zero_point))


@operator("ConvInteger", since=10)
def conv_integer(
    lowering: Lowering,
    x: Value,
    w: Value,
    x_zero_point: Value | None = None,
    w_zero_point: Value | None = None,
    **geometry: Any,
) -> Value:
    """Convolution of 8-bit integers, in 32 bits; its geometry is that of `conv`."""
    return as_integers(lowering, _integer_conv(lowering, x, w, x_zero_point, w_zero_point, None, **geometry))


def rescaled(lowering: Lowering, sums: Value, scales: tuple[Value, Value, Value], zero_point: Value) -> Value:
    """Products in units of the operands' scales (the first two), quantised in units of the third."""
    a_scale, b_scale, y_scale = scales
    factor = lowering.emit("div", lowering.emit("mul", a_scale, b_scale), y_scale)
    factor = lowering.cast(factor, _SINGLE)
    levels = lowering.emit("dequantize", sums, factor, _ZERO, dtype=_SINGLE.name)
    return _quantised(lowering, levels, _ONE, _offset(lowering, zero_point), np.dtype(zero_point.dtype))


@operator("QLinearMatMul", since=10)
def qlinear_matmul(
    lowering: Lowering,
    a: Value,
    a_scale: Value,
    a_zero_point: Value,
    b: Value,
    b_scale: Value,
    b_zero_point: Value,
    y_scale: Value,
    y_zero_point: Value,
) -> Value:
    """Matrix product of quantised numbers, quantised again."""
    sums = integer_matmul(lowering, a, b, a_zero_point, b_zero_point)
    scales = per_row(lowering, a_scale), per_column(lowering, b_scale), per_row(lowering, y_scale)
    return rescaled(lowering, sums, scales, per_row(lowering, y_zero_point))


@operator("QLinearConv", since=10)
def qlinear_conv(
    lowering: Lowering,
    x: Value,
    x_scale: Value,
    x_zero_point: Value,
    w: Value,
    w_scale: Value,
    w_zero_point: Value,
    y_scale: Value,
    y_zero_point: Value,
    B: Value | None = None,
    **geometry: Any,
) -> Value:
    """Convolution of quantised numbers, quantised again; the bias is in units of both operands' scales.

    Its geometry is that of `conv`.
    """
    sums = _integer_conv(lowering, x, w, x_zero_point, w_zero_point, B, **geometry)
    scales = (
        lowering.reshape(x_scale, ()),
        _per_channel(lowering, w_scale, len(w.shape) - 1),
        lowering.reshape(y_scale, ()),
    )
    return rescaled(lowering, sums, scales, lowering.reshape(y_zero_point, ()))
