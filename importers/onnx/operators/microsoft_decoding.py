"""Attention of one query at a time to a cache, in the domain com.microsoft."""

from __future__ import annotations

from typing import Any

from backtrace_jax.errors import UnsupportedError
from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from .microsoft import MICROSOFT
from .microsoft_attention import attention, multi_head_attention
from .registry import operator


def _check_cache(shared: int, *others: Value | None) -> None:
    """Refuse caches whose entries are not simply the keys and values of earlier calls."""
    if shared or any(value is not None for value in others):
        raise UnsupportedError(
            "a cache that is shared in place or searched by beams; export the decoder without "
            "past_present_share_buffer and cache_indirection"
        )


@operator("DecoderMaskedSelfAttention", domain=MICROSOFT)
def decoder_masked_self_attention(
    lowering: Lowering,
    input: Value,
    weights: Value,
    bias: Value | None = None,
    mask_index: Value | None = None,
    past: Value | None = None,
    attention_bias: Value | None = None,
    past_sequence_length: Value | None = None,
    beam_width: Value | None = None,
    cache_indirection: Value | None = None,
    *,
    past_present_share_buffer: int = 0,
    **settings: Any,
) -> tuple[Value, ...]:
    """Self-attention of one token, its projections included."""
    _check_cache(past_present_share_buffer, cache_indirection)
    return attention(lowering, input, weights, bias, mask_index, past, attention_bias, **settings)


@operator("DecoderMaskedMultiHeadAttention", domain=MICROSOFT)
def decoder_masked_multi_head_attention(
    lowering: Lowering,
    query: Value,
    key: Value | None = None,
    value: Value | None = None,
    mask_index: Value | None = None,
    attention_bias: Value | None = None,
    past_key: Value | None = None,
    past_value: Value | None = None,
    past_sequence_length: Value | None = None,
    beam_width: Value | None = None,
    cache_indirection: Value | None = None,
    bias: Value | None = None,
    *,
    output_qk: int = 0,
    past_present_share_buffer: int = 0,
    **settings: Any,
) -> tuple[Value, ...]:
    """Attention of one token to keys and values and those of earlier calls."""
    _check_cache(past_present_share_buffer, cache_indirection)
    if key is None:
        raise UnsupportedError("queries, keys and values packed into one operand; fuse them apart")
    operands = query, key, value, bias, mask_index, attention_bias, past_key, past_value
    return multi_head_attention(lowering, *operands, **settings)[:3]
