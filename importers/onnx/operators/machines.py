"""Support vector machines: weighted sums of kernels between the features and the support vectors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from backtrace_jax.errors import ModelError, UnsupportedError
from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from ..scope import Text
from .registry import operator
from .scores import as_features, both_ways, finished, labels_of, transformed, winner

DOMAIN = "ai.onnx.ml"
_SINGLE = np.dtype(np.float32)
_LEAST_PROBABILITY = 1e-7


def _kernel(lowering: Lowering, X: Value, vectors: np.ndarray, kind: str, params: Sequence[float]) -> Value:
    """Kernel of each row of X with each vector, [N, vectors]."""
    gamma, offset, degree = (*params, 0.0, 0.0, 0.0)[:3]
    if kind == "RBF":
        return _radial(lowering, X, vectors, gamma)
    if kind not in ("LINEAR", "POLY", "SIGMOID"):
        raise UnsupportedError(f"kernel_type {kind!r}; there are LINEAR, POLY, RBF, SIGMOID")
    scaled = vectors if kind == "LINEAR" else vectors * np.asarray(gamma, X.dtype)
    operands = [X, np.ascontiguousarray(scaled.T)]
    if kind == "LINEAR":
        return lowering.emit("matmul", *operands)
    dots = lowering.emit("matmul", *operands, np.full((1, len(vectors)), offset, X.dtype))
    if kind == "SIGMOID":
        return lowering.emit("tanh", dots)
    if float(degree).is_integer():
        return lowering.emit("integer_pow", dots, exponent=int(degree))
    return lowering.emit("pow", dots, np.asarray(degree, X.dtype))


def _radial(lowering: Lowering, X: Value, vectors: np.ndarray, gamma: float) -> Value:
    """exp(-gamma |x - v|²)."""
    rows = lowering.reshape(X, (X.shape[0], 1, X.shape[1]))
    squares = lowering.emit("integer_pow", lowering.emit("sub", rows, vectors[None]), exponent=2)
    distances = lowering.emit("reduce_sum", squares, axes=(2,), keepdims=False)
    return lowering.emit("exp", lowering.scale(distances, -gamma))


def _vectors(X: Value, support_vectors: Sequence[float], count: int) -> np.ndarray:
    if len(support_vectors) != count * X.shape[1]:
        raise ModelError(f"{len(support_vectors)} numbers for {count} support vectors of {X.shape[1]} features")
    return np.asarray(support_vectors, X.dtype).reshape(count, -1)


@operator("SVMRegressor", domain=DOMAIN)
def svm_regressor(
    lowering: Lowering,
    X: Value,
    *,
    coefficients: Sequence[float],
    rho: Sequence[float],
    support_vectors: Sequence[float] = (),
    n_supports: int = 0,
    kernel_type: str = "LINEAR",
    kernel_params: Sequence[float] = (),
    one_class: int = 0,
    post_transform: str = "NONE",
) -> Value:
    """Weighted sum of kernels, or of the features; with `one_class` its sign."""
    rows = as_features(lowering, X)
    kernels = rows
    if n_supports:
        vectors = _vectors(rows, support_vectors, n_supports)
        kernels = _kernel(lowering, rows, vectors, kernel_type, kernel_params)
    K = np.asarray(coefficients, rows.dtype).reshape(-1, 1)
    scores = lowering.emit("matmul", kernels, K, np.asarray(rho[:1], rows.dtype)[None])
    if one_class:
        inside = lowering.emit("binarize", scores, threshold=0.0)
        scores = lowering.emit("sub", lowering.scale(inside, 2), np.ones((1, 1), rows.dtype))
    return lowering.cast(finished(lowering, scores, post_transform), _SINGLE)


@operator("SVMClassifier", domain=DOMAIN)
def svm_classifier(
    lowering: Lowering,
    X: Value,
    *,
    coefficients: Sequence[float],
    rho: Sequence[float],
    classlabels_ints: Sequence[int] = (),
    classlabels_strings: Sequence[str] = (),
    support_vectors: Sequence[float] = (),
    vectors_per_class: Sequence[int] = (),
    kernel_type: str = "LINEAR",
    kernel_params: Sequence[float] = (),
    prob_a: Sequence[float] = (),
    prob_b: Sequence[float] = (),
    post_transform: str = "NONE",
) -> tuple[Value | Text, Value]:
    """Class and scores: of each pair of classes, or of each class where there are no support vectors."""
    rows, count = as_features(lowering, X), max(len(classlabels_ints), len(classlabels_strings))
    if count < 2:
        raise UnsupportedError("a classifier of one class; it has nothing to choose from")
    if vectors_per_class:
        vectors = _vectors(rows, support_vectors, sum(vectors_per_class))
        kernels = _kernel(lowering, rows, vectors, kernel_type, kernel_params)
        K, b = _pairwise(np.asarray(coefficients, rows.dtype), vectors_per_class), np.asarray(rho, rows.dtype)
        scores = lowering.emit("matmul", kernels, K, b[None])
        positions = _voted(lowering, scores, count)
        scores = _probabilities(lowering, scores, count, prob_a, prob_b) if prob_a else _both(lowering, scores)
    else:
        K = np.asarray(coefficients, rows.dtype).reshape(count, -1)
        scores = lowering.emit("matmul", rows, np.ascontiguousarray(K.T), np.full((1, count), rho[0], rows.dtype))
        positions = winner(lowering, scores)
    result = lowering.cast(transformed(lowering, scores, post_transform), _SINGLE)
    return labels_of(lowering, positions, classlabels_ints, classlabels_strings), result


def _pairwise(coefficients: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """Weights [vectors, pairs]: in the score of classes i < j the vectors of i weigh by row j - 1, those of j by i."""
    table, ends = coefficients.reshape(len(counts) - 1, -1), np.cumsum([0, *counts])
    K = np.zeros((ends[-1], len(counts) * (len(counts) - 1) // 2), coefficients.dtype)
    for pair, (i, j) in enumerate(combinations(range(len(counts)), 2)):
        for own, row in ((i, j - 1), (j, i)):
            K[ends[own] : ends[own + 1], pair] = table[row, ends[own] : ends[own + 1]]
    return K


def _voted(lowering: Lowering, scores: Value, count: int) -> Value:
    """Position of the class that wins most pairs; a positive score is a win of the first."""
    wins = lowering.emit("binarize", scores, threshold=0.0)
    pairs = list(combinations(range(count), 2))
    votes = np.zeros((len(pairs), count), scores.dtype)
    for pair, (i, j) in enumerate(pairs):
        votes[pair, i], votes[pair, j] = 1, -1
    lost = -np.minimum(votes, 0).sum(axis=0)
    return winner(lowering, lowering.emit("matmul", wins, votes, lost[None]))


def _both(lowering: Lowering, scores: Value) -> Value:
    """Scores of pairs; the one of two classes for and against."""
    return scores if scores.shape[1] > 1 else both_ways(lowering, scores, whole=False)


def _probabilities(
    lowering: Lowering, scores: Value, count: int, prob_a: Sequence[float], prob_b: Sequence[float]
) -> Value:
    """Probabilities of two classes by a logistic function of their score (Platt 1999)."""
    if count > 2:
        raise UnsupportedError(
            "probabilities of more than two classes are coupled by an iteration that shares no relevance out; export "
            "the classifier with raw scores"
        )
    a, b = (np.asarray([each[:1]], scores.dtype) for each in (prob_a, prob_b))
    pair = lowering.emit("sigmoid", both_ways(lowering, lowering.emit("matmul", scores, a, b), whole=False))
    return lowering.emit("clip", pair, low=_LEAST_PROBABILITY, high=1 - _LEAST_PROBABILITY)
