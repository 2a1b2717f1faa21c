"""Operators that onnxruntime's optimiser and its exporters write, in the domain com.microsoft: fused standard ones.

Each is lowered to what it was fused from, so that an optimised model is explained as the original is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from backtrace_jax.errors import ModelError, UnsupportedError
from backtrace_jax.ir import Value

from ..lowering import Lowering
from .activations import swish
from .contractions import conv, gemm
from .normalisation import last_axes, rms_normalization, stashed, statistics
from .registry import operator

MICROSOFT = "com.microsoft"

_ACTIVATIONS: dict[str, tuple[str, dict[str, float]]] = {  # the operation, and its settings with their default values
    "Clip": ("clip", {"low": -float("inf"), "high": float("inf")}),
    "Elu": ("elu", {"alpha": 1.0}),
    "HardSigmoid": ("hard_sigmoid", {"alpha": 0.2, "beta": 0.5}),
    "LeakyRelu": ("leaky_relu", {"alpha": 0.01}),
    "Relu": ("relu", {}),
    "Selu": ("selu", {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875}),
    "Sigmoid": ("sigmoid", {}),
    "Softplus": ("softplus", {}),
    "Softsign": ("softsign", {}),
    "Tanh": ("tanh", {}),
    "ThresholdedRelu": ("thresholded_relu", {"alpha": 1.0}),
}


def _activated(lowering: Lowering, value: Value, name: str, given: Sequence[float | None]) -> Value:
    """The activation of this name, its settings given in order; none if the name is empty."""
    if not name:
        return value
    if name not in _ACTIVATIONS:
        raise UnsupportedError(f"activation {name!r}; there are {', '.join(_ACTIVATIONS)}")
    op, settings = _ACTIVATIONS[name]
    numbers = [number for number in given if number is not None]
    return lowering.emit(op, value, **(settings | dict(zip(settings, numbers, strict=False))))


@operator("FusedMatMul", "TransposeMatMul", domain=MICROSOFT)
def fused_matmul(
    lowering: Lowering,
    A: Value,
    B: Value,
    *,
    alpha: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    transBatchA: int = 0,
    transBatchB: int = 0,
) -> Value:
    """alpha A B, with the last axes swapped, or the first axis behind those of the batch, on demand."""
    A = _transposed(lowering, A, transA, transBatchA)
    B = _transposed(lowering, B, transB, transBatchB)
    known_first = isinstance(A, np.ndarray)  # scaling a known factor costs nothing at run time
    A, B = (lowering.scale(A, alpha), B) if known_first else (A, lowering.scale(B, alpha))
    return lowering.emit("matmul", A, B)


def _transposed(lowering: Lowering, X: Value, swapped: int, batch_behind: int) -> Value:
    """A factor of a product as [batch, row, column]."""
    order = list(range(len(X.shape)))
    if len(order) > 1 and batch_behind:
        order = [*order[1:-1], 0, order[-1]]
    if len(order) > 1 and swapped:
        order[-2:] = order[:-3:-1]
    return lowering.transpose(X, order)


@operator("FusedMatMulActivation", domain=MICROSOFT)
def fused_matmul_activation(
    lowering: Lowering,
    A: Value,
    B: Value,
    *,
    activation: str = "",
    activation_alpha: float | None = None,
    activation_axis: int = 0,
    activation_beta: float | None = None,
    activation_gamma: float | None = None,
    **settings: Any,
) -> Value:
    """An activation of alpha A B."""
    result = fused_matmul(lowering, A, B, **settings)
    return _activated(lowering, result, activation, (activation_alpha, activation_beta, activation_gamma))


@operator("FusedGemm", domain=MICROSOFT)
def fused_gemm(
    lowering: Lowering,
    A: Value,
    B: Value,
    C: Value | None = None,
    *,
    activation: str = "",
    activation_alpha: float | None = None,
    activation_beta: float | None = None,
    activation_gamma: float | None = None,
    **settings: Any,
) -> Value:
    """An activation of alpha A B + beta C."""
    result = gemm(lowering, A, B, C, **settings)
    return _activated(lowering, result, activation, (activation_alpha, activation_beta, activation_gamma))


@operator("FusedConv", domain=MICROSOFT)
def fused_conv(
    lowering: Lowering,
    X: Value,
    W: Value,
    B: Value | None = None,
    Z: Value | None = None,
    *,
    activation: str = "",
    activation_params: Sequence[float] = (),
    **settings: Any,
) -> Value:
    """An activation of a convolution, to which Z is added before."""
    result = conv(lowering, X, W, B, **settings)
    result = result if Z is None else lowering.emit("add", result, Z)
    return _activated(lowering, result, activation, activation_params)


@operator("Gelu", domain=MICROSOFT)
def gelu(lowering: Lowering, X: Value) -> Value:
    """Gaussian error linear unit."""
    return lowering.emit("gelu", X, approximate=False)


@operator("BiasGelu", domain=MICROSOFT)
def bias_gelu(lowering: Lowering, A: Value, B: Value) -> Value:
    """Gaussian error linear unit of a sum."""
    return gelu(lowering, lowering.emit("add", A, B))


@operator("FastGelu", domain=MICROSOFT)
def fast_gelu(lowering: Lowering, X: Value, bias: Value | None = None) -> Value:
    """Gaussian error linear unit by tanh, of a sum if there is a bias."""
    total = X if bias is None else lowering.emit("add", X, bias)
    return lowering.emit("gelu", total, approximate=True)


@operator("QuickGelu", domain=MICROSOFT)
def quick_gelu(lowering: Lowering, X: Value, *, alpha: float = 1.702) -> Value:
    """x times the sigmoid of alpha x."""
    return swish(lowering, X, alpha=alpha)


@operator("BiasSplitGelu", domain=MICROSOFT)
def bias_split_gelu(lowering: Lowering, X: Value, bias: Value) -> Value:
    """Of a sum, the first half of the last axis times the Gaussian error linear unit of the second half."""
    total = lowering.emit("add", X, bias)
    *before, width = total.shape
    ones, half = (1,) * len(total.shape), width // 2
    first, second = (
        lowering.emit("slice", total, start=(*(0 for _ in before), at), limit=(*before, at + half), stride=ones)
        for at in (0, half)
    )
    return lowering.emit("mul", first, gelu(lowering, second))


@operator("BiasAdd", domain=MICROSOFT)
def bias_add(lowering: Lowering, X: Value, bias: Value, skip: Value) -> Value:
    """A sum of three."""
    return _sum(lowering, X, skip, bias)


@operator("SkipLayerNormalization", domain=MICROSOFT)
def skip_layer_normalization(
    lowering: Lowering,
    input: Value,
    skip: Value,
    gamma: Value,
    beta: Value | None = None,
    bias: Value | None = None,
    *,
    epsilon: float = 1e-12,
) -> tuple[Value, ...]:
    """Layer normalisation of a sum; returns mean, inverse deviation and the sum besides."""
    total = _sum(lowering, input, skip, bias)
    axes = last_axes(total, -1)
    affine = [gamma] if beta is None else [gamma, beta]
    result = stashed(lowering, "layer_norm", total, affine, 1, axes=axes, epsilon=epsilon)
    return result, *_if_asked(lowering, total, epsilon)


def _if_asked(lowering: Lowering, total: Value, epsilon: float) -> tuple[Value, ...]:
    """Mean, inverse deviation and the sum itself, where the node has more results than one."""
    if lowering.result_count == 1:
        return ()
    return *statistics(lowering, total, last_axes(total, -1), epsilon, 1), total


@operator("SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_simplified_layer_normalization(
    lowering: Lowering, input: Value, skip: Value, gamma: Value, bias: Value | None = None, *, epsilon: float = 1e-12
) -> tuple[Value, ...]:
    """Normalisation of a sum by its root mean square; returns the sum as the last result."""
    total = _sum(lowering, input, skip, bias)
    result = rms_normalization(lowering, total, gamma, epsilon=epsilon)
    if lowering.result_count == 1:
        return (result,)
    inverse = _inverse_root_mean_square(lowering, total, last_axes(total, -1), epsilon)
    return result, np.zeros(inverse.shape, np.float32), inverse, total


def _sum(lowering: Lowering, input: Value, skip: Value, bias: Value | None) -> Value:
    """What is skipped added to the input, whose own bias comes first: that is what the optimiser fuses."""
    own = input if bias is None else lowering.emit("add", input, bias)
    return lowering.emit("add", own, skip)


def _inverse_root_mean_square(lowering: Lowering, X: Value, axes: Sequence[int], epsilon: float) -> Value:
    wide = lowering.cast(X, np.dtype(np.float32))
    squares = lowering.emit("reduce_mean", lowering.emit("mul", wide, wide), axes=tuple(axes), keepdims=True)
    return lowering.emit("rsqrt", lowering.emit("add", squares, np.asarray(epsilon, np.float32)))


@operator("SimplifiedLayerNormalization")
@operator("SimplifiedLayerNormalization", domain=MICROSOFT)
def simplified_layer_normalization(
    lowering: Lowering, X: Value, scale: Value, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> tuple[Value, ...]:
    """Division by the root mean square over the last axes, from `axis` on; and its inverse where it is asked for."""
    result = rms_normalization(lowering, X, scale, axis=axis, epsilon=epsilon, stash_type=stash_type)
    if lowering.result_count == 1:
        return (result,)
    return result, _inverse_root_mean_square(lowering, X, last_axes(X, axis), epsilon)


@operator("GroupNorm", domain=MICROSOFT)
def group_norm(
    lowering: Lowering,
    X: Value,
    gamma: Value,
    beta: Value,
    *,
    activation: int,
    channels_last: int = 1,
    epsilon: float = 1e-5,
    groups: int,
) -> Value:
    """Groups of channels normalised together, and the SiLU of that if `activation` is 1."""
    rank = len(X.shape)
    channels_first = (0, rank - 1, *range(1, rank - 1))
    value = lowering.transpose(X, channels_first) if channels_last else X
    affine = [lowering.along_channels(operand, rank) for operand in (gamma, beta)]
    value = stashed(lowering, "group_norm", value, affine, 1, groups=groups, epsilon=epsilon)
    value = lowering.transpose(value, (0, *range(2, rank), 1)) if channels_last else value
    return lowering.emit("silu", value) if activation else value


@operator("SkipGroupNorm", domain=MICROSOFT)
def skip_group_norm(
    lowering: Lowering, X: Value, gamma: Value, beta: Value, skip: Value, bias: Value | None = None, **settings: Any
) -> tuple[Value, Value]:
    """Group normalisation of a sum, and the sum itself; what is skipped may lack the spatial axes."""
    if len(skip.shape) == 2:
        skip = lowering.reshape(skip, (skip.shape[0], *(1 for _ in X.shape[2:]), skip.shape[1]))
    total = _sum(lowering, X, skip, bias)
    return group_norm(lowering, total, gamma, beta, **settings), total


@operator("EmbedLayerNormalization", domain=MICROSOFT)
def embed_layer_normalization(
    lowering: Lowering,
    input_ids: Value,
    segment_ids: Value | None,
    word_embedding: Value,
    position_embedding: Value,
    segment_embedding: Value | None,
    gamma: Value,
    beta: Value,
    mask: Value | None = None,
    position_ids: Value | None = None,
    *,
    epsilon: float = 1e-12,
    mask_index_type: int = 0,
) -> tuple[Value, ...]:
    """Layer normalisation of the sum of embeddings; the number of tokens that are not masked, and the sum besides."""
    length = input_ids.shape[1]
    positions = np.arange(length).reshape(1, length) if position_ids is None else position_ids
    looked_up = [(word_embedding, input_ids), (position_embedding, positions), (segment_embedding, segment_ids)]
    rows = [lowering.emit("gather", table, at, axis=0) for table, at in looked_up if _both(table, at)]
    total = lowering.emit("add", *rows)
    result = stashed(lowering, "layer_norm", total, [gamma, beta], 1, axes=(2,), epsilon=epsilon)
    return result, _count(lowering, mask, input_ids.shape[0]), total


def _both(table: Value | None, positions: Value | None) -> bool:
    if (table is None) != (positions is None):
        raise ModelError("segment_ids and segment_embedding are needed together, or neither")
    return table is not None


def _count(lowering: Lowering, mask: Value | None, batch: int) -> Value:
    """How many tokens of each member of the batch the mask leaves."""
    if mask is None:
        return np.zeros(batch, np.int32)
    ones = lowering.cast(lowering.emit("equal", mask, np.ones((), mask.dtype)), np.dtype(np.int32))
    return lowering.emit("reduce_sum", ones, axes=(1,), keepdims=False)


@operator("MatMulNBits", domain=MICROSOFT)
def matmul_n_bits(
    lowering: Lowering,
    A: Value,
    B: Value,
    scales: Value,
    zero_points: Value | None = None,
    g_idx: Value | None = None,
    bias: Value | None = None,
    *,
    K: int,
    N: int,
    accuracy_level: int = 0,
    bits: int = 4,
    block_size: int,
    weight_prepacked: int = 0,
) -> Value:
    """A product with weights of a few bits each, which are known and read out here."""
    if g_idx is not None or weight_prepacked:
        raise UnsupportedError(
            "weights in an order of their own (g_idx, weight_prepacked); quantise them block by block"
        )
    packed = lowering.known(B, "the weights of MatMulNBits")
    levels = _unpacked(packed.reshape(N, -1, packed.shape[-1]), bits).astype(np.float32)
    factors = lowering.known(scales, "the scales of MatMulNBits").reshape(N, -1, 1)
    zero = _zero_points(lowering, zero_points, bits, factors.shape)
    weights = ((levels - zero) * factors.astype(np.float32)).reshape(N, -1)[:, :K].astype(A.dtype)
    result = lowering.emit("matmul", A, lowering.derived(B, np.ascontiguousarray(weights.T)))
    return result if bias is None else lowering.emit("add", result, bias)


def _zero_points(lowering: Lowering, packed: Value | None, bits: int, shape: tuple[int, ...]) -> np.ndarray:
    """The level that stands for 0 in each block."""
    if packed is None:
        return np.full((), 2 ** (bits - 1), np.float32)
    known = lowering.known(packed, "the zero points of MatMulNBits")
    if known.dtype != np.uint8:
        return known.reshape(shape).astype(np.float32)
    return _unpacked(known.reshape(shape[0], -1), bits)[:, : shape[1]].reshape(shape).astype(np.float32)


def _unpacked(packed: np.ndarray, bits: int) -> np.ndarray:
    """Numbers of a few bits each, the lowest bit first, out of the bytes along the last axis."""
    stream = np.unpackbits(packed, axis=-1, bitorder="little")
    count = stream.shape[-1] // bits
    numbers = stream[..., : count * bits].reshape(*packed.shape[:-1], count, bits)
    return (numbers << np.arange(bits, dtype=np.uint8)).sum(axis=-1, dtype=np.uint8)
