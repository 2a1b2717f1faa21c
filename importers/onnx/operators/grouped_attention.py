"""GroupQueryAttention of com.microsoft: grouped queries, rotated, behind a cache of keys and values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from backtrace_jax.errors import ModelError, UnsupportedError
from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from .heads import Scoring, additive, attend, merge_heads, split_heads, total, within
from .microsoft import MICROSOFT
from .microsoft_attention import cut
from .normalisation import rms_normalization
from .registry import operator
from .rotary import at_positions, turned


@dataclass(frozen=True)
class Cache:
    """What is kept of earlier calls.

    Attributes:
        size: Length of the cache passed in.
        length: Length of the cache passed out.
        filled: How much of it comes before the first query, for each member of the batch [batch, 1], or for all [1, 1].
    """

    size: int
    length: int
    filled: Value


@operator("GroupQueryAttention", domain=MICROSOFT)
def group_query_attention(
    lowering: Lowering,
    query: Value,
    key: Value | None,
    value: Value | None,
    past_key: Value | None,
    past_value: Value | None,
    seqlens_k: Value,
    total_sequence_length: Value,
    cos_cache: Value | None = None,
    sin_cache: Value | None = None,
    position_ids: Value | None = None,
    attention_bias: Value | None = None,
    head_sink: Value | None = None,
    k_scale: Value | None = None,
    v_scale: Value | None = None,
    q_norm_weight: Value | None = None,
    k_norm_weight: Value | None = None,
    *,
    causal: int = 1,
    do_rotary: int = 0,
    kv_num_heads: int,
    local_window_size: int = -1,
    num_heads: int,
    qk_norm_epsilon: float = 1e-6,
    qk_output: int = 0,
    rotary_interleaved: int = 0,
    scale: float | None = None,
    smooth_softmax: int = -1,
    softcap: float = 0.0,
    **storage: Any,
) -> tuple[Value, ...]:
    """Attention of grouped queries; returns the result, all keys and values, and scores if they are asked for."""
    if k_scale is not None or v_scale is not None or storage.get("sliding_window_cache"):
        raise UnsupportedError("a cache that is quantised or slides; export the model with a plain one")
    parts = _parts(lowering, query, key, value, num_heads, kv_num_heads)
    weights = (q_norm_weight, k_norm_weight, None)
    Q, K, V = (_normalised(lowering, X, by, qk_norm_epsilon) for X, by in zip(parts, weights, strict=True))
    cache = _cache(lowering, past_key, seqlens_k, total_sequence_length, K.shape[2])
    positions = lowering.emit("add", cache.filled, np.arange(Q.shape[2], dtype=cache.filled.dtype))
    if do_rotary:
        angles = _angles(lowering, cos_cache, sin_cache, positions if position_ids is None else position_ids)
        Q, K = (turned(lowering, X, angles, bool(rotary_interleaved)) for X in (Q, K))
    K, V = (_cached(lowering, cache, past, X) for past, X in ((past_key, K), (past_value, V)))
    window = _window(lowering, positions, K.shape[2], local_window_size) if causal else _filled(lowering, seqlens_k, K)
    bias = total(lowering, (additive(lowering, window, np.dtype(Q.dtype)), attention_bias))
    sink = np.zeros(num_heads, Q.dtype) if head_sink is None and smooth_softmax == 1 else head_sink
    attended = attend(lowering, Q, K, V, bias, Scoring(scale or None, softcap, sink=sink))
    shown = attended.masked if qk_output == 1 else attended.weights
    return merge_heads(lowering, attended.result), K, V, shown


def _parts(
    lowering: Lowering, query: Value, key: Value | None, value: Value | None, heads: int, kv_heads: int
) -> list[Value]:
    """Queries, keys and values by heads; they may come packed, side by side."""
    if key is None or value is None:
        size = query.shape[2] // (heads + 2 * kv_heads)
        query, key, value = cut(lowering, query, (heads * size, kv_heads * size, kv_heads * size))
    return [split_heads(lowering, X, count) for X, count in ((query, heads), (key, kv_heads), (value, kv_heads))]


def _normalised(lowering: Lowering, X: Value, weight: Value | None, epsilon: float) -> Value:
    return X if weight is None else rms_normalization(lowering, X, weight, epsilon=epsilon)


def _cache(lowering: Lowering, past: Value | None, seqlens_k: Value, whole: Value, steps: int) -> Cache:
    """The cache that goes with the keys of this call; a first call has none before it."""
    size = 0 if past is None else past.shape[2]
    (longest,) = lowering.integers(whole, "the total sequence length") if size else (steps,)
    if longest == steps:
        return Cache(size, max(size, steps), np.zeros((1, 1), np.int64))
    last = lowering.cast(lowering.reshape(seqlens_k, (_count(seqlens_k), 1)), np.dtype(np.int64))
    return Cache(size, max(size, longest), lowering.emit("add", last, np.asarray(1 - steps)))


def _count(lengths: Value) -> int:
    return math.prod(lengths.shape)


def _angles(lowering: Lowering, cosines: Value | None, sines: Value | None, positions: Value) -> tuple[Value, Value]:
    if cosines is None or sines is None:
        raise ModelError("rotation (do_rotary) needs tables of cosines and sines")
    return at_positions(lowering, cosines, positions), at_positions(lowering, sines, positions)


def _cached(lowering: Lowering, cache: Cache, past: Value | None, X: Value) -> Value:
    """The cache with the keys or values of this call behind what is filled."""
    if past is None or not cache.size:
        return X
    joined = lowering.emit("concat", past, X, axis=2)
    filled = cache.filled
    if isinstance(filled, np.ndarray) and cache.length == joined.shape[2] and (filled == cache.size).all():
        return joined
    rows = lowering.transpose(joined, (0, 2, 1, 3))
    places = _places(lowering, cache, X.shape[0], X.shape[2])
    return lowering.transpose(lowering.emit("gather_nd", rows, places, batch_dims=1), (0, 2, 1, 3))


def _places(lowering: Lowering, cache: Cache, batch: int, steps: int) -> Value:
    """Where each entry of the new cache is in the old one with the new keys behind it [batch, length, 1]."""
    order = np.arange(cache.length).reshape(1, -1)
    ahead = lowering.emit("sub", order, cache.filled)  # how far each entry is behind the first new one
    new = lowering.emit(
        "logical_and",
        *(lowering.emit(op, ahead, np.asarray(limit)) for op, limit in (("greater_equal", 0), ("less", steps))),
    )
    old = np.minimum(order, cache.size - 1)
    places = lowering.emit("where", new, lowering.emit("add", ahead, np.asarray(cache.size)), old)
    every = lowering.emit("expand", places, shape=(batch, cache.length))
    return lowering.reshape(every, (batch, cache.length, 1))


def _window(lowering: Lowering, positions: Value, keys: int, size: int) -> Value | None:
    """What the queries at these positions [batch, queries] see; a window counts the query's own position."""
    batch, queries = positions.shape
    behind = size - 1 if size > 0 else -1
    return within(lowering, lowering.reshape(positions, (batch, 1, queries, 1)), keys, behind, 0)


def _filled(lowering: Lowering, seqlens_k: Value, K: Value) -> Value | None:
    """The keys up to the last one of each member of the batch."""
    return within(lowering, lowering.reshape(seqlens_k, (_count(seqlens_k), 1, 1, 1)), K.shape[2], ahead=0)
