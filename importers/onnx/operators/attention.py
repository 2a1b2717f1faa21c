"""Attention, spelled out: scores = Q Kᵀ scale, capped and masked; softmax; times V."""

from __future__ import annotations

import math

import numpy as np
import onnx

from backtrace_jax.errors import ModelError
from backtrace_jax.ir import Var
from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from .casts import element_type
from .heads import (
    Attended,
    Scoring,
    additive,
    after_past,
    attend,
    both,
    merge_heads,
    per_query_head,
    scores,
    split_heads,
    total,
    within,
)
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
    merged = len(Q.shape) == 3
    if merged:
        pairs = ((Q, q_num_heads), (K, kv_num_heads), (V, kv_num_heads))
        Q, K, V = (split_heads(lowering, X, heads) for X, heads in pairs)
    K, V = after_past(lowering, past_key, K), after_past(lowering, past_value, V)
    queries = _positions(lowering, Q, past_key, nonpad_kv_seqlen)
    window = within(lowering, queries, K.shape[2], left_window_size, 0 if is_causal else right_window_size)
    filled = _filled(lowering, nonpad_kv_seqlen, K.shape[2])
    bias = _bias(lowering, attn_mask, both(lowering, (window, filled)), K.shape[2], Q.dtype)
    softmax_type = None if softmax_precision is None else element_type(softmax_precision)
    attended = attend(lowering, Q, K, V, bias, Scoring(scale, softcap, softmax_type))
    result = merge_heads(lowering, attended.result) if merged else attended.result
    return result, K, V, _stage(attended, qk_matmul_output_mode)


def _positions(lowering: Lowering, Q: Value, past: Value | None, filled: Value | None) -> Value:
    """Where the queries stand among the keys [..., queries, 1]: the last ones of the cache that is filled."""
    count = Q.shape[2]
    steps = np.arange(count).reshape(count, 1)
    if past is not None and filled is not None:
        raise ModelError("a cache is either kept by the node (past_key) or outside it (nonpad_kv_seqlen), not both")
    if filled is None:
        return steps if past is None else steps + past.shape[2]
    lengths = lowering.reshape(lowering.cast(filled, steps.dtype), (*filled.shape, 1, 1, 1))
    return lowering.emit("add", steps - count, lengths)


def _filled(lowering: Lowering, lengths: Value | None, keys: int) -> Value | None:
    """Which keys of a static cache are filled, for each member of the batch; None: all are."""
    if lengths is None:
        return None
    return lowering.emit(
        "less", np.arange(keys, dtype=lengths.dtype), lowering.reshape(lengths, (*lengths.shape, 1, 1, 1))
    )


def _bias(lowering: Lowering, mask: Value | None, visible: Value | None, keys: int, dtype: np.dtype) -> Value | None:
    """What is added to the scores, -inf where a key is hidden; None if nothing is."""
    mask = None if mask is None else _padded(lowering, mask, keys)
    if mask is not None and mask.dtype == np.bool_:
        mask, visible = None, both(lowering, (visible, mask))
    return total(lowering, (mask, additive(lowering, visible, dtype)))


def _padded(lowering: Lowering, mask: Value, keys: int) -> Value:
    """The mask with keys beyond its end hidden."""
    missing = keys - mask.shape[-1]
    if missing <= 0:
        return mask
    hidden = np.asarray(False) if mask.dtype == np.bool_ else np.asarray(-math.inf).astype(mask.dtype)
    before = (0,) * len(mask.shape)
    return lowering.emit("pad", mask, hidden, low=before, high=(*before[1:], missing))


def _stage(attended: Attended, mode: int) -> Value:
    """The scores that a node shows besides its result."""
    return (attended.raw, attended.capped, attended.masked, attended.weights)[mode]


@operator("FlexAttention", domain="ai.onnx.preview")
def flex_attention(
    lowering: Lowering,
    Q: Value,
    K: Value,
    V: Value,
    *,
    prob_mod: onnx.GraphProto | None = None,
    scale: float | None = None,
    score_mod: onnx.GraphProto | None = None,
    softmax_precision: int | None = None,
) -> Value:
    """Attention whose scores and probabilities sub-graphs may change."""
    wide = np.dtype(np.float64 if Q.dtype == np.float64 else np.float32)
    dtype = wide if softmax_precision is None else element_type(softmax_precision)
    changed = _modified(lowering, score_mod, lowering.cast(scores(lowering, Q, K, scale), dtype))
    weights = lowering.emit("softmax", changed, axis=3)
    changed = _modified(lowering, prob_mod, weights)
    result = lowering.emit("matmul", changed, per_query_head(lowering, lowering.cast(V, dtype), Q.shape[1]))
    return lowering.cast(result, np.dtype(V.dtype))


def _modified(lowering: Lowering, graph: onnx.GraphProto | None, value: Value) -> Value:
    """What a sub-graph of one input and one result of the same type makes of a value."""
    if graph is None:
        return value
    (result,) = lowering.inline(graph, [value])
    if not isinstance(result, np.ndarray | Var) or (result.shape, result.dtype) != (value.shape, value.dtype):
        raise ModelError(f"sub-graph {graph.name!r} should give a result of shape {value.shape} and type {value.dtype}")
    return result
