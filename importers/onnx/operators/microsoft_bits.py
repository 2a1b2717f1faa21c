"""Weights of a few bits each, in the domain com.microsoft: read out here, so that they are weights as any others."""

from __future__ import annotations

import numpy as np

from backtrace_jax.errors import ModelError, UnsupportedError
from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from .indexing import gather
from .microsoft import MICROSOFT
from .quantisation import dequantize_linear
from .registry import operator

_FLOAT4 = np.asarray([0, 1 / 192, 2 / 3, 1, 1 / 3, 1 / 2, 1 / 6, 1 / 4], np.float32)
_NORMAL4 = np.asarray(  # quantiles of the normal distribution (Dettmers et al. 2023, appendix E)
    [-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
     -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
     0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1],
    np.float32,
)  # fmt: skip
_CODES = (np.concatenate([_FLOAT4, -_FLOAT4]), _NORMAL4)  # what four bits stand for, by `quant_type`


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
    """A product with weights of a few bits each, in blocks along the rows, or in groups that `g_idx` names."""
    if weight_prepacked:
        raise UnsupportedError("weights in an order of their own (weight_prepacked); quantise them block by block")
    packed = lowering.known(B, "the weights of MatMulNBits")
    levels = unpacked(packed.reshape(N, -1), bits)[:, :K].astype(np.float32)
    factors = lowering.known(scales, "the scales of MatMulNBits").reshape(N, -1).astype(np.float32)
    zero = _zero_points(lowering, zero_points, bits, factors.shape)
    groups = np.arange(K) // block_size if g_idx is None else lowering.known(g_idx, "the groups of MatMulNBits")[:K]
    weights = ((levels - zero[:, groups]) * factors[:, groups]).astype(A.dtype)
    result = lowering.emit("matmul", A, lowering.derived(B, np.ascontiguousarray(weights.T)))
    return result if bias is None else lowering.emit("add", result, bias)


def _zero_points(lowering: Lowering, packed: Value | None, bits: int, shape: tuple[int, ...]) -> np.ndarray:
    """The level that stands for 0 in each block."""
    if packed is None:
        return np.full(shape, 2 ** (bits - 1), np.float32)
    known = lowering.known(packed, "the zero points of MatMulNBits")
    if known.dtype != np.uint8:
        return known.reshape(shape).astype(np.float32)
    return unpacked(known.reshape(shape[0], -1), bits)[:, : shape[1]].astype(np.float32)


def unpacked(packed: np.ndarray, bits: int) -> np.ndarray:
    """Numbers of a few bits each, the lowest bit first, out of the bytes along the last axis."""
    stream = np.unpackbits(packed, axis=-1, bitorder="little")
    count = stream.shape[-1] // bits
    numbers = stream[..., : count * bits].reshape(*packed.shape[:-1], count, bits)
    return (numbers << np.arange(bits, dtype=np.uint8)).sum(axis=-1, dtype=np.uint8)


@operator("MatMulBnb4", domain=MICROSOFT)
def matmul_bnb4(
    lowering: Lowering,
    A: Value,
    B: Value,
    absmax: Value,
    *,
    K: int,
    N: int,
    block_size: int,
    quant_type: int,
    training_mode: int = 0,
    transB: int = 1,
) -> Value:
    """A product with weights of four bits each, floats or quantiles, in blocks along all of them."""
    if quant_type not in (0, 1):
        raise ModelError(f"quant_type should be 0 (four-bit floats) or 1 (quantiles); found {quant_type}")
    packed = lowering.known(B, "the weights of MatMulBnb4").reshape(-1, 1)
    codes = np.concatenate([packed >> 4, packed & 15], axis=1).reshape(-1)[: N * K]
    factors = lowering.known(absmax, "the scales of MatMulBnb4").astype(np.float32)
    weights = _CODES[quant_type][codes] * np.repeat(factors, block_size)[: N * K]
    matrix = weights.reshape(N, K).astype(A.dtype)
    return lowering.emit("matmul", A, lowering.derived(B, np.ascontiguousarray(matrix.T) if transB else matrix))


@operator("GatherBlockQuantized", domain=MICROSOFT)
def gather_block_quantized(
    lowering: Lowering,
    data: Value,
    indices: Value,
    scales: Value,
    zero_points: Value | None = None,
    *,
    bits: int = 4,
    block_size: int = 128,
    gather_axis: int = 0,
    quantize_axis: int = 1,
) -> Value:
    """Rows of a table that is quantised in blocks along an axis."""
    levels, zero = data, zero_points
    if data.dtype == np.uint8:  # several numbers in a byte
        levels = unpacked(lowering.known(data, "the table of GatherBlockQuantized"), bits)
        zero = np.asarray(2 ** (bits - 1), np.uint8)
        if zero_points is not None:
            packed = lowering.known(zero_points, "the zero points of GatherBlockQuantized")
            zero = unpacked(packed, bits)[..., : scales.shape[-1]]
    size = block_size or levels.shape[quantize_axis]
    table = dequantize_linear(lowering, levels, scales, zero, axis=quantize_axis, block_size=size)
    named = lowering.derived(data, table) if isinstance(table, np.ndarray) else table
    return gather(lowering, named, indices, axis=gather_axis)
