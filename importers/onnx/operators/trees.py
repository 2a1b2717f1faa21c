"""Tree ensembles of ONNX's domain for classical machine learning.

An ensemble becomes two operations: what each feature contributed along the decision paths, and the sum of that and of
the expected values at the roots, so that every mode shares relevance out by its rule for sums of evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from backtrace_jax.errors import ModelError, UnsupportedError
from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from ..scope import Text
from .forests import LEAF, MEMBER, MODES, Forest
from .registry import operator
from .scores import TRANSFORMS, as_features, finished, is_above, labels_of, of_two, transformed, winner

DOMAIN = "ai.onnx.ml"
_AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")

Numbers: TypeAlias = "Sequence[float] | np.ndarray"


def _either(attributes: dict[str, Any], name: str) -> np.ndarray | None:
    """An attribute given as numbers or, in double precision, as a tensor."""
    given = attributes.get(name)
    wide = attributes.get(f"{name}_as_tensor")
    if given is not None and len(given):
        return np.asarray(given, np.float64)
    return None if wide is None or not wide.size else wide.reshape(-1).astype(np.float64)


def _column(attributes: dict[str, Any], name: str, length: int) -> np.ndarray:
    """Whole numbers, one per node; there must be some."""
    column = np.asarray(attributes.get(name, ()), np.int64)
    if len(column) != length:
        raise ModelError(f"{name} has {len(column)} entries for {length} nodes")
    return column


class _Places:
    """Positions of nodes by tree and node number."""

    def __init__(self, trees: np.ndarray, numbers: np.ndarray) -> None:
        self._pairs = np.stack([trees, numbers], axis=1)
        self._width = int(numbers.max(initial=0)) + 1
        keys = trees * self._width + numbers
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]
        if (np.diff(self._keys) == 0).any() or (numbers < 0).any():
            raise ModelError("a tree has two nodes of one number, or a negative one")

    def find(self, trees: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Positions of these nodes; -1 for one that does not exist."""
        keys = trees * self._width + numbers
        found = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        known = (self._keys[found] == keys) & (numbers >= 0) & (numbers < self._width)
        return np.where(known, self._order[found], -1)


def _forest(attributes: dict[str, Any], votes: str, targets: int) -> Forest:
    """The trees of a classifier or a regressor; `votes` begins the names of what its leaves say."""
    trees = np.asarray(attributes.get("nodes_treeids", ()), np.int64)
    count = len(trees)
    if not count:
        raise ModelError("the ensemble has no nodes")
    places = _Places(trees, _column(attributes, "nodes_nodeids", count))
    modes = _modes(attributes.get("nodes_modes", ()), count)
    sides = [_column(attributes, f"nodes_{side}nodeids", count) for side in ("false", "true")]
    branches = np.stack([places.find(trees, side) for side in sides], axis=1)
    weights, voting = _votes(attributes, votes, places, (count, targets))
    thresholds, rates = (_per_node(attributes, name, count) for name in ("nodes_values", "nodes_hitrates"))
    missing = "nodes_missing_value_tracks_true"
    forest = Forest(
        modes=modes,
        features=np.where(modes == LEAF, 0, _column(attributes, "nodes_featureids", count)),
        thresholds=np.zeros(count) if thresholds is None else thresholds,
        missing=_column(attributes, missing, count) != 0 if attributes.get(missing) else np.zeros(count, np.bool_),
        branches=branches,
        weights=weights,
        voting=voting,
        roots=_roots(trees, branches[modes != LEAF]),
        hit_rates=rates,
    )
    if sum(map(len, forest.levels)) != count:
        raise ModelError("a tree has nodes that its root does not lead to")
    return forest


def _per_node(attributes: dict[str, Any], name: str, count: int) -> np.ndarray | None:
    """Numbers, one per node, if there are any."""
    found = _either(attributes, name)
    if found is not None and len(found) != count:
        raise ModelError(f"{name} has {len(found)} entries for {count} nodes")
    return found


def _modes(names: Sequence[str], count: int) -> np.ndarray:
    known, inverse = np.unique(np.asarray(names, str), return_inverse=True)
    codes = {**{name: code for code, name in enumerate(MODES)}, "LEAF": LEAF}
    unknown = sorted(set(known.tolist()) - set(codes) | {MODES[MEMBER]} & set(known.tolist()))
    if unknown or len(names) != count:
        raise ModelError(f"nodes_modes: {len(names)} modes for {count} nodes; unknown: {', '.join(unknown) or 'none'}")
    return np.array([codes[name] for name in known.tolist()], np.int64)[inverse]


def _votes(
    attributes: dict[str, Any], votes: str, places: _Places, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """What each node adds to each target, and whether it says anything about it."""
    named = [np.asarray(attributes.get(f"{votes}_{each}", ()), np.int64) for each in ("treeids", "nodeids", "ids")]
    weights = _either(attributes, f"{votes}_weights")
    given = np.zeros(0) if weights is None else weights
    if len({len(given), *map(len, named)}) > 1:
        raise ModelError(f"{votes}_treeids, _nodeids, _ids and _weights differ in length")
    nodes, targets = places.find(*named[:2]), named[2]
    if (nodes < 0).any() or ((targets < 0) | (targets >= shape[1])).any():
        raise ModelError(f"{votes}_nodeids or {votes}_ids name a node or a target that does not exist")
    total, voting = np.zeros(shape), np.zeros(shape, np.bool_)
    np.add.at(total, (nodes, targets), given)
    voting[nodes, targets] = True
    return total, voting


def _roots(trees: np.ndarray, branches: np.ndarray) -> np.ndarray:
    """The one node of each tree that no branch leads to, in the order of the trees."""
    alone = np.ones(len(trees), np.bool_)
    alone[branches[branches >= 0]] = False
    roots = np.flatnonzero(alone)
    if not np.array_equal(np.sort(trees[roots]), np.unique(trees)):
        raise ModelError("a tree has no root, or several")
    return roots


def _total(lowering: Lowering, forest: Forest, X: Value, base: np.ndarray, aggregate: str) -> Value:
    """Scores [N, T]: the trees' values, aggregated, plus the base values."""
    if aggregate not in _AGGREGATES:
        raise UnsupportedError(f"aggregate_function {aggregate!r}; there are {', '.join(_AGGREGATES)}")
    each = aggregate in ("MIN", "MAX")
    if each and not forest.voting[np.concatenate(forest.levels)][_leaves(forest)].all():
        raise UnsupportedError(f"aggregate_function {aggregate} where a leaf says nothing about some target")
    weight = 1 / len(forest.roots) if aggregate == "AVERAGE" else 1.0
    offsets = forest.base[:, None] + base if each else weight * forest.base.sum(axis=0, keepdims=True) + base
    paths = forest.walk(lowering, X, per_tree=each)
    weights = np.full(len(base), weight, X.dtype)
    scores = lowering.emit("tree_sum", paths, weights, offsets.astype(X.dtype))
    return lowering.emit(f"reduce_{aggregate.lower()}", scores, axes=(0,), keepdims=False) if each else scores


def _leaves(forest: Forest) -> np.ndarray:
    return forest.modes[np.concatenate(forest.levels)] == LEAF


def _base(attributes: dict[str, Any], count: int) -> np.ndarray:
    """Base values, one per target; those that are not given are 0."""
    given = _either(attributes, "base_values")
    values = np.zeros(count)
    if given is not None:
        if len(given) > count:
            raise ModelError(f"{len(given)} base values for {count} targets")
        values[: len(given)] = given
    return values


@operator("TreeEnsembleRegressor", domain=DOMAIN)
def tree_ensemble_regressor(
    lowering: Lowering,
    X: Value,
    *,
    n_targets: int = 1,
    aggregate_function: str = "SUM",
    post_transform: str = "NONE",
    **tables: Any,
) -> Value:
    """Sum, mean or extreme of the trees' values."""
    rows = as_features(lowering, X)
    forest = _forest(tables, "target", n_targets)
    scores = _total(lowering, forest, rows, _base(tables, n_targets), aggregate_function)
    return lowering.cast(finished(lowering, scores, post_transform), np.dtype(np.float32))


@operator("TreeEnsembleClassifier", domain=DOMAIN)
def tree_ensemble_classifier(
    lowering: Lowering,
    X: Value,
    *,
    classlabels_int64s: Sequence[int] = (),
    classlabels_strings: Sequence[str] = (),
    post_transform: str = "NONE",
    **tables: Any,
) -> tuple[Value | Text, Value]:
    """Class and scores by the trees' votes; votes for class 0 alone of two classes are for the second, as converters
    and onnxruntime have it."""
    rows, count = as_features(lowering, X), max(len(classlabels_int64s), len(classlabels_strings))
    if count < 2:
        raise UnsupportedError("a classifier of one class; it has nothing to choose from")
    forest, base, voted = _forest(tables, "class", count), _base(tables, count), _voted(tables, count)
    positive = not (forest.weights < 0).any()
    limit = 0.5 if positive else 0.0  # of a lone score, a probability or around 0
    if voted == (0,):
        score = _total(lowering, _first_alone(forest), rows, base[:1], "SUM")
        positions, result = is_above(lowering, score, limit), of_two(lowering, score, post_transform, whole=positive)
    else:
        scores = _total(lowering, forest, rows, base, "SUM")
        result = transformed(lowering, scores, post_transform)
        second = lowering.emit("gather", scores, np.array([1]), axis=1)
        positions = is_above(lowering, second, limit) if voted == (1,) else winner(lowering, scores)
    labels = labels_of(lowering, positions, classlabels_int64s, classlabels_strings)
    return labels, lowering.cast(result, np.dtype(np.float32))


def _voted(tables: dict[str, Any], count: int) -> tuple[int, ...]:
    """The classes, of two, that have votes. Where one has none, runtimes differ on what base values are for."""
    voted, bases = tuple(sorted(set(tables["class_ids"]))), _either(tables, "base_values")
    if count == 2 and bases is not None and (voted == (1,) or (voted == (0,) and len(bases) > 1)):
        raise UnsupportedError(
            f"{len(bases)} bases, all votes for class {voted[0]} of two: runtimes differ. Vote for class 0 with one"
        )
    return voted if count == 2 else ()


def _first_alone(forest: Forest) -> Forest:
    return replace(forest, weights=forest.weights[:, :1], voting=forest.voting[:, :1])


@operator("TreeEnsemble", since=5, domain=DOMAIN)
def tree_ensemble(
    lowering: Lowering,
    X: Value,
    *,
    n_targets: int = 1,
    aggregate_function: int = 1,
    post_transform: int = 0,
    **tables: Any,
) -> Value:
    """Trees whose leaves are listed apart from the splits."""
    if aggregate_function not in range(len(_AGGREGATES)) or post_transform not in range(len(TRANSFORMS)):
        raise UnsupportedError(f"aggregate_function {aggregate_function} or post_transform {post_transform}")
    rows, forest = as_features(lowering, X), _forest_of_splits(tables, n_targets)
    scores = _total(lowering, forest, rows, np.zeros(n_targets), _AGGREGATES[aggregate_function])
    return lowering.cast(finished(lowering, scores, TRANSFORMS[post_transform]), X.dtype)


def _forest_of_splits(tables: dict[str, Any], targets: int) -> Forest:
    """The trees of splits and leaves; a leaf becomes a node of its own for each branch that leads to it."""
    count = len(tables["nodes_featureids"])
    branches, at_leaf = (
        np.stack([_column(tables, f"nodes_{side}{kind}", count) for side in ("false", "true")], axis=1)
        for kind in ("nodeids", "leafs")
    )
    leaves = branches[at_leaf != 0]
    if ((leaves < 0) | (leaves >= len(tables["leaf_targetids"]))).any():
        raise ModelError("a branch leads to a leaf that does not exist")
    branches[at_leaf != 0] = count + np.arange(len(leaves))
    modes = np.asarray(tables["nodes_modes"], np.int64)
    if modes.shape != (count,) or ((modes < 0) | (modes > MEMBER)).any():
        raise ModelError(f"nodes_modes should be {count} numbers from 0 to {MEMBER}")
    weights, voting = _leaf_votes(tables, leaves, (count + len(leaves), targets))
    missing = tables.get("nodes_missing_value_tracks_true") or np.zeros(count)

    def filled(column: Any, fill: Any) -> np.ndarray:
        return np.concatenate([np.asarray(column), np.full(len(leaves), fill, np.asarray(column).dtype)])

    return Forest(
        modes=filled(modes, LEAF),
        features=filled(_column(tables, "nodes_featureids", count), 0),
        thresholds=filled(np.asarray(tables["nodes_splits"], np.float64), 0),
        missing=filled(np.asarray(missing) != 0, False),
        branches=np.concatenate([branches, np.zeros((len(leaves), 2), np.int64)]),
        weights=weights,
        voting=voting,
        roots=np.asarray(tables["tree_roots"], np.int64),
        members=_member_sets(tables.get("membership_values"), int((modes == MEMBER).sum())),
    )


def _leaf_votes(tables: dict[str, Any], leaves: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """What each node adds to each target, and whether it says anything about it; leaves come last."""
    chosen = np.asarray(tables["leaf_targetids"], np.int64)[leaves]
    if ((chosen < 0) | (chosen >= shape[1])).any():
        raise ModelError(f"a leaf names a target that does not exist; there are {shape[1]}")
    weights, voting = np.zeros(shape), np.zeros(shape, np.bool_)
    at = np.arange(shape[0] - len(leaves), shape[0]), chosen
    weights[at], voting[at] = np.asarray(tables["leaf_weights"], np.float64)[leaves], True
    return weights, voting


def _member_sets(values: np.ndarray | None, count: int) -> tuple[np.ndarray, ...]:
    """The sets of values that nodes compare with, each ended by NaN."""
    listed = np.zeros(0) if values is None else np.asarray(values, np.float64)
    ends = np.flatnonzero(np.isnan(listed))
    if len(ends) != count:
        raise ModelError(f"{len(ends)} sets of values for {count} nodes of mode {MODES[MEMBER]}")
    return tuple(part[~np.isnan(part)] for part in np.split(listed, ends)[:count])
