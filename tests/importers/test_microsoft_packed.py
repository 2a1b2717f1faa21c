"""Attention of packed tokens and of one token at a time, against onnxruntime's plain attention."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from backtrace_jax.errors import UnsupportedError
from tests.zoo.runtime import onnxruntime_outputs

from .nodes import check_node, floats, node_model

check = partial(check_node, domain="com.microsoft", rtol=1e-4, atol=1e-5)
COUNTS = np.asarray([1, 3], np.int32)
OFFSETS = np.asarray([[0, 4, 5, 6], [1, 2, 3, 7]], np.int32)
ENDS = np.asarray([0, 1, 4], np.int32)
KEPT = OFFSETS.reshape(-1)[:4]


def packed(x):
    return x.reshape(-1, x.shape[2])[KEPT]


def reference(op_type, operands, **settings):
    inputs = {f"x{i}": operand for i, operand in enumerate(operands) if operand is not None}
    return onnxruntime_outputs(node_model(op_type, operands, domain="com.microsoft", **settings), inputs)


def test_padding_is_removed_and_restored():
    X = floats(2, 4, 3)
    results = [packed(X), OFFSETS, ENDS, np.asarray([3], np.int32)]
    check("RemovePadding", [X, COUNTS], (1,), results, results=4)
    restored = np.zeros((8, 3), np.float32)
    restored[KEPT] = packed(X)
    check("RestorePadding", [packed(X), OFFSETS], (1,), [restored.reshape(2, 4, 3)])


def test_self_attention():
    X, W, b = floats(2, 4, 6), floats(6, 18, seed=1), floats(18, seed=2)
    (wanted,) = reference("Attention", [X, W, b, COUNTS], num_heads=2)
    check("PackedAttention", [packed(X), W, b, OFFSETS, ENDS], (1, 2, 3, 4), [packed(wanted)], num_heads=2)


def test_queries_keys_and_values():
    Q, K, V = floats(2, 4, 6), floats(2, 4, 6, seed=1), floats(2, 4, 8, seed=2)
    bias = floats(20, seed=3)
    (wanted,) = reference("MultiHeadAttention", [Q, K, V, bias, COUNTS], num_heads=2)
    operands = [packed(Q), packed(K), packed(V), bias, OFFSETS, ENDS]
    check("PackedMultiHeadAttention", operands, (3, 4, 5), [packed(wanted)], num_heads=2)


def test_queries_keys_and_values_side_by_side():
    Q, K, V = (floats(2, 4, 6, seed=seed) for seed in range(3))
    (wanted,) = reference("MultiHeadAttention", [Q, K, V, None, COUNTS], num_heads=2)
    joined = np.stack([packed(x).reshape(4, 2, 3) for x in (Q, K, V)], 2)
    check("PackedMultiHeadAttention", [joined, None, None, None, OFFSETS, ENDS], (4, 5), [packed(wanted)], num_heads=2)


def decoding():
    """Operands of DecoderMaskedMultiHeadAttention: one token, two heads of size 4, a past of three."""
    parts, past = [floats(2, 1, 8, seed=seed) for seed in range(3)], [floats(2, 2, 3, 4, seed=seed) for seed in (3, 4)]
    mask = np.asarray([[1, 0, 1, 1], [1, 1, 1, 1]], np.int32)
    return parts, mask, past


def test_one_token():
    parts, mask, past = decoding()
    operands = [*parts, mask, None, *past, None, None, None, floats(24, seed=5)]
    wanted = reference("MultiHeadAttention", [*parts, floats(24, seed=5), mask, None, *past], num_heads=2, results=3)
    check("DecoderMaskedMultiHeadAttention", operands, (10,), wanted, num_heads=2, results=3)


def test_one_token_and_its_projections():
    X, W, b, past = floats(2, 1, 6), floats(6, 18, seed=1), floats(18, seed=2), floats(2, 2, 2, 3, 3, seed=3)
    wanted = reference("Attention", [X, W, b, None, past], num_heads=2, results=2)
    operands = [X, W, b, None, past, None, np.asarray([3], np.int32)]
    check("DecoderMaskedSelfAttention", operands, (1, 2, 6), wanted, num_heads=2, results=2)


def test_caches_of_a_search_are_refused():
    parts, mask, past = decoding()
    operands = [*parts, mask, None, *past]
    with pytest.raises(UnsupportedError, match="without past_present_share_buffer"):
        check("DecoderMaskedMultiHeadAttention", operands, (), [], num_heads=2, past_present_share_buffer=1)
