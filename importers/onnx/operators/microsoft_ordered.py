"""Operators on quantised matrices in an order of a GPU's own, in the domain com.microsoft, where the order is plain.

Each is the float operator between the numbers that 8 bits stand for, as the transformer optimiser found it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from backtrace_jax.errors import UnsupportedError
from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from .heads import merge_heads, split_heads
from .microsoft import MICROSOFT, gelu
from .microsoft_attention import causal, masked
from .normalisation import layer_normalization
from .quantisation import dequantize_linear, quantize_linear
from .registry import operator

_COLUMNS, _ROWS = 0, 1  # orders as cublasLt counts them; the others are tiles
_ZERO = np.zeros((), np.int8)
_FILTER = -10000.0


def _check_order(*orders: int) -> None:
    if any(order != _ROWS for order in orders):
        raise UnsupportedError("matrices in tiles of a GPU's own; keep them in rows (order 1), weights in columns (0)")


def _floats(lowering: Lowering, x: Value, scale: Value) -> Value:
    return dequantize_linear(lowering, x, scale, _ZERO, axis=-1)


def _eight_bits(lowering: Lowering, x: Value, scale: Value) -> Value:
    return quantize_linear(lowering, x, scale, _ZERO)


def _rounded(lowering: Lowering, x: Value, scale: Value | None) -> Value:
    """x as 8 bits hold it; without a scale as it is."""
    return x if scale is None else _floats(lowering, _eight_bits(lowering, x, scale), scale)


def _weights(lowering: Lowering, x: Value, scale: Value, order: int) -> Value:
    """Weights [in, out] as floats; their shape stays, whatever the order of the entries."""
    if order not in (_COLUMNS, _ROWS):
        _check_order(order)
    if order == _COLUMNS:
        x = lowering.transpose(lowering.reshape(x, x.shape[::-1]), (1, 0))
    floats = _floats(lowering, x, scale)
    return lowering.derived(x, floats) if isinstance(floats, np.ndarray) else floats


@operator("QuantizeWithOrder", domain=MICROSOFT)
def quantize_with_order(
    lowering: Lowering, input: Value, scale_input: Value, *, order_input: int, order_output: int
) -> Value:
    """Floats in units of a scale, as 8 bits."""
    _check_order(order_input, order_output)
    return _eight_bits(lowering, input, scale_input)


@operator("DequantizeWithOrder", domain=MICROSOFT)
def dequantize_with_order(
    lowering: Lowering, input: Value, scale_input: Value, *, order_input: int, order_output: int, to: int = 1
) -> Value:
    """The floats that 8 bits stand for."""
    _check_order(order_input, order_output)
    return dequantize_linear(lowering, input, scale_input, _ZERO, output_dtype=to)


@operator("QOrderedGelu", domain=MICROSOFT)
def q_ordered_gelu(
    lowering: Lowering, X: Value, scale_X: Value, scale_Y: Value, *, order_X: int = _ROWS, order_Y: int = _ROWS
) -> Value:
    """Gaussian error linear unit."""
    _check_order(order_X, order_Y)
    return _eight_bits(lowering, gelu(lowering, _floats(lowering, X, scale_X)), scale_Y)


@operator("QOrderedLayerNormalization", domain=MICROSOFT)
def q_ordered_layer_normalization(
    lowering: Lowering,
    X: Value,
    scale_X: Value,
    scale: Value,
    B: Value | None,
    scale_Y: Value,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    order_X: int = _ROWS,
    order_Y: int = _ROWS,
) -> Value:
    """Layer normalisation over the last axes, from `axis` on."""
    _check_order(order_X, order_Y)
    normal = layer_normalization(lowering, _floats(lowering, X, scale_X), scale, B, axis=axis, epsilon=epsilon)
    return _eight_bits(lowering, normal[0] if isinstance(normal, tuple) else normal, scale_Y)


@operator("QOrderedMatMul", domain=MICROSOFT)
def q_ordered_matmul(
    lowering: Lowering,
    A: Value,
    scale_A: Value,
    B: Value,
    scale_B: Value,
    scale_Y: Value,
    bias: Value | None = None,
    C: Value | None = None,
    scale_C: Value | None = None,
    *,
    order_A: int,
    order_B: int,
    order_Y: int,
) -> Value:
    """Matrix product with a bias, to which another value may be added."""
    _check_order(order_A, order_Y)
    product = _projected(lowering, _floats(lowering, A, scale_A), _weights(lowering, B, scale_B, order_B), bias)
    if C is not None and scale_C is not None:
        product = lowering.emit("add", product, _floats(lowering, C, scale_C))
    return _eight_bits(lowering, product, scale_Y)


def _projected(lowering: Lowering, x: Value, weights: Value, bias: Value | None) -> Value:
    product = lowering.emit("matmul", x, weights)
    return product if bias is None else lowering.emit("add", product, bias)


@operator("QOrderedAttention", domain=MICROSOFT)
def q_ordered_attention(
    lowering: Lowering,
    input: Value,
    scale_input: Value,
    scale_Q_gemm: Value,
    scale_K_gemm: Value,
    scale_V_gemm: Value,
    Q_weight: Value,
    K_weight: Value,
    V_weight: Value,
    scale_Q_weight: Value,
    scale_K_weight: Value,
    scale_V_weight: Value,
    Q_bias: Value,
    K_bias: Value,
    V_bias: Value,
    scale_QKT_gemm: Value | None,
    scale_QKT_softmax: Value | None,
    scale_values_gemm: Value,
    mask_index: Value | None = None,
    *others: Value | None,
    num_heads: int,
    order_input: int,
    order_output: int,
    order_weight: int,
    qkv_hidden_sizes: Sequence[int] = (),
    unidirectional: int = 0,
) -> Value:
    """Self-attention, rounded to 8 bits behind each product."""
    _check_order(order_input, order_output)
    if any(each is not None for each in others):
        raise UnsupportedError("a past or a bias of scores inside QOrderedAttention; use the model before that fusion")
    x = _floats(lowering, input, scale_input)

    def by_head(scale: Value, weights: Value, own: Value, bias: Value) -> Value:
        projected = _projected(lowering, x, _weights(lowering, weights, own, order_weight), bias)
        return split_heads(lowering, _rounded(lowering, projected, scale), num_heads)

    Q = by_head(scale_Q_gemm, Q_weight, scale_Q_weight, Q_bias)
    K = by_head(scale_K_gemm, K_weight, scale_K_weight, K_bias)
    V = by_head(scale_V_gemm, V_weight, scale_V_weight, V_bias)
    products = _rounded(lowering, lowering.emit("matmul", Q, lowering.transpose(K, (0, 1, 3, 2))), scale_QKT_gemm)
    hidden = masked(lowering, mask_index, Q, K, _FILTER), causal(lowering, Q, K) if unidirectional else None
    scores = lowering.scale(products, 1 / math.sqrt(Q.shape[3]))
    for bias in hidden:
        scores = scores if bias is None else lowering.emit("add", scores, bias)
    shares = _rounded(lowering, lowering.emit("softmax", scores, axis=3), scale_QKT_softmax)
    return _eight_bits(lowering, merge_heads(lowering, lowering.emit("matmul", shares, V)), scale_values_gemm)
