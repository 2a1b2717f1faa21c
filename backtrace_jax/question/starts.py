"""From weights to relevance: the amounts handed out, and what speaks against the answer (RULES section 10)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from .families import one_hot
from .words import UNSET, Question


class Start(NamedTuple):
    """Start relevance in the output's shape (in pairs [2, ...]), and the target explained."""

    relevance: Array
    target: Array


@dataclass(frozen=True)
class Amounts:
    """How much relevance a unit of some weight gets.

    Attributes:
        scaler: Total to hand out; None: the output's own value.
        plain: Whether derivatives travel: without a scaler they start at 1, as the chain rule does.
    """

    scaler: float | None
    plain: bool = False

    def at(self, matrix: Array, weights: Array) -> Array:
        """Relevance by entry."""
        if self.scaler is not None:
            return self.scaler * weights
        return jnp.where(weights > 0, jnp.ones_like(matrix) if self.plain else matrix, 0)


def custom(value: Array, asked: Question, paired: bool) -> Start:
    """The user's own start; in pairs what is negative speaks against."""
    given = asked.start.astype(value.dtype)
    relevance = jnp.stack([jnp.maximum(given, 0), jnp.maximum(-given, 0)]) if paired else given
    return Start(relevance, asked.target)


def other_class(relevance: Array, asked: Question, paired: bool) -> Array:
    """Of a single unit, when class 0 is asked for: what speaks for class 1 speaks against it, and the other way round.

    Class 0 answers 1 - a, or as a logit -a; the 1 comes from no input.
    """
    turned = jnp.flip(relevance, axis=0) if paired else -relevance
    return jnp.where(asked.target == 0, turned, relevance)


def rival(matrix: Array, weights: Array, asked: Question, amounts: Amounts) -> Array:
    """Relevance of the class that the target is contrasted with, at the same positions; nothing where there is none."""
    moved = jnp.sum(weights, axis=1, keepdims=True) * one_hot(asked.against, weights.shape[1], weights.dtype)[None]
    return amounts.at(matrix, jnp.where(asked.against == UNSET, 0, moved))


def others(matrix: Array, weights: Array, scaler: float | None, *, probability: bool, binary: bool) -> Array:
    """What speaks against at the same positions: the other classes, none negative, rescaled to the scaler.

    One unit that answers yes or no has the probability of the other answer instead, as it is.
    """
    if matrix.shape[1] == 1:
        complement = 1 - matrix if probability else jax.nn.sigmoid(-matrix) if binary else jnp.zeros_like(matrix)
        return complement * (jnp.sign(weights) if scaler is None else scaler * weights)
    rivals = (weights == 0) & jnp.any(weights > 0, axis=1, keepdims=True)
    sizes = jnp.where(rivals, matrix if probability else _softmax(matrix, rivals, rescaled=scaler is not None), 0)
    total = jnp.sum(sizes)
    return sizes if scaler is None else sizes * (scaler / jnp.where(total == 0, 1, total))


def _softmax(matrix: Array, chosen: Array, *, rescaled: bool) -> Array:
    """Softmax over classes; rescaled, the largest of the chosen entries is 1, so that they never vanish together."""
    logarithms = jax.nn.log_softmax(matrix, axis=1)
    largest = jnp.max(logarithms, where=chosen, initial=jnp.finfo(matrix.dtype).min)
    return jnp.exp(logarithms - largest if rescaled else logarithms)
