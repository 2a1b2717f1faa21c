"""Mixtures of experts against onnxruntime, or against the formula of its schema where it has no kernel for CPUs."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from backtrace_jax.errors import ModelError, UnsupportedError
from tests.zoo.runtime import onnxruntime_outputs

from .nodes import check_node, floats, node_model

check = partial(check_node, domain="com.microsoft", rtol=1e-4, atol=1e-4)
X, ROUTER = floats(3, 6), floats(3, 4, seed=1)
FIRST, SECOND = (floats(4, 5, 6, seed=2), floats(4, 5, seed=3)), (floats(4, 6, 5, seed=4), floats(4, 6, seed=5))
WIDE = floats(4, 10, 6, seed=6), floats(4, 10, seed=7)


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("normalised", [0, 1])
@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "identity"])
def test_mixtures(k, normalised, activation):
    settings = {"k": k, "normalize_routing_weights": normalised, "activation_type": activation}
    check("MoE", [X, ROUTER, *FIRST, *SECOND], (2, 3, 4, 5), **settings)


GATED = {"k": 2, "activation_type": "swiglu", "normalize_routing_weights": 1}


@pytest.mark.parametrize(
    "more", [{}, {"activation_alpha": 1.702, "activation_beta": 1.0, "swiglu_limit": 0.7}], ids=str
)
def test_gated_experts(more):
    check("MoE", [X.reshape(1, 3, 6), ROUTER, *WIDE, *SECOND], (2, 3, 4, 5), swiglu_fusion=1, **GATED, **more)


def test_gates_as_halves_and_apart():
    """Only interleaved gates have a kernel; the others are the same weights in another order."""
    turned = [np.concatenate([each[:, 0::2], each[:, 1::2]], 1) for each in WIDE]
    model = node_model(
        "MoE", [X, ROUTER, *WIDE, *SECOND], (2, 3, 4, 5), domain="com.microsoft", swiglu_fusion=1, **GATED
    )
    wanted = onnxruntime_outputs(model, {"x0": X, "x1": ROUTER})
    check("MoE", [X, ROUTER, *turned, *SECOND], (2, 3, 4, 5), wanted, swiglu_fusion=2, **GATED)
    gates, beside = zip(*(np.split(each, 2, 1) for each in turned), strict=True)
    check("MoE", [X, ROUTER, *gates, *SECOND, *beside], (2, 3, 4, 5, 6, 7), wanted, **GATED)


def quantised(rows, columns, bits, block, zero, seed):
    """Bytes, scales and zero points of four experts, and the floats that they stand for."""
    generator = np.random.default_rng(seed)
    levels = generator.integers(0, 2**bits, (4, rows, columns), np.uint8)
    blocks = (4, rows, columns // block) if block else (4, rows)
    scales = generator.uniform(0.01, 0.02, blocks).astype(np.float32)
    points = generator.integers(0, 2**bits, blocks, np.uint8) if zero else np.full(blocks, 2 ** (bits - 1))
    size = block or columns
    spread = [np.repeat(each.reshape(4, rows, -1), size, 2) for each in (scales, points)]
    floats = ((levels - spread[1].astype(np.float32)) * spread[0]).astype(np.float32)
    return in_bytes(levels, bits), scales, in_bytes(points, bits) if zero else None, floats


def in_bytes(levels, bits):
    if bits == 8:
        return levels
    pairs = np.pad(levels, [(0, 0)] * (levels.ndim - 1) + [(0, levels.shape[-1] % 2)])
    return pairs[..., 0::2] | pairs[..., 1::2] << 4


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block", [0, 16])
@pytest.mark.parametrize("zero", [False, True])
def test_quantised_experts(bits, block, zero):
    """With 8 bits in blocks onnxruntime rounds what the experts read as well: there its floats are the reference."""
    into, out = quantised(16, 32, bits, block, zero, 0), quantised(32, 16, bits, block, zero, 1)
    first, second, tokens = floats(4, 16), floats(4, 32, seed=1), floats(3, 32, seed=2)
    operands = [tokens, ROUTER, into[0], into[1], first, out[0], out[1], second, None, None, None, into[2], out[2]]
    settings, wanted = {"k": 2, "normalize_routing_weights": 1}, None
    if bits == 8 and block:
        plain = [tokens, ROUTER, into[3], first, out[3], second]
        model = node_model("MoE", plain, (2, 3, 4, 5), domain="com.microsoft", **settings)
        wanted = onnxruntime_outputs(model, {"x0": tokens, "x1": ROUTER})
    settings |= {"expert_weight_bits": bits} | ({"block_size": block} if block else {})
    check("QMoE", operands, (2, 3, 4, 5, 6, 7, 11, 12), wanted, **settings)


def test_what_is_refused():
    operands = [X, ROUTER, *FIRST, *SECOND]
    with pytest.raises(UnsupportedError, match="use_sparse_mixer"):
        check("MoE", operands, (2, 3, 4, 5), [], use_sparse_mixer=1)
    with pytest.raises(ModelError, match="should be relu"):
        check("MoE", operands, (2, 3, 4, 5), [], activation_type="swirl")
    with pytest.raises(ModelError, match="needs the weights of fc3"):
        check("MoE", operands, (2, 3, 4, 5), [], activation_type="swiglu")
    quantised = [X, ROUTER, np.zeros((4, 5, 3), np.uint8), None, None, np.zeros((4, 6, 3), np.uint8), None]
    with pytest.raises(UnsupportedError, match="raw integers"):
        check("QMoE", quantised, (2, 5), [], quant_type="fp4")
    with pytest.raises(ModelError, match="need scales"):
        check("QMoE", quantised, (2, 5), [])
