"""Losses: the negative log-likelihood of classes, and the cross-entropy of scores.

The class that counts is chosen by a condition rather than looked up, so the labels carry no relevance; all of it goes
to the scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from .registry import operator

_CLASSES = (1,)  # the axis of the classes


@operator("NegativeLogLikelihoodLoss", since=12)
def negative_log_likelihood_loss(
    lowering: Lowering,
    input: Value,
    target: Value,
    weight: Value | None = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Value:
    """Minus the log-probability of each target's class, weighted by class, and their sum or weighted mean."""
    chosen = _chosen(lowering, target, input.shape, ignore_index)
    losses = _of_target(lowering, chosen, lowering.scale(input, -1))
    if weight is None and (ignore_index is None or reduction != "mean"):
        return _reduced(lowering, losses, reduction)
    ones = np.ones((), input.dtype) if weight is None else lowering.along_channels(weight, len(input.shape))
    weights = _of_target(lowering, chosen, lowering.emit("expand", ones, shape=input.shape))
    if weight is not None:
        losses = lowering.emit("mul", losses, weights)
    total = _reduced(lowering, losses, "none" if reduction == "none" else "sum")
    return lowering.emit("div", total, _reduced(lowering, weights, "sum")) if reduction == "mean" else total


@operator("SoftmaxCrossEntropyLoss", since=12)
def softmax_cross_entropy_loss(
    lowering: Lowering,
    scores: Value,
    labels: Value,
    weights: Value | None = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> tuple[Value, Value]:
    """Negative log-likelihood of the softmax of scores over classes; and the log-probabilities."""
    log_prob = lowering.emit("log_softmax", scores, axis=_CLASSES[0])
    loss = negative_log_likelihood_loss(
        lowering, log_prob, labels, weights, ignore_index=ignore_index, reduction=reduction
    )
    return loss, log_prob


def _chosen(lowering: Lowering, target: Value, shape: Sequence[int], ignore_index: int | None) -> Value:
    """Where along the axis of classes the target is; nowhere for targets that are ignored."""
    column = lowering.reshape(target, (target.shape[0], 1, *target.shape[1:]))
    classes = np.arange(shape[1], dtype=target.dtype).reshape(-1, *(1,) * (len(shape) - 2))
    chosen = lowering.emit("equal", column, classes)
    if ignore_index is None:
        return chosen
    ignored = lowering.emit("equal", column, np.asarray(ignore_index, target.dtype))
    return lowering.emit("logical_and", chosen, lowering.emit("logical_not", ignored))


def _of_target(lowering: Lowering, chosen: Value, values: Value) -> Value:
    """The value of each target's class; 0 where there is none."""
    kept = lowering.emit("where", chosen, values, np.zeros((), values.dtype))
    return lowering.emit("reduce_sum", kept, axes=_CLASSES, keepdims=False)


def _reduced(lowering: Lowering, losses: Value, reduction: str) -> Value:
    if reduction == "none":
        return losses
    axes = tuple(range(len(losses.shape)))
    return lowering.emit(f"reduce_{reduction}", losses, axes=axes, keepdims=False)
