"""What operators of attention share: heads, scaled scores, masks, probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from backtrace_jax.errors import ModelError
from backtrace_jax.passes.build import Value

from ..lowering import Lowering


@dataclass(frozen=True)
class Scoring:
    """How scores are made of queries and keys.

    Attributes:
        scale: Factor on their products; None: one over the root of a head's size.
        softcap: Bound that scores are bent to stay within; 0: none.
        softmax_type: Type the softmax is computed in; None: that of the scores.
        sink: A score for each head that competes with those of the keys; None: there is none.
    """

    scale: float | None = None
    softcap: float = 0.0
    softmax_type: np.dtype | None = None
    sink: Value | None = None


@dataclass(frozen=True)
class Attended:
    """The result of attention [batch, heads, queries, size], and the scores on their way to it."""

    result: Value
    raw: Value
    capped: Value
    masked: Value
    weights: Value


def split_heads(lowering: Lowering, X: Value, heads: int | None) -> Value:
    """[batch, length, heads x size] as [batch, heads, length, size]."""
    if not heads or X.shape[2] % heads:
        raise ModelError(f"a width of {X.shape[2]} cannot be cut into {heads or 'an unknown number of'} heads")
    batch, length, width = X.shape
    return lowering.transpose(lowering.reshape(X, (batch, length, heads, width // heads)), (0, 2, 1, 3))


def merge_heads(lowering: Lowering, X: Value) -> Value:
    """[batch, heads, length, size] as [batch, length, heads x size]."""
    batch, heads, length, width = X.shape
    return lowering.reshape(lowering.transpose(X, (0, 2, 1, 3)), (batch, length, heads * width))


def after_past(lowering: Lowering, past: Value | None, X: Value) -> Value:
    """Keys or values [batch, heads, length, size] behind those of earlier calls."""
    return X if past is None else lowering.emit("concat", past, X, axis=2)


def per_query_head(lowering: Lowering, X: Value, heads: int) -> Value:
    """Keys or values for each head of the queries: one head serves several neighbouring ones (grouped queries)."""
    batch, own, length, width = X.shape
    if own == heads:
        return X
    if heads % own:
        raise ModelError(f"{heads} heads of queries cannot share {own} heads of keys")
    single = lowering.reshape(X, (batch, own, 1, length, width))
    copies = lowering.emit("expand", single, shape=(batch, own, heads // own, length, width))
    return lowering.reshape(copies, (batch, heads, length, width))


def scores(lowering: Lowering, Q: Value, K: Value, scale: float | None) -> Value:
    """Products of queries and keys.

    Both are scaled before they are multiplied, as ONNX defines it, so that half-precision numbers do not overflow; and
    so that a softmax behind alone consumes the product.
    """
    factor = math.sqrt(1 / math.sqrt(Q.shape[3]) if scale is None else scale)
    Q, K = lowering.scale(Q, factor), lowering.scale(per_query_head(lowering, K, Q.shape[1]), factor)
    return lowering.emit("matmul", Q, lowering.transpose(K, (0, 1, 3, 2)))


def attend(
    lowering: Lowering, Q: Value, K: Value, V: Value, bias: Value | None = None, scoring: Scoring | None = None
) -> Attended:
    """Attention of Q to K and V, each [batch, heads, length, size]; what `bias` hides with -inf is not seen."""
    scoring = scoring or Scoring()
    raw = scores(lowering, Q, K, scoring.scale)
    capped = _capped(lowering, raw, scoring.softcap)
    masked = capped if bias is None else lowering.emit("add", capped, bias)
    weights = _probabilities(lowering, masked, bias, scoring)
    result = lowering.emit("matmul", weights, per_query_head(lowering, V, Q.shape[1]))
    return Attended(result, raw, capped, masked, weights)


def _capped(lowering: Lowering, scores: Value, softcap: float) -> Value:
    """Scores bent to stay within plus or minus the cap."""
    if not softcap:
        return scores
    return lowering.scale(lowering.emit("tanh", lowering.scale(scores, 1 / softcap)), softcap)


def within(lowering: Lowering, queries: Value, keys: int, behind: int = -1, ahead: int = -1) -> Value | None:
    """Which keys queries see: those so far behind and so far ahead of their positions; -1 is without bound.

    Args:
        lowering: The graph under construction.
        queries: Positions [..., queries, 1], counted as those of the keys are.
        keys: Number of keys.
        behind: How far a key may be behind.
        ahead: How far a key may be ahead.
    """
    distance = lowering.emit("sub", np.arange(keys, dtype=queries.dtype), queries)
    limits = [("greater_equal", -behind)] * (behind >= 0) + [("less_equal", ahead)] * (ahead >= 0)
    return both(lowering, (lowering.emit(op, distance, np.asarray(limit, queries.dtype)) for op, limit in limits))


def both(lowering: Lowering, conditions: Iterable[Value | None]) -> Value | None:
    """Where all the conditions given hold; None: everywhere."""
    return _joined(conditions, lambda first, second: lowering.emit("logical_and", first, second))


def total(lowering: Lowering, biases: Iterable[Value | None]) -> Value | None:
    """The sum of the biases given; None: there is none."""
    return _joined(biases, lambda first, second: lowering.emit("add", first, second))


def _joined(values: Iterable[Value | None], join: Callable[[Value, Value], Value]) -> Value | None:
    joined = None
    for value in values:
        if value is not None:
            joined = value if joined is None else join(joined, value)
    return joined


def additive(lowering: Lowering, visible: Value | None, dtype: np.dtype, hidden: float = -math.inf) -> Value | None:
    """Conditions as numbers to add to scores: 0 where they hold, else `hidden`; None if they hold everywhere."""
    if visible is None or (isinstance(visible, np.ndarray) and visible.all()):
        return None
    return lowering.emit("where", visible, np.zeros((), dtype), np.asarray(hidden).astype(dtype))


def _probabilities(lowering: Lowering, scores: Value, bias: Value | None, scoring: Scoring) -> Value:
    """Softmax over the keys; a query that may see none gets weights of 0 rather than NaN."""
    blind = None if bias is None else _blind(lowering, bias)
    zero = np.zeros((), scores.dtype)
    if blind is not None:  # beforehand as well: NaN would spoil derivatives even where nothing takes it
        scores = lowering.emit("where", blind, zero, scores)
    weights = _softmax(lowering, lowering.cast(scores, scoring.softmax_type or np.dtype(scores.dtype)), scoring.sink)
    weights = lowering.cast(weights, np.dtype(scores.dtype))
    return weights if blind is None else lowering.emit("where", blind, zero, weights)


def _softmax(lowering: Lowering, scores: Value, sink: Value | None) -> Value:
    """Softmax over the keys, and over a sink that takes its part and is left out."""
    if sink is None:
        return lowering.emit("softmax", scores, axis=3)
    batch, heads, queries, keys = scores.shape
    column = lowering.cast(lowering.reshape(sink, (1, heads, 1, 1)), np.dtype(scores.dtype))
    column = lowering.emit("expand", column, shape=(batch, heads, queries, 1))
    weights = lowering.emit("softmax", lowering.emit("concat", scores, column, axis=3), axis=3)
    limit = (batch, heads, queries, keys)
    return lowering.emit("slice", weights, start=(0, 0, 0, 0), limit=limit, stride=(1, 1, 1, 1))


def _blind(lowering: Lowering, bias: Value) -> Value | None:
    """Which queries see no key at all; None if it is known that there are none."""
    best = lowering.emit("reduce_max", bias, axes=(len(bias.shape) - 1,), keepdims=True)
    blind = lowering.emit("equal", best, np.asarray(-math.inf).astype(bias.dtype))
    return None if isinstance(blind, np.ndarray) and not blind.any() else blind
