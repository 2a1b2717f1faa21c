"""Biases of attention scores by relative position, in the domain com.microsoft."""

from __future__ import annotations

import math

import numpy as np

from backtrace_jax.errors import UnsupportedError
from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from .heads import split_heads
from .microsoft import MICROSOFT
from .registry import operator


@operator("RelativePositionBias", domain=MICROSOFT)
def relative_position_bias(
    lowering: Lowering,
    bias_table: Value,
    query_length: Value,
    key_length: Value,
    *,
    is_bidirectional: int = 0,
    max_distance: int,
) -> Value:
    """A table [bucket, head] read by how far each key is from each query: [1, head, query, key]."""
    queries, keys = (
        int(lowering.known(length, "the length of a sequence").item()) for length in (query_length, key_length)
    )
    distance = np.arange(keys)[None] - np.arange(queries)[:, None]
    buckets = _buckets(distance, bias_table.shape[0], max_distance, bool(is_bidirectional))
    rows = lowering.emit("gather_nd", bias_table, buckets[..., None], batch_dims=0)
    return lowering.reshape(lowering.transpose(rows, (2, 0, 1)), (1, bias_table.shape[1], queries, keys))


def _buckets(distance: np.ndarray, count: int, furthest: int, both_ways: bool) -> np.ndarray:
    """Raffel et al. 2020, section 2.1: a bucket for each small distance, then ranges that grow like logarithms."""
    first = np.zeros_like(distance)
    if both_ways:
        count //= 2
        first = np.where(distance > 0, count, 0)
    size = np.abs(distance) if both_ways else np.maximum(-distance, 0)
    exact = count // 2
    spread = np.log(np.maximum(size, 1).astype(np.float32) / exact) / np.float32(math.log(furthest / exact))
    far = np.minimum(exact + (spread * (count - exact)).astype(np.int64), count - 1)
    return first + np.where(size < exact, size, far)


@operator("GatedRelativePositionBias", domain=MICROSOFT)
def gated_relative_position_bias(
    lowering: Lowering,
    query_layer: Value,
    query_bias: Value,
    rel_pos: Value,
    weight: Value,
    bias: Value,
    eco_a: Value,
    token_offset: Value | None = None,
    *,
    num_heads: int,
) -> Value:
    """A bias [1, head, query, key] times a gate that each query computes (Chi et al. 2022, section 3)."""
    if token_offset is not None:
        raise UnsupportedError("packed tokens (token_offset); use the model before its conversion to packing mode")
    queries = split_heads(lowering, lowering.emit("add", query_layer, query_bias), num_heads)
    projected = lowering.emit("add", lowering.emit("matmul", queries, weight), bias)
    pairs = lowering.reshape(projected, (*queries.shape[:3], 2, weight.shape[1] // 2))
    gates = lowering.emit("sigmoid", lowering.emit("reduce_sum", pairs, axes=(4,), keepdims=False))
    update, reset = (_column(lowering, gates, i) for i in range(2))
    one, two = (np.asarray(number, gates.dtype) for number in (1, 2))
    inner = lowering.emit("sub", lowering.emit("mul", reset, eco_a), one)
    gate = lowering.emit("add", lowering.emit("mul", update, inner), two)
    return lowering.emit("mul", gate, rel_pos)


def _column(lowering: Lowering, X: Value, position: int) -> Value:
    """One entry of the last axis, which stays."""
    return lowering.part(X, -1, position, position + 1)
