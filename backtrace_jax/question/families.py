"""Which units each task explains, as weights that add up to 1 (RULES section 10).

Every task sees one example's output as a matrix [positions, classes] and says how much each entry weighs, and what the
target was: a class, a unit, or all that it names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array

from .words import (
    ALL_UNITS,
    BINARY_SEGMENTATION,
    CLASS_SEGMENTATION,
    CLASSIFICATION,
    NEXT_TOKEN,
    REGRESSION,
    SPAN,
    TOKENS,
    UNIT,
    UNSET,
    Question,
)


def one_hot(index: Array, size: int, dtype: Any) -> Array:
    """1 at the index, 0 elsewhere."""
    return (jnp.arange(size) == index).astype(dtype)


def _chosen(asked: Array, default: Array) -> Array:
    return jnp.where(asked == UNSET, default, asked)


def _classification(matrix: Array, asked: Question, threshold: float) -> tuple[Array, Array]:
    """All of it at the target class, by default the predicted one; a single unit speaks for class 1 unless asked."""
    if matrix.size == 1:
        return jnp.ones_like(matrix), _chosen(asked.target, jnp.asarray(1))
    return _unit(matrix, asked, threshold)


def _regression(matrix: Array, asked: Question, threshold: float) -> tuple[Array, Array]:
    """An equal part at every output, or all of it at the chosen one."""
    count, every = matrix.shape[1], asked.target == UNSET
    weights = jnp.where(every, 1 / count, one_hot(asked.target, count, matrix.dtype))
    return weights.astype(matrix.dtype)[None], jnp.where(every, ALL_UNITS, asked.target)


def _unit(matrix: Array, asked: Question, threshold: float) -> tuple[Array, Array]:
    """All of it at the unit asked for, by default the most active one."""
    target = _chosen(asked.target, jnp.argmax(matrix[0]))
    return one_hot(target, matrix.shape[1], matrix.dtype)[None], target


def _binary_segmentation(matrix: Array, asked: Question, threshold: float) -> tuple[Array, Array]:
    """Equal parts at all units of the mask."""
    return _equal_parts(matrix > threshold, matrix.dtype), jnp.asarray(ALL_UNITS)


def _class_segmentation(matrix: Array, asked: Question, threshold: float) -> tuple[Array, Array]:
    """Equal parts at the pixels of the target class, by default the most frequent one."""
    winners = jnp.argmax(matrix, axis=1)
    frequent = jnp.argmax(jnp.sum(winners[:, None] == jnp.arange(matrix.shape[1])[None], axis=0))
    target = _chosen(asked.target, frequent)
    mask = (winners[:, None] == target) & (jnp.arange(matrix.shape[1])[None] == target)
    return _equal_parts(mask, matrix.dtype), target


def _equal_parts(mask: Array, dtype: Any) -> Array:
    return mask.astype(dtype) / jnp.maximum(jnp.sum(mask), 1).astype(dtype)


def _next_token(matrix: Array, asked: Question, threshold: float) -> tuple[Array, Array]:
    """All of it at one position, by default the last, and the token given or predicted there."""
    position = _chosen(asked.position, jnp.asarray(-1)) % matrix.shape[0]
    token = _chosen(asked.target, jnp.argmax(matrix[position]))
    row, column = (one_hot(i, size, matrix.dtype) for i, size in zip((position, token), matrix.shape, strict=True))
    weights = row[:, None] * column[None]
    return weights, position * matrix.shape[1] + token


def _tokens(matrix: Array, asked: Question, threshold: float) -> tuple[Array, Array]:
    """The class given or predicted at one position, or equal parts at all of them."""
    rows, classes = matrix.shape
    each = _chosen(asked.target, jnp.argmax(matrix, axis=1))
    hot = (jnp.arange(classes)[None] == jnp.reshape(each, (-1, 1))).astype(matrix.dtype)
    position = asked.position % rows
    every = asked.position == UNSET
    share = jnp.where(every, 1 / rows, one_hot(position, rows, matrix.dtype)).astype(matrix.dtype)
    one = position * classes + jnp.broadcast_to(each, (rows,))[position]
    return share[:, None] * hot, jnp.where(every, ALL_UNITS, one)


def _span(matrix: Array, asked: Question, threshold: float) -> tuple[Array, Array]:
    """Equal parts at the chosen or predicted start and end; a flat target holds both, start times length plus end."""
    rows, places = matrix.shape
    predicted = jnp.argmax(matrix, axis=1)
    asked_for = jnp.stack([asked.target // places, asked.target % places]) if rows == 2 else asked.target[None]
    chosen = jnp.where(asked.target == UNSET, predicted, asked_for)
    weights = (jnp.arange(places)[None] == chosen[:, None]).astype(matrix.dtype) / rows
    return weights, chosen[0] * places + chosen[1] if rows == 2 else chosen[0]


Weigh = Callable[[Array, Question, float], tuple[Array, Array]]
"""(matrix, question, threshold) -> (weights, target)."""

WEIGH: dict[str, Weigh] = {
    CLASSIFICATION: _classification,
    REGRESSION: _regression,
    UNIT: _unit,
    BINARY_SEGMENTATION: _binary_segmentation,
    CLASS_SEGMENTATION: _class_segmentation,
    NEXT_TOKEN: _next_token,
    TOKENS: _tokens,
    SPAN: _span,
}
