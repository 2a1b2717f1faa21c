"""Tables of tree ensembles: checked trees, the expected value of every node, and how they are walked.

ONNX keeps no training counts, which the expected values of Saabas 2014 are means over. So each child of a split counts
one half. Where the hit rates of the nodes add up (each split's is the sum of its children's) they are such counts, and
count instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from backtrace_jax.errors import ModelError
from backtrace_jax.ops.trees import ABOVE, BELOW, EQUAL, MISSING
from backtrace_jax.passes.build import Value

from ..lowering import Lowering

MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "BRANCH_MEMBER")
MEMBER = MODES.index("BRANCH_MEMBER")
LEAF = len(MODES)
_ACCEPTED = np.array(
    [BELOW | EQUAL, BELOW, EQUAL | ABOVE, ABOVE, EQUAL, BELOW | ABOVE | MISSING, EQUAL, 0], np.int32
)  # a missing value is unequal to everything


@dataclass(frozen=True)
class Forest:
    """Trees, node by node.

    Attributes:
        modes: Positions in `MODES`, or `LEAF`.
        features: The feature each node compares.
        thresholds: What it is compared with.
        missing: Whether a missing value leads to the true branch.
        branches: The nodes that (false, true) lead to, [nodes, 2]; meaningless for leaves.
        weights: What each leaf adds to each target, [nodes, T] in float64; 0 for other nodes.
        voting: Whether a leaf says anything about a target, [nodes, T].
        roots: The root of each tree.
        hit_rates: Popularity of each node, or None.
        members: For each node of mode "BRANCH_MEMBER", in order, the values it compares with.
    """

    modes: np.ndarray
    features: np.ndarray
    thresholds: np.ndarray
    missing: np.ndarray
    branches: np.ndarray
    weights: np.ndarray
    voting: np.ndarray
    roots: np.ndarray
    hit_rates: np.ndarray | None = None
    members: tuple[np.ndarray, ...] = field(default=())

    @cached_property
    def levels(self) -> list[np.ndarray]:
        """Nodes by their distance from the root.

        Raises:
            ModelError: When a branch leads nowhere, or two branches lead to one node.
        """
        levels, seen = [self.roots], np.zeros(len(self.modes), np.int64)
        while len(levels[-1]):
            np.add.at(seen, levels[-1], 1)
            if (seen > 1).any():
                raise ModelError(f"two branches lead to node {int(np.argmax(seen > 1))}; these are no trees")
            splits = levels[-1][self.modes[levels[-1]] != LEAF]
            levels.append(self.branches[splits].reshape(-1))
            if ((levels[-1] < 0) | (levels[-1] >= len(seen))).any():
                raise ModelError("a branch of a tree leads to a node that does not exist")
        return levels[:-1]

    @cached_property
    def expected(self) -> np.ndarray:
        """Expected value of each node, [nodes, T] in float64: a leaf's weights, or the mean over the two children."""
        values, shares = np.where((self.modes == LEAF)[:, None], self.weights, 0.0), self._shares()
        for level in reversed(self.levels):
            splits = level[self.modes[level] != LEAF]
            below = values[self.branches[splits]]
            values[splits] = (shares[splits][..., None] * below).sum(axis=1)
        return values

    @property
    def base(self) -> np.ndarray:
        """Expected value of each tree, [trees, T]."""
        return self.expected[self.roots]

    def _shares(self) -> np.ndarray:
        """How much each child counts, [nodes, 2]."""
        halves = np.full((len(self.modes), 2), 0.5)
        splits = np.flatnonzero(self.modes != LEAF)
        if self.hit_rates is None or not len(splits):
            return halves
        below, own = self.hit_rates[self.branches[splits]], self.hit_rates[splits]
        if not (own > 0).all() or not np.allclose(below.sum(axis=1), own, rtol=1e-4):
            return halves
        halves[splits] = below / below.sum(axis=1, keepdims=True)
        return halves

    def walk(self, lowering: Lowering, X: Value, *, per_tree: bool = False) -> Value:
        """Emit the contributions of the features of X [N, F] along the decision paths."""
        if int(self.features.max(initial=0)) >= X.shape[1]:
            raise ModelError(f"a tree compares feature {self.features.max()}, the input has {X.shape[1]} of them")
        columns = lowering.reshape(X, (*X.shape, 1))
        depth = len(self.levels) - 1
        return lowering.emit("tree_paths", columns, *self._tables(X.dtype), depth=depth, per_tree=per_tree)

    def _tables(self, dtype: np.dtype) -> list[np.ndarray]:
        nodes = np.arange(len(self.modes))
        children = np.where((self.modes == LEAF)[:, None], nodes[:, None], self.branches)
        gains = np.zeros_like(self.expected)
        for level in self.levels:
            splits = level[self.modes[level] != LEAF]
            gains[self.branches[splits]] = self.expected[self.branches[splits]] - self.expected[splits][:, None]
        accepted = _ACCEPTED[self.modes] | np.where(self.missing, MISSING, 0)
        indices = (self.features, accepted, children, self.roots)
        features, accepted, children, roots = (table.astype(np.int32) for table in indices)
        tables = [features, self.thresholds.astype(dtype), accepted, children, gains.astype(dtype), roots]
        return tables + self._sets(dtype)

    def _sets(self, dtype: np.dtype) -> list[np.ndarray]:
        if not self.members:
            return []
        sets = np.full((len(self.members), max(map(len, self.members))), np.nan, dtype)
        for row, values in zip(sets, self.members, strict=True):
            row[: len(values)] = values
        chosen = np.full(len(self.modes), -1, np.int32)
        chosen[self.modes == MEMBER] = np.arange(len(self.members))
        return [sets, chosen]
