"""The rules of RULES.md once more, unit by unit in NumPy: slow, float64, and written from the definitions alone.

Nothing here calls the library. A linear map is given as its matrix K [out, in]; `matrix` probes a NumPy function with
unit vectors, `tests.rules.matrices` writes convolutions and poolings out entry by entry.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

RANGES = {"tanh": (-2.0, 2.0), "sigmoid": (-4.0, 4.0), "softmax": (-1.0, 2.0), "silu": (-6.0, math.inf)}
"""Saturation ranges (l, u) of RULES 1.1."""


class Shared(NamedTuple):
    """What a linear rule makes of relevance: shares of the operand, and what each output unit kept back."""

    share: np.ndarray
    bias: np.ndarray
    dead: np.ndarray


def matrix(function: Callable[[np.ndarray], np.ndarray], shape: Sequence[int]) -> np.ndarray:
    """The matrix of a linear function of an array of this shape."""
    units = np.eye(math.prod(shape)).reshape(-1, *shape)
    return np.stack([np.ravel(function(unit)) for unit in units], axis=1)


def contributions(K: np.ndarray, x: np.ndarray) -> np.ndarray:
    """c_ij = K_ij x_j."""
    return K * x.reshape(1, -1)


def default_rule(
    K: np.ndarray,
    x: np.ndarray,
    b: np.ndarray | None,
    R: np.ndarray,
    saturation: tuple[float, float] | None = None,
    *,
    ignored: bool = False,
) -> Shared:
    """RULES 1.1; a bias that is ignored counts in z, which opens and closes gates, and in nothing else."""
    biases = np.zeros(R.size) if b is None else np.broadcast_to(b, R.shape).reshape(-1)
    units = zip(contributions(K, x), biases, R.reshape(-1), strict=True)
    units = [_unit(*unit, saturation, ignored=ignored) for unit in units]
    shares, bias, dead = zip(*units, strict=True)
    return Shared(np.sum(shares, axis=0).reshape(x.shape), np.array(bias), np.array(dead))


def _unit(
    c: np.ndarray, b: float, R: float, saturation: tuple[float, float] | None, *, ignored: bool
) -> tuple[np.ndarray, float, float]:
    """What one output unit hands on, gives to its bias, and loses."""
    lower, upper = saturation or (-math.inf, math.inf)
    t = c.sum() + b
    positive, negative = np.maximum(c, 0), np.maximum(-c, 0)
    evidence = (0 if t < lower else 1) * positive + (0 if t > upper else 1) * negative
    taken = 0.0 if ignored else abs(b)
    D = evidence.sum() + taken
    if D == 0:
        return np.zeros_like(c), 0.0, R
    return evidence * R / D, taken * R / D, 0.0


def product_rule(
    function: Callable[[np.ndarray, np.ndarray], np.ndarray], a: np.ndarray, b: np.ndarray, R: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """RULES 4: half of R through each factor, by the linear rule with the other one as weights."""
    first = default_rule(matrix(lambda x: function(x, b), a.shape), a, None, R / 2)
    second = default_rule(matrix(lambda x: function(a, x), b.shape), b, None, R / 2)
    return first.share, second.share, first.dead + second.dead


def sum_rule(operands: Sequence[np.ndarray], R: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """RULES 3: shares in proportion to |x_k|; a mask of -inf attracts nothing."""
    shares, dead = [np.zeros(x.shape) for x in operands], np.zeros(R.shape)
    for at in np.ndindex(R.shape):
        places = [place(x.shape, at) for x in operands]
        sizes = [abs(x[p]) if np.isfinite(x[p]) else 0.0 for x, p in zip(operands, places, strict=True)]
        if sum(sizes) == 0:
            dead[at] = R[at]
            continue
        for share, p, size in zip(shares, places, sizes, strict=True):
            share[p] += size * R[at] / sum(sizes)
    return shares, dead


def place(shape: Sequence[int], at: Sequence[int]) -> tuple[int, ...]:
    """Where an operand of this shape is read for one entry of the result, by NumPy's broadcasting."""
    trailing = at[len(at) - len(shape) :]
    return tuple(0 if size == 1 else index for size, index in zip(shape, trailing, strict=True))


Candidate = tuple[int, tuple[int, ...]]
"""An operand and an index into it."""


def winner_rule(
    candidates: Callable[[tuple[int, ...]], Iterable[Candidate]],
    operands: Sequence[np.ndarray],
    R: np.ndarray,
    best: Callable[[Sequence[float]], float] = max,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """RULES 2, selections: values of the winners, and shares; exact ties share equally.

    Args:
        candidates: Which entries compete for an entry of the result.
        operands: What they are entries of.
        R: Relevance of the result.
        best: Picks the winning value.
    """
    values, shares = np.zeros(R.shape), [np.zeros(x.shape) for x in operands]
    for at in np.ndindex(R.shape):
        entries = list(candidates(at))
        values[at] = best([operands[k][place] for k, place in entries])
        winners = [(k, place) for k, place in entries if operands[k][place] == values[at]]
        for k, place in winners:
            shares[k][place] += R[at] / len(winners)
    return values, shares


def move_rule(
    move: Callable[..., np.ndarray], operands: Sequence[np.ndarray], R: np.ndarray
) -> tuple[np.ndarray, list[np.ndarray]]:
    """RULES 2, moves: the moved values, and every entry's relevance added up where the entry came from.

    Args:
        move: The move in NumPy; it is also applied to the operands' entry numbers, which tells where each went.
        operands: What is moved.
        R: Relevance of the result.
    """
    ends = np.cumsum([0, *(x.size for x in operands)])
    numbers = [np.arange(x.size).reshape(x.shape) + first for x, first in zip(operands, ends, strict=False)]
    collected = np.zeros(ends[-1])
    np.add.at(collected, move(*numbers).reshape(-1), R.reshape(-1))
    parts = np.split(collected, ends[1:-1])
    return move(*operands), [part.reshape(x.shape) for part, x in zip(parts, operands, strict=True)]


def token_rule(indices: np.ndarray, axis: int, R: np.ndarray) -> np.ndarray:
    """RULES 9: a token's relevance is the sum over what was looked up for it."""
    share = np.zeros(indices.shape)
    for at in np.ndindex(R.shape):
        share[at[axis : axis + indices.ndim]] += R[at]
    return share
