"""Weights of few bits, against onnxruntime."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from backtrace_jax.errors import ModelError, UnsupportedError

from .nodes import check_node, floats


def quantised(bits, block_size, K, N, zero_points, seed=0):
    generator = np.random.default_rng(seed)
    blocks = -(-K // block_size)
    B = generator.integers(0, 256, (N, blocks, block_size * bits // 8), np.uint8)
    scales = generator.uniform(0.5, 1, (N, blocks)).astype(np.float32)
    if zero_points == "packed":
        return B, scales, generator.integers(0, 256, (N, -(-blocks * bits // 8)), np.uint8)
    return B, scales, generator.uniform(0, 8, (N, blocks)).astype(np.float32) if zero_points else None


@pytest.mark.parametrize("bits", [4, 8, 2])
@pytest.mark.parametrize("zero_points", ["", "packed"])
def test_weights_of_few_bits(bits, zero_points):
    B, scales, zero = quantised(bits, 16, 40, 6, zero_points)
    settings = {"K": 40, "N": 6, "bits": bits, "block_size": 16, "rtol": 1e-3, "atol": 1e-3}
    operands = [floats(2, 3, 40), B, scales, zero]
    check_node("MatMulNBits", operands, (1, 2, 3), domain="com.microsoft", **settings)


def test_weights_in_groups_of_their_own():
    B, scales, _ = quantised(4, 16, 32, 6, "")
    groups = np.random.default_rng(1).permutation(np.arange(32) // 16).astype(np.int32)
    operands = [floats(2, 32), B, scales, None, groups]
    settings = {"K": 32, "N": 6, "bits": 4, "block_size": 16, "rtol": 1e-3, "atol": 1e-3}
    check_node("MatMulNBits", operands, (1, 2, 4), domain="com.microsoft", **settings)


def test_weights_packed_for_a_kernel_are_refused():
    B, scales, _ = quantised(4, 16, 32, 6, "")
    settings = {"K": 32, "N": 6, "bits": 4, "block_size": 16, "weight_prepacked": 1}
    with pytest.raises(UnsupportedError, match="block by block"):
        check_node("MatMulNBits", [floats(2, 32), B, scales], (1, 2), [], domain="com.microsoft", **settings)


@pytest.mark.parametrize("quant_type", [0, 1])
def test_floats_and_quantiles_of_four_bits(quant_type):
    generator = np.random.default_rng(0)
    B, absmax = generator.integers(0, 256, 24 * 6 // 2, np.uint8), generator.uniform(0.5, 1, 9).astype(np.float32)
    settings = {"K": 24, "N": 6, "block_size": 16, "quant_type": quant_type, "rtol": 1e-4}
    check_node("MatMulBnb4", [floats(2, 24), B, absmax], (1, 2), domain="com.microsoft", **settings)


def test_weights_of_no_known_kind():
    operands = [floats(2, 24), np.zeros(72, np.uint8), np.ones(9, np.float32)]
    settings = {"K": 24, "N": 6, "block_size": 16, "quant_type": 2}
    with pytest.raises(ModelError, match="quant_type should be 0"):
        check_node("MatMulBnb4", operands, (1, 2), [], domain="com.microsoft", **settings)


IDS = np.asarray([[3, 0, 4], [1, 1, 2]])


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zero", [False, True])
def test_a_table_of_bytes(bits, zero):
    generator = np.random.default_rng(0)
    data, scales = generator.integers(0, 256, (5, 32 * bits // 8), np.uint8), floats(5, 2, seed=1)
    points = generator.integers(0, 256, (5, 2 * bits // 8), np.uint8) if zero else None
    settings = {"bits": bits, "block_size": 16, "quantize_axis": 1, "gather_axis": 0}
    check_node("GatherBlockQuantized", [data, IDS, scales, points], (0, 2, 3), domain="com.microsoft", **settings)


@pytest.mark.parametrize("dtype", [ml_dtypes.int4, ml_dtypes.uint4])
def test_a_table_of_half_bytes(dtype):
    low = -8 if dtype is ml_dtypes.int4 else 0
    data = np.random.default_rng(0).integers(low, low + 16, (5, 32)).astype(dtype)
    settings = {"block_size": 16, "quantize_axis": 1, "gather_axis": 0, "domain": "com.microsoft"}
    check_node("GatherBlockQuantized", [data, IDS, floats(5, 2, seed=1)], (0, 2), **settings)
