"""Attention, spelled out: scores = Q Kᵀ scale, capped and masked; softmax; times V."""

from __future__ import annotations

import math

import numpy as np

from backtrace_jax.errors import ModelError, UnsupportedError
from backtrace_jax.ir import Value

from ..lowering import Lowering
from .arithmetic import element_type
from .registry import operator


@operator("Attention", since=23)
def attention(
    lowering: Lowering,
    Q: Value,
    K: Value,
    V: Value,
    attn_mask: Value | None = None,
    past_key: Value | None = None,
    past_value: Value | None = None,
    nonpad_kv_seqlen: Value | None = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int | None = None,
    left_window_size: int = -1,
    q_num_heads: int | None = None,
    qk_matmul_output_mode: int = 0,
    right_window_size: int = -1,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int | None = None,
) -> tuple[Value, ...]:
    """Scaled dot-product attention of any number of heads; returns the result, keys, values and scores."""
    if nonpad_kv_seqlen is not None:
        raise UnsupportedError("a static key-value cache (nonpad_kv_seqlen); export the model without a cache")
    merged = len(Q.shape) == 3
    if merged:
        Q, K, V = _heads(lowering, Q, q_num_heads), _heads(lowering, K, kv_num_heads), _heads(lowering, V, kv_num_heads)
    past = 0 if past_key is None else past_key.shape[2]
    K, V = _after_past(lowering, past_key, K), _after_past(lowering, past_value, V)
    scores = _scores(lowering, Q, _per_query_head(lowering, K, Q), scale)
    ahead = 0 if is_causal else right_window_size
    visible = _visible(np.arange(Q.shape[2]) + past, np.arange(K.shape[2]), left_window_size, ahead)
    bias = _bias(lowering, visible, Q.dtype, attn_mask)
    capped = _capped(lowering, scores, softcap)
    masked = capped if bias is None else lowering.emit("add", capped, bias)
    softmax_type = Q.dtype if softmax_precision is None else element_type(softmax_precision)
    weights = _probabilities(lowering, masked, bias, softmax_type)
    result = lowering.emit("matmul", weights, _per_query_head(lowering, V, Q))
    if merged:
        result = lowering.transpose(result, (0, 2, 1, 3))
        result = lowering.reshape(result, (*result.shape[:2], result.shape[2] * result.shape[3]))
    return result, K, V, (scores, capped, masked, weights)[qk_matmul_output_mode]


def _heads(lowering: Lowering, X: Value, heads: int | None) -> Value:
    """[batch, length, heads x size] as [batch, heads, length, size]."""
    if not heads:
        raise ModelError("operands of rank 3 need q_num_heads and kv_num_heads")
    batch, length, width = X.shape
    return lowering.transpose(lowering.reshape(X, (batch, length, heads, width // heads)), (0, 2, 1, 3))


def _after_past(lowering: Lowering, past: Value | None, X: Value) -> Value:
    return X if past is None else lowering.emit("concat", past, X, axis=2)


def _per_query_head(lowering: Lowering, X: Value, Q: Value) -> Value:
    """Keys or values for each head of Q: one head serves several neighbouring ones (grouped-query attention)."""
    batch, heads, length, width = X.shape
    group = Q.shape[1] // heads
    if group == 1:
        return X
    single = lowering.reshape(X, (batch, heads, 1, length, width))
    copies = lowering.emit("expand", single, shape=(batch, heads, group, length, width))
    return lowering.reshape(copies, (batch, heads * group, length, width))


def _scores(lowering: Lowering, Q: Value, K: Value, scale: float | None) -> Value:
    """Scaled before they are multiplied, so that a softmax behind alone consumes the product."""
    scaled = lowering.scale(Q, 1 / math.sqrt(Q.shape[3]) if scale is None else scale)
    return lowering.emit("matmul", scaled, lowering.transpose(K, (0, 1, 3, 2)))


def _capped(lowering: Lowering, scores: Value, softcap: float) -> Value:
    """Scores bent to stay within plus or minus the cap."""
    if not softcap:
        return scores
    return lowering.scale(lowering.emit("tanh", lowering.scale(scores, 1 / softcap)), softcap)


def _visible(queries: np.ndarray, keys: np.ndarray, behind: int, ahead: int) -> np.ndarray:
    """Which key each query may see by position, so far behind it and so far ahead; -1 is without bound."""
    distance = keys - queries[:, None]
    return ((distance >= -behind) | (behind < 0)) & ((distance <= ahead) | (ahead < 0))


def _bias(lowering: Lowering, visible: np.ndarray, dtype: np.dtype, mask: Value | None) -> Value | None:
    """What is added to the scores, -inf where a key is hidden; None if nothing is."""
    parts = [] if visible.all() else [_additive(lowering, visible, dtype)]
    if mask is not None:
        parts.append(_additive(lowering, _padded(lowering, mask, visible.shape[1]), dtype))
    if len(parts) == 2:
        return lowering.emit("add", *parts)
    return parts[0] if parts else None


def _padded(lowering: Lowering, mask: Value, keys: int) -> Value:
    """The mask with keys beyond its end hidden."""
    missing = keys - mask.shape[-1]
    if missing <= 0:
        return mask
    hidden = np.asarray(False) if mask.dtype == np.bool_ else np.asarray(-np.inf).astype(mask.dtype)
    before = (0,) * len(mask.shape)
    return lowering.emit("pad", mask, hidden, low=before, high=(*before[1:], missing))


def _additive(lowering: Lowering, mask: Value, dtype: np.dtype) -> Value:
    """A mask of booleans as numbers to add: 0 where it holds, -inf elsewhere."""
    if mask.dtype != np.bool_:
        return mask
    return lowering.emit("where", mask, np.zeros((), dtype), np.asarray(-np.inf).astype(dtype))


def _probabilities(lowering: Lowering, scores: Value, bias: Value | None, dtype: np.dtype) -> Value:
    weights = lowering.emit("softmax", lowering.cast(scores, dtype), axis=len(scores.shape) - 1)
    weights = lowering.cast(weights, scores.dtype)
    return weights if bias is None else _without_blind_queries(lowering, weights, bias)


def _without_blind_queries(lowering: Lowering, weights: Value, bias: Value) -> Value:
    """A query that may see no key at all gets weights of 0 rather than NaN."""
    best = lowering.emit("reduce_max", bias, axes=(len(bias.shape) - 1,), keepdims=True)
    blind = lowering.emit("equal", best, np.asarray(-np.inf).astype(bias.dtype))
    if isinstance(blind, np.ndarray) and not blind.any():
        return weights
    return lowering.emit("where", blind, np.zeros((), weights.dtype), weights)
