"""Attention as onnxruntime fuses it: with its projections (Attention) and without them (MultiHeadAttention)."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from backtrace_jax.errors import ModelError, UnsupportedError
from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from .heads import Scoring, additive, after_past, attend, both, merge_heads, split_heads, total, within
from .microsoft import MICROSOFT
from .registry import operator

_FILTER = -10000.0  # what onnxruntime adds to the score of a masked key


@operator("Attention", domain=MICROSOFT)
def attention(
    lowering: Lowering,
    input: Value,
    weights: Value,
    bias: Value | None = None,
    mask_index: Value | None = None,
    past: Value | None = None,
    attention_bias: Value | None = None,
    past_sequence_length: Value | None = None,
    *,
    do_rotary: int = 0,
    mask_filter_value: float = _FILTER,
    num_heads: int,
    past_present_share_buffer: int = 0,
    qkv_hidden_sizes: tuple[int, ...] = (),
    rotary_embedding_dim: int = 0,
    scale: float | None = None,
    unidirectional: int = 0,
) -> tuple[Value, ...]:
    """Self-attention, its projections included; returns the keys and values stacked as well."""
    if do_rotary or past_present_share_buffer:
        raise UnsupportedError("rotation or a shared buffer inside Attention; use GroupQueryAttention or fuse less")
    projected = lowering.emit("matmul", input, weights)
    projected = projected if bias is None else lowering.emit("add", projected, bias)
    settings = {"mask_filter_value": mask_filter_value, "scale": scale, "unidirectional": unidirectional}
    operands = mask_index, past, attention_bias
    return self_attention(lowering, projected, *operands, num_heads, qkv_hidden_sizes, **settings)


def self_attention(
    lowering: Lowering,
    projected: Value,
    mask_index: Value | None,
    past: Value | None,
    attention_bias: Value | None,
    num_heads: int,
    sizes: tuple[int, ...] = (),
    *,
    mask_filter_value: float = _FILTER,
    scale: float | None = None,
    unidirectional: int = 0,
) -> tuple[Value, ...]:
    """Attention of queries, keys and values side by side [batch, length, sizes]; keys and values stacked as well."""
    parts = cut(lowering, projected, sizes or (projected.shape[2] // 3,) * 3)
    Q, K, V = (split_heads(lowering, part, num_heads) for part in parts)
    before = [None, None] if past is None else [_entry(lowering, past, i) for i in range(2)]
    K, V = (after_past(lowering, old, new) for old, new in zip(before, (K, V), strict=True))
    hidden = masked(lowering, mask_index, Q, K, mask_filter_value)
    seen = total(lowering, (hidden, causal(lowering, Q, K) if unidirectional else None, attention_bias))
    result = merge_heads(lowering, attend(lowering, Q, K, V, seen, Scoring(_given(scale))).result)
    return (result, _stacked(lowering, K, V)) if lowering.result_count > 1 else (result,)


@operator("MultiHeadAttention", domain=MICROSOFT)
def multi_head_attention(
    lowering: Lowering,
    query: Value,
    key: Value | None = None,
    value: Value | None = None,
    bias: Value | None = None,
    key_padding_mask: Value | None = None,
    attention_bias: Value | None = None,
    past_key: Value | None = None,
    past_value: Value | None = None,
    past_sequence_length: Value | None = None,
    cache_indirection: Value | None = None,
    *,
    mask_filter_value: float = _FILTER,
    num_heads: int,
    scale: float | None = None,
    unidirectional: int = 0,
) -> tuple[Value, ...]:
    """Attention of any queries, keys and values; returns keys, values and scores besides."""
    if past_sequence_length is not None or cache_indirection is not None:
        raise UnsupportedError("a cache that is shared or searched by beams; export the model without it")
    parts = _with_bias(lowering, _unpacked(lowering, query, key, value), bias)
    Q, K, V = (split_heads(lowering, part, num_heads) if len(part.shape) == 3 else part for part in parts)
    K, V = after_past(lowering, past_key, K), after_past(lowering, past_value, V)
    hidden = masked(lowering, key_padding_mask, Q, K, mask_filter_value)
    seen = total(lowering, (hidden, causal(lowering, Q, K) if unidirectional else None, attention_bias))
    attended = attend(lowering, Q, K, V, seen, Scoring(_given(scale)))
    return merge_heads(lowering, attended.result), K, V, attended.masked


def _given(scale: float | None) -> float | None:
    """onnxruntime takes a scale of 0 for none."""
    return scale or None


def cut(lowering: Lowering, X: Value, sizes: tuple[int, ...]) -> list[Value]:
    """The last axis in parts of these sizes."""
    if sum(sizes) != X.shape[-1]:
        raise ModelError(f"parts of sizes {tuple(sizes)} do not add up to {X.shape[-1]}")
    ends = np.cumsum((0, *sizes)).tolist()
    return [lowering.part(X, -1, low, high) for low, high in pairwise(ends)]


def _entry(lowering: Lowering, X: Value, position: int, axis: int = 0) -> Value:
    """One entry along an axis, without that axis."""
    start, limit = [0] * len(X.shape), list(X.shape)
    start[axis], limit[axis] = position, position + 1
    part = lowering.emit("slice", X, start=tuple(start), limit=tuple(limit), stride=(1,) * len(X.shape))
    return lowering.reshape(part, (*X.shape[:axis], *X.shape[axis + 1 :]))


def _stacked(lowering: Lowering, K: Value, V: Value) -> Value:
    return lowering.emit("concat", *(lowering.reshape(X, (1, *X.shape)) for X in (K, V)), axis=0)


def _unpacked(lowering: Lowering, query: Value, key: Value | None, value: Value | None) -> list[Value]:
    """Queries, keys and values out of the forms in which they may be packed, each [batch, length, heads x size]."""
    if key is None and len(query.shape) == 5:
        return [_packed_part(lowering, query, i) for i in range(3)]
    if key is not None and value is None and len(key.shape) == 5:
        return [query, *(_packed_part(lowering, key, i) for i in range(2))]
    if key is None or value is None:
        raise ModelError("keys and values are missing, and they are not packed with the queries")
    return [query, key, value]


def _packed_part(lowering: Lowering, X: Value, position: int) -> Value:
    """One part of [batch, length, heads, parts, size], its heads merged."""
    part = _entry(lowering, X, position, axis=3)
    return lowering.reshape(part, (*part.shape[:2], part.shape[2] * part.shape[3]))


def _with_bias(lowering: Lowering, parts: list[Value], bias: Value | None) -> list[Value]:
    """Each part with its section of the bias; keys and values that come by heads were given theirs before."""
    if bias is None:
        return parts
    width = parts[0].shape[2]
    sections = cut(lowering, bias, (width, width, bias.shape[0] - 2 * width))
    pairs = zip(parts, sections, strict=True)
    return [lowering.emit("add", part, own) if len(part.shape) == 3 else part for part, own in pairs]


def masked(lowering: Lowering, mask: Value | None, Q: Value, K: Value, filter_value: float) -> Value | None:
    """What a mask adds to the scores, from any of its forms; None if nothing."""
    if mask is None:
        return None
    visible = _visible(lowering, mask, Q.shape[0], Q.shape[2], K.shape[2])
    return additive(lowering, visible, np.dtype(Q.dtype), filter_value)


def _visible(lowering: Lowering, mask: Value, batch: int, queries: int, keys: int) -> Value | None:
    """Which keys a mask leaves [batch, 1, queries, keys]: one of lengths, of ends and starts, or of keys."""
    if len(mask.shape) == 1:
        return _between(lowering, mask, batch, keys)
    if len(mask.shape) == 4:
        past, ones = keys - queries, (1,) * 4
        limit = (mask.shape[0], mask.shape[1], keys, keys)
        mask = lowering.emit("slice", mask, start=(0, 0, past, 0), limit=limit, stride=ones)
    elif len(mask.shape) == 2:
        mask = lowering.reshape(mask, (mask.shape[0], 1, 1, mask.shape[1]))
    else:
        mask = lowering.reshape(mask, (mask.shape[0], 1, *mask.shape[1:]))
    return lowering.emit("greater", mask, np.zeros((), mask.dtype))


def _between(lowering: Lowering, mask: Value, batch: int, keys: int) -> Value | None:
    """Keys before the ends that a mask gives for each member of the batch, and from the starts that may follow."""
    if mask.shape[0] not in (batch, 2 * batch, 3 * batch + 2):
        raise ModelError(f"a mask of shape {mask.shape} fits no batch of {batch}")
    positions = np.arange(keys, dtype=mask.dtype)

    def bound(first: int) -> Value:
        part = lowering.emit("slice", mask, start=(first,), limit=(first + batch,), stride=(1,))
        return lowering.reshape(part, (batch, 1, 1, 1))

    ended = lowering.emit("less", positions, bound(0))
    begun = lowering.emit("greater_equal", positions, bound(batch)) if mask.shape[0] == 2 * batch else None
    return both(lowering, (ended, begun))


def causal(lowering: Lowering, Q: Value, K: Value) -> Value | None:
    """What hides keys behind a query that comes last but for those after it."""
    count = Q.shape[2]
    queries = np.arange(count).reshape(count, 1) + K.shape[2] - count
    return additive(lowering, within(lowering, queries, K.shape[2], ahead=0), np.dtype(Q.dtype))
