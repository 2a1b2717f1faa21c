"""Operators on quantised numbers that onnxruntime's quantiser writes, in the domain com.microsoft.

Most of them are a standard operator between the floats that the numbers stand for, so they are lowered as that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from backtrace_jax.errors import UnsupportedError
from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from .axes import each_from_front, from_front
from .microsoft import MICROSOFT
from .microsoft_attention import self_attention
from .microsoft_layouts import in_layout
from .pooling import average_pool, global_average_pool
from .quantisation import (
    as_integers,
    dequantize_linear,
    dynamic_quantize_linear,
    integer_matmul,
    per_column,
    per_row,
    qlinear_conv,
    qlinear_matmul,
    quantize_linear,
    rescaled,
)
from .registry import operator


@operator("QuantizeLinear", domain=MICROSOFT)
def quantize(
    lowering: Lowering, x: Value, y_scale: Value, y_zero_point: Value | None = None, *, axis: int = 1
) -> Value:
    """As the standard operator, for 16 bits and less at any opset."""
    return quantize_linear(lowering, x, y_scale, y_zero_point, axis=axis)


@operator("DequantizeLinear", domain=MICROSOFT)
def dequantize(
    lowering: Lowering, x: Value, x_scale: Value, x_zero_point: Value | None = None, *, axis: int = 1
) -> Value:
    """As the standard operator, for 16 bits and less at any opset."""
    return dequantize_linear(lowering, x, x_scale, x_zero_point, axis=axis)


def _again(lowering: Lowering, result: Value, like: Value, scale: Value, zero_point: Value | None) -> Value:
    """A result quantised; without a zero point in the type of an operand."""
    return quantize_linear(lowering, result, scale, np.zeros((), like.dtype) if zero_point is None else zero_point)


def _register_binary(name: str, op: str) -> None:
    @operator(name, domain=MICROSOFT)
    def binary(
        lowering: Lowering,
        A: Value,
        A_scale: Value,
        A_zero_point: Value | None,
        B: Value,
        B_scale: Value,
        B_zero_point: Value | None,
        C_scale: Value,
        C_zero_point: Value | None = None,
    ) -> Value:
        a = dequantize_linear(lowering, A, A_scale, A_zero_point)
        b = dequantize_linear(lowering, B, B_scale, B_zero_point)
        return _again(lowering, lowering.emit(op, a, b), A, C_scale, C_zero_point)


for _name, _op in {"QLinearAdd": "add", "QLinearMul": "mul"}.items():
    _register_binary(_name, _op)


def _register_unary(name: str, compute: Callable[..., Value]) -> None:
    @operator(name, domain=MICROSOFT)
    def unary(
        lowering: Lowering,
        X: Value,
        X_scale: Value,
        X_zero_point: Value | None,
        Y_scale: Value,
        Y_zero_point: Value | None = None,
        **attributes: Any,
    ) -> Value:
        x = dequantize_linear(lowering, X, X_scale, X_zero_point)
        return _again(lowering, compute(lowering, x, **attributes), X, Y_scale, Y_zero_point)


def _sigmoid(lowering: Lowering, x: Value) -> Value:
    return lowering.emit("sigmoid", x)


def _leaky_relu(lowering: Lowering, x: Value, *, alpha: float = 0.01) -> Value:
    return lowering.emit("leaky_relu", x, alpha=alpha)


def _softmax(lowering: Lowering, x: Value, *, axis: int = -1, opset: int = 13) -> Value:
    if opset < 13:
        raise UnsupportedError("QLinearSoftmax over all axes from one on (opset below 13); re-export at opset 13")
    return lowering.emit("softmax", x, axis=from_front(axis, len(x.shape)))


def _average_pool(lowering: Lowering, x: Value, *, channels_last: int = 0, **attributes: Any) -> Value:
    return in_layout(lowering, x, channels_last, lambda value: average_pool(lowering, value, **attributes))


def _global_average_pool(lowering: Lowering, x: Value, *, channels_last: int = 0) -> Value:
    return in_layout(lowering, x, channels_last, lambda value: global_average_pool(lowering, value))


def _reduce_mean(lowering: Lowering, x: Value, *, axes: Sequence[int], keepdims: int = 1) -> Value:
    along = each_from_front(axes, len(x.shape))
    return lowering.emit("reduce_mean", x, axes=along, keepdims=bool(keepdims))


_register_unary("QLinearSigmoid", _sigmoid)
_register_unary("QLinearLeakyRelu", _leaky_relu)
_register_unary("QLinearSoftmax", _softmax)
_register_unary("QLinearAveragePool", _average_pool)
_register_unary("QLinearGlobalAveragePool", _global_average_pool)
_register_unary("QLinearReduceMean", _reduce_mean)


@operator("QLinearConv", domain=MICROSOFT)
def qlinear_conv_microsoft(
    lowering: Lowering, x: Value, *operands: Value, channels_last: int = 0, **settings: Any
) -> Value:
    """As the standard operator, with channels last on demand."""
    return in_layout(lowering, x, channels_last, lambda value: qlinear_conv(lowering, value, *operands, **settings))


operator("QLinearMatMul", domain=MICROSOFT)(qlinear_matmul)  # of floats of 8 bits


@operator("QLinearConcat", domain=MICROSOFT)
def qlinear_concat(lowering: Lowering, Y_scale: Value, Y_zero_point: Value, *inputs: Value, axis: int) -> Value:
    """Quantised numbers of different scales, one after the other."""
    parts = [dequantize_linear(lowering, *inputs[start : start + 3]) for start in range(0, len(inputs), 3)]
    joined = lowering.emit("concat", *parts, axis=from_front(axis, len(parts[0].shape)))
    return quantize_linear(lowering, joined, Y_scale, Y_zero_point)


@operator("QLinearWhere", domain=MICROSOFT)
def qlinear_where(
    lowering: Lowering,
    condition: Value,
    X: Value,
    x_scale: Value,
    x_zero_point: Value,
    Y: Value,
    y_scale: Value,
    y_zero_point: Value,
    z_scale: Value,
    z_zero_point: Value,
) -> Value:
    """Quantised numbers of two scales, by a condition."""
    x = dequantize_linear(lowering, X, x_scale, x_zero_point)
    y = dequantize_linear(lowering, Y, y_scale, y_zero_point)
    return quantize_linear(lowering, lowering.emit("where", condition, x, y), z_scale, z_zero_point)


@operator("QGemm", domain=MICROSOFT)
def qgemm(
    lowering: Lowering,
    A: Value,
    a_scale: Value,
    a_zero_point: Value,
    B: Value,
    b_scale: Value,
    b_zero_point: Value,
    C: Value | None = None,
    y_scale: Value | None = None,
    y_zero_point: Value | None = None,
    *,
    alpha: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Value:
    """Matrix product of quantised numbers and a bias in units of both scales; quantised again if there is a scale."""
    A = lowering.transpose(A, (1, 0)) if transA else A
    B = lowering.transpose(B, (1, 0)) if transB else B
    sums = integer_matmul(lowering, A, B, a_zero_point, b_zero_point, C)
    scales = per_row(lowering, lowering.scale(a_scale, alpha)), per_column(lowering, b_scale)
    if y_scale is None or y_zero_point is None:
        return lowering.cast(_in_units(lowering, sums, scales), np.dtype(np.float32))
    return rescaled(lowering, sums, (*scales, per_row(lowering, y_scale)), per_row(lowering, y_zero_point))


def _in_units(lowering: Lowering, sums: Value, scales: Sequence[Value]) -> Value:
    factor = lowering.emit("mul", *scales)
    return lowering.emit("mul", sums, lowering.cast(factor, np.dtype(sums.dtype)))


@operator("MatMulIntegerToFloat", domain=MICROSOFT)
def matmul_integer_to_float(
    lowering: Lowering,
    A: Value,
    B: Value,
    a_scale: Value,
    b_scale: Value,
    a_zero_point: Value | None = None,
    b_zero_point: Value | None = None,
    bias: Value | None = None,
) -> Value:
    """Matrix product of quantised numbers as the floats it stands for, one linear map with the bias."""
    a = _floats(lowering, A, per_row(lowering, a_scale), a_zero_point, per_row)
    b = _floats(lowering, B, per_column(lowering, b_scale), b_zero_point, per_column)
    result = lowering.emit("matmul", a, b)
    return result if bias is None else lowering.emit("add", result, bias)


def _floats(
    lowering: Lowering, x: Value, scale: Value, zero_point: Value | None, spread: Callable[[Lowering, Value], Value]
) -> Value:
    """What the entries of a matrix stand for; weights keep their name."""
    offset = np.zeros((), np.float32) if zero_point is None else spread(lowering, zero_point)
    offset = lowering.cast(offset, np.dtype(np.float32))
    floats = lowering.emit("dequantize", x, scale, offset, dtype=np.dtype(scale.dtype).name)
    return lowering.derived(x, floats) if isinstance(floats, np.ndarray) else floats


@operator("DynamicQuantizeMatMul", domain=MICROSOFT)
def dynamic_quantize_matmul(
    lowering: Lowering,
    A: Value,
    B: Value,
    b_scale: Value,
    b_zero_point: Value | None = None,
    bias: Value | None = None,
) -> Value:
    """Matrix product of floats, quantised by their range, with quantised weights."""
    a, scale, zero_point = dynamic_quantize_linear(lowering, A)
    return matmul_integer_to_float(lowering, a, B, scale, b_scale, zero_point, b_zero_point, bias)


@operator("MatMulInteger16", domain=MICROSOFT)
def matmul_integer_16(lowering: Lowering, A: Value, B: Value) -> Value:
    """Matrix product of 16-bit integers, in 32 bits."""
    return as_integers(lowering, integer_matmul(lowering, A, B, None, None))


@operator("QAttention", domain=MICROSOFT)
def q_attention(
    lowering: Lowering,
    input: Value,
    weight: Value,
    bias: Value,
    input_scale: Value,
    weight_scale: Value,
    mask_index: Value | None = None,
    input_zero_point: Value | None = None,
    weight_zero_point: Value | None = None,
    past: Value | None = None,
    *,
    do_rotary: int = 0,
    num_heads: int,
    past_present_share_buffer: int = 0,
    **settings: Any,
) -> tuple[Value, ...]:
    """Self-attention of floats that are projected as quantised numbers."""
    if do_rotary or past_present_share_buffer:
        raise UnsupportedError("rotation or a shared buffer inside QAttention; quantise the model before fusing these")
    settings_of_numbers = input_scale, weight_scale, input_zero_point, weight_zero_point
    projected = matmul_integer_to_float(lowering, input, weight, *settings_of_numbers, bias)
    return self_attention(lowering, projected, mask_index, past, None, num_heads, **settings)
