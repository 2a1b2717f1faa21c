"""What classifiers and regressors make of their scores: transforms, two classes from one score, labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backtrace_jax.errors import ModelError, UnsupportedError
from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from ..scope import Text

TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
_NEARLY_ZERO = 1e-7


def as_features(lowering: Lowering, X: Value) -> Value:
    """The input as a matrix of floats, one row per example; integers as float32."""
    if len(X.shape) not in (1, 2):
        raise ModelError(f"features must be a matrix, one row per example; found shape {list(X.shape)}")
    rows = X if len(X.shape) == 2 else lowering.reshape(X, (1, *X.shape))
    return rows if X.dtype in (np.float32, np.float64) else lowering.cast(rows, np.dtype(np.float32))


def transformed(lowering: Lowering, scores: Value, transform: str) -> Value:
    """The scores [N, C] after a transform by name."""
    if transform not in TRANSFORMS:
        raise UnsupportedError(f"post_transform {transform!r}; there are {', '.join(TRANSFORMS)}")
    if transform == "SOFTMAX":
        return lowering.emit("softmax", scores, axis=1)
    if transform == "LOGISTIC":
        return lowering.emit("sigmoid", scores)
    if transform == "PROBIT":
        return lowering.emit("probit", scores)
    return _softmax_zero(lowering, scores) if transform == "SOFTMAX_ZERO" else scores


def _softmax_zero(lowering: Lowering, scores: Value) -> Value:
    """Softmax among the scores that are not zero; zeros stay, and without any other they are a half each."""
    size = lowering.emit("abs", scores)
    zero = lowering.emit("less_equal", size, np.asarray(_NEARLY_ZERO, scores.dtype))
    hidden = lowering.emit("where", zero, np.asarray(-1e30, scores.dtype), scores)
    largest = lowering.emit("reduce_max", size, axes=(1,), keepdims=True)
    empty = lowering.emit("less_equal", largest, np.asarray(_NEARLY_ZERO, scores.dtype))
    return lowering.emit("where", empty, np.asarray(0.5, scores.dtype), lowering.emit("softmax", hidden, axis=1))


def labels_of(lowering: Lowering, positions: Value, integers: Sequence[int], words: Sequence[str]) -> Value | Text:
    """Class labels by the positions of the classes; labels that are words stay positions."""
    if words:
        return Text(positions, tuple(words))
    if not integers:
        raise ModelError("the classifier has no class labels")
    if list(integers) == list(range(len(integers))):
        return positions
    return lowering.emit("gather", np.asarray(integers, np.int64), positions, axis=0)


def winner(lowering: Lowering, scores: Value) -> Value:
    """Position of the largest score of each row, the first of equals."""
    return lowering.emit("argmax", scores, axis=1, keepdims=False, last=False)


def finished(lowering: Lowering, scores: Value, transform: str) -> Value:
    """A regressor's scores after a transform; of a single one, as in onnxruntime, only PROBIT makes something else."""
    alone = scores.shape[1] == 1 and transform in TRANSFORMS and transform != "PROBIT"
    return scores if alone else transformed(lowering, scores, transform)


def both_ways(lowering: Lowering, score: Value, *, whole: bool) -> Value:
    """Scores of two classes from one [N, 1], which is the second's; the first's is 1 less it (`whole`), or minus it.

    It is the same evidence seen from the other side, so relevance of either class is relevance of the one score.
    """
    rows = lowering.emit("expand", score, shape=(score.shape[0], 2))
    offset, scale = np.asarray([[float(whole), 0.0]], score.dtype), np.asarray([[-1.0, 1.0]], score.dtype)
    return lowering.emit("standardise", rows, offset, scale)


def is_above(lowering: Lowering, score: Value, limit: float) -> Value:
    """1 where the one score [N, 1] is above a limit, else 0."""
    above = lowering.emit("greater", lowering.reshape(score, score.shape[:1]), np.asarray(limit, score.dtype))
    return lowering.cast(above, np.dtype(np.int64))


def of_two(lowering: Lowering, score: Value, transform: str, *, whole: bool) -> Value:
    """Scores of two classes from one. As in onnxruntime, softmax has nothing to do there, and a logistic function is
    of minus and plus the score."""
    pair = both_ways(lowering, score, whole=whole and transform != "LOGISTIC")
    return transformed(lowering, pair, transform if transform in ("LOGISTIC", "PROBIT") else "NONE")
