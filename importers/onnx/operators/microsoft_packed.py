"""Sequences of different lengths without their padding, in the domain com.microsoft (onnxruntime's packing mode).

How many tokens there are decides about shapes, so the lengths must be known: they are specialised to.
"""

from __future__ import annotations

import math

import numpy as np

from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from .microsoft import MICROSOFT
from .microsoft_attention import multi_head_attention, self_attention
from .registry import operator


@operator("RemovePadding", domain=MICROSOFT)
def remove_padding(lowering: Lowering, input: Value, sequence_token_count: Value) -> tuple[Value, ...]:
    """The tokens [token, width] of [batch, length, width], where each is, where sequences begin, the longest one."""
    counts = lowering.known(sequence_token_count, "the number of tokens of each sequence").reshape(-1)
    batch, length, width = input.shape
    kept = (np.arange(length)[None] < counts[:, None]).reshape(-1)
    places = np.argsort(~kept, kind="stable").astype(np.int32)
    flat = lowering.reshape(input, (batch * length, width))
    tokens = lowering.emit("gather", flat, places[: int(kept.sum())], axis=0)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return tokens, places.reshape(batch, length), starts, counts.max(keepdims=True).astype(np.int32)


@operator("RestorePadding", domain=MICROSOFT)
def restore_padding(lowering: Lowering, input: Value, token_offset: Value) -> Value:
    """Tokens [token, ...] back at their places [batch, length, ...], with zeros at the others."""
    batch, length = token_offset.shape
    count = input.shape[0]
    rows = np.full(batch * length, count)
    rows[_places(lowering, token_offset)[:count]] = np.arange(count)
    low, zero = (0,) * len(input.shape), np.zeros((), input.dtype)
    extended = lowering.emit("pad", input, zero, low=low, high=(1, *low[1:]))
    return lowering.reshape(lowering.emit("gather", extended, rows, axis=0), (batch, length, *input.shape[1:]))


def _places(lowering: Lowering, token_offset: Value) -> np.ndarray:
    return lowering.known(token_offset, "the places of the tokens (token_offset)").reshape(-1)


def _packed(lowering: Lowering, padded: Value, token_offset: Value, count: int) -> Value:
    """The tokens of [batch, length, width], without padding."""
    flat = lowering.reshape(padded, (math.prod(padded.shape[:2]), padded.shape[2]))
    return lowering.emit("gather", flat, _places(lowering, token_offset)[:count], axis=0)


def _lengths(lowering: Lowering, cumulative: Value) -> np.ndarray:
    return np.diff(lowering.known(cumulative, "the lengths of the sequences")).astype(np.int32)


@operator("PackedAttention", domain=MICROSOFT)
def packed_attention(
    lowering: Lowering,
    input: Value,
    weights: Value,
    bias: Value | None,
    token_offset: Value,
    cumulative_sequence_length: Value,
    attention_bias: Value | None = None,
    *,
    num_heads: int,
    qkv_hidden_sizes: tuple[int, ...] = (),
    scale: float | None = None,
) -> Value:
    """Self-attention of packed tokens, its projections included."""
    projected = lowering.emit("matmul", input, weights)
    projected = projected if bias is None else lowering.emit("add", projected, bias)
    padded = restore_padding(lowering, projected, token_offset)
    operands = padded, _lengths(lowering, cumulative_sequence_length), None, attention_bias
    result, *_ = self_attention(lowering, *operands, num_heads, qkv_hidden_sizes, scale=scale)
    return _packed(lowering, result, token_offset, input.shape[0])


@operator("PackedMultiHeadAttention", domain=MICROSOFT)
def packed_multi_head_attention(
    lowering: Lowering,
    query: Value,
    key: Value | None,
    value: Value | None,
    bias: Value | None,
    token_offset: Value,
    cumulative_sequence_length: Value,
    attention_bias: Value | None = None,
    *,
    mask_filter_value: float = -10000.0,
    num_heads: int,
    scale: float | None = None,
) -> Value:
    """Attention of packed tokens, which are queries, keys and values apart or [token, head, part, size]."""
    padded = [None if part is None else restore_padding(lowering, part, token_offset) for part in (query, key, value)]
    settings = {"mask_filter_value": mask_filter_value, "num_heads": num_heads, "scale": scale}
    operands = *padded, bias, _lengths(lowering, cumulative_sequence_length), attention_bias
    result, *_ = multi_head_attention(lowering, *operands, **settings)
    return _packed(lowering, result, token_offset, query.shape[0])
