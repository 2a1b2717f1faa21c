"""Cuts a graph into segments whose values the walk computes anew, so that only what crosses a cut is kept.

The graph is cut where few bytes are alive: between the blocks of residual networks and transformers, at the bottom of a
U-Net. Nothing is known of blocks; what is alive where follows from who reads what. See Chen et al. 2016, "Training Deep
Nets with Sublinear Memory Cost", for chains.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from backtrace_jax.ir import Eqn, Graph

_PLACES = 256
"""Places where a graph may be cut; of a longer one the narrowest in each of as many stretches."""
_TRIALS, _FINER = 24, 1.3
"""Sizes of segments that are tried, from the whole graph down, and by how much each is smaller than the one before."""


@dataclass(frozen=True)
class Segment:
    """A run of equations.

    Attributes:
        eqns: The equations.
        reads: Names of the values they read that others make: inputs, weights, and what earlier segments have kept.
    """

    eqns: tuple[Eqn, ...]
    reads: tuple[str, ...]


def segmented(graph: Graph, given: Collection[str] = ()) -> tuple[Segment, ...]:
    """Cut a graph so that what crosses the cuts, together with the largest segment, takes few bytes.

    Args:
        graph: The graph.
        given: Names of computed values that no segment computes, since a walk ends there.
    """
    borders = _borders(graph)
    cuts = [borders[i] for i in _cuts(*_sizes(graph, borders))]
    return tuple(_segment(graph.eqns[first:last], given) for first, last in pairwise(cuts))


def _segment(eqns: tuple[Eqn, ...], given: Collection[str]) -> Segment:
    eqns = tuple(eqn for eqn in eqns if not any(var.name in given for var in eqn.outvars))
    made = {var.name for eqn in eqns for var in eqn.outvars}
    read = dict.fromkeys(var.name for eqn in eqns for var in eqn.invars)
    return Segment(eqns, tuple(name for name in read if name not in made))


class _Lives(NamedTuple):
    """The values that equations make: their bytes, the equation of each, and the last one that reads it."""

    sizes: NDArray[np.int64]
    made: NDArray[np.int64]
    last: NDArray[np.int64]


def _lives(graph: Graph) -> _Lives:
    readers = {var.name: place for place, eqn in enumerate(graph.eqns) for var in eqn.invars}
    made = [(place, var) for place, eqn in enumerate(graph.eqns) for var in eqn.outvars]
    rows = [(math.prod(v.shape) * v.dtype.itemsize, place, readers.get(v.name, place)) for place, v in made]
    return _Lives(*np.array(rows, np.int64).reshape(-1, 3).T)


def _borders(graph: Graph) -> list[int]:
    """Equations before which the graph may be cut, the narrowest of each stretch; and its beginning and its end."""
    count, lives = len(graph.eqns), _lives(graph)
    change = np.zeros(count + 1, np.int64)
    np.add.at(change, lives.made + 1, lives.sizes)
    np.subtract.at(change, lives.last + 1, lives.sizes)
    alive, inner = np.cumsum(change), np.arange(1, count)
    stretches = np.array_split(inner, min(_PLACES, len(inner))) if len(inner) else []
    return [0, *(int(each[np.argmin(alive[each])]) for each in stretches), count]


def _sizes(graph: Graph, borders: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Bytes that are made before each border; and of what is made from one border to another those that are read later,
    [first, last]."""
    count, lives = len(borders) - 1, _lives(graph)
    made, last = (np.searchsorted(borders, each, side="right") - 1 for each in (lives.made, lives.last))
    across = np.zeros((count + 1, count + 1), np.int64)  # [made after, read after]
    np.add.at(across, (made, last), lives.sizes)
    across = np.cumsum(across[:, ::-1], axis=1)[:, ::-1]  # [made after, read after or later]
    before = np.cumsum(np.concatenate([np.zeros_like(across[:1]), across[:-1]]), axis=0)  # [made before, ...]
    return before[:, 0], np.diagonal(before) - before


def _cuts(made: NDArray[np.int64], kept: NDArray[np.int64]) -> list[int]:
    """The borders to cut at, the first and the last one among them: of several trials the one that takes least."""
    most = made[-1] / _FINER ** np.arange(_TRIALS)
    trials = [_cheapest(made, kept, each) for each in most if each >= np.max(np.diff(made))]

    def taken(cuts: list[int]) -> int:
        crossing = sum(int(kept[first, last]) for first, last in pairwise(cuts))
        return crossing + int(np.max(np.diff(made[cuts])))

    return min(trials, key=taken)


def _cheapest(made: NDArray[np.int64], kept: NDArray[np.int64], most: float) -> list[int]:
    """The borders to cut at so that the fewest bytes cross a cut, where no segment makes more than `most`."""
    best, before = np.zeros(len(made)), np.zeros(len(made), np.int64)
    for last in range(1, len(made)):
        first = min(int(np.searchsorted(made, made[last] - most)), last - 1)
        costs = best[first:last] + kept[first:last, last]
        before[last] = first + np.argmin(costs)
        best[last] = costs[before[last] - first]
    cuts = [len(made) - 1]
    while cuts[-1]:
        cuts.append(int(before[cuts[-1]]))
    return cuts[::-1]
