"""Values as terms: two graphs compute the same when their outputs are equal terms of the same inputs.

A term has a root, which says how its entries are computed, and a shape. Reshapes keep the root, so that the many ways
to say them (a squeeze, an expansion of nothing, a transposition of axes of size 1) are one; so do operations that
change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backtrace_jax.ir import Graph

from .places import Shape


@dataclass(frozen=True)
class Term:
    """A value: the root, which tells its entries in row-major order, and the shape."""

    root: int
    shape: Shape


class Terms:
    """Makes terms; equal ones have the same root."""

    def __init__(self, entrywise: frozenset[str]) -> None:
        self._entrywise = entrywise
        self._roots: dict[Any, int] = {}
        self._arrays: dict[Any, list[tuple[np.ndarray, int]]] = {}

    def _root(self, key: Any) -> int:
        return self._roots.setdefault(key, len(self._roots))

    def given(self, name: Any, shape: Shape) -> Term:
        """A value that no operation computes, known by its name."""
        return Term(self._root(("given", name)), shape)

    def array(self, array: np.ndarray) -> Term:
        """A known value."""
        alike = self._arrays.setdefault((array.dtype.name, array.size), [])
        for other, root in alike:
            if _equal(other, array):
                return Term(root, array.shape)
        alike.append((array, self._root(("array", array.dtype.name, array.size, len(alike)))))
        return Term(alike[-1][1], array.shape)

    def results(
        self, op: str, params: Mapping[str, Any], operands: Sequence[Term], shapes: Sequence[Shape], body: Any = None
    ) -> list[Term]:
        """The results of an operation, of these shapes; `body` stands for its sub-graph."""
        same = self._unchanged(op, params, operands, shapes)
        if same is not None:
            return [Term(same, shapes[0])]
        if op == "transpose":
            operands, params = _squeezed(operands[0], params["perm"])
        elif op in self._entrywise or op == "expand":
            operands = [Term(term.root, _without_lead(term.shape)) for term in operands]
        settings = tuple((name, _hashable(value)) for name, value in sorted(params.items()) if not _is_graph(value))
        if op == "expand":
            settings = (_without_lead(shapes[0]),)
        key = (op, settings, tuple(operands), body)
        return [Term(self._root((key, i)), shape) for i, shape in enumerate(shapes)]

    def outcome(self, results: Sequence[Term]) -> int:
        """What stands for the results of a sub-graph."""
        return self._root(("outcome", tuple(results)))

    def _unchanged(
        self, op: str, params: Mapping[str, Any], operands: Sequence[Term], shapes: Sequence[Shape]
    ) -> int | None:
        """The root of an operand that an operation leaves as it is."""
        term = operands[0] if operands else None
        if term is None or len(shapes) != 1 or math.prod(term.shape) != math.prod(shapes[0]):
            return None
        kept = op in ("reshape", "expand", "slice") or (op == "concat" and len(operands) == 1)
        if op == "transpose":
            moved = [axis for axis in params["perm"] if term.shape[axis] != 1]
            kept = moved == sorted(moved)
        return term.root if kept else None


def _squeezed(term: Term, perm: Sequence[int]) -> tuple[list[Term], dict[str, Any]]:
    """A transposition without the axes of size 1."""
    long = [axis for axis, size in enumerate(term.shape) if size != 1]
    order = tuple(long.index(axis) for axis in perm if axis in long)
    return [Term(term.root, tuple(term.shape[axis] for axis in long))], {"perm": order}


def _without_lead(shape: Shape) -> Shape:
    lead = next((axis for axis, size in enumerate(shape) if size != 1), len(shape))
    return shape[lead:]


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays of one type and size hold the same entries in row-major order."""
    if one is other or (one.__array_interface__["data"] == other.__array_interface__["data"] and _as_one(one, other)):
        return True
    first, second = (np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in (one, other))
    return np.array_equal(first, second)


def _as_one(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and one.strides == other.strides


def _is_graph(value: Any) -> bool:
    return isinstance(value, Graph)


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value
