"""Folds scales and shifts into the linear map before them: bias additions and batch normalisation at inference.

A constant added to a linear map is its bias where it varies only along axes along which the weights vary; a position
table, which varies along time as well, stays an operand of a sum. A constant factor folds into the weights likewise.
Moves between the two, which keep every entry once (reshapes, transpositions, casts), change places with the constant.
Where a map is cut into parts (one projection for queries, keys and values), the constant of a part is one of the map.
A constant that meets a sum behind moves is a term of that sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from backtrace_jax.ir import Eqn, Program, Var

from .linear_maps import Maps, before_moves, brought_back, weight_position
from .rewriting import within_bodies


def fold_affine(program: Program) -> Program:
    """Fold every constant shift and scale that alone consumes a linear map with known weights, in bodies as well."""
    program = within_bodies(program, lambda _, body: fold_affine(body))
    folding = _Folding(program)
    for eqn in program.graph.eqns:
        folding.visit(eqn)
    return folding.finish()


class _Folding(Maps):
    """Equations seen so far, by result, and the weights as they are being rewritten."""

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        self.graph = program.graph
        self.params = {var.name: var for var in program.graph.params}

    def visit(self, eqn: Eqn) -> None:
        found = self._behind(eqn)
        folded = self._folded(eqn, *found) if found else None
        if found is None or folded is None:
            self.eqns[eqn.outvars[0].name] = eqn
            return
        before, moves = found
        if moves and moves[-1].op == "slice":
            self.eqns[before.outvars[0].name] = folded  # in its place, ahead of its other parts
            moves, folded = moves[:-1], self._part(moves, eqn.outvars[0])
        else:
            del self.eqns[before.outvars[0].name]
        for each in moves:
            del self.eqns[each.outvars[0].name]
        for each in self._moved(folded, moves, eqn.outvars[0]):
            self.eqns[each.outvars[0].name] = each

    def _part(self, moves: Sequence[Eqn], result: Var) -> Eqn:
        """The slice at the end of moves, outermost first, that lead to a result; it is taken out."""
        old = self.eqns.pop(moves[-1].outvars[0].name)
        own = result if len(moves) == 1 else replace(old.outvars[0], name=self._unique(f"{result.name}.moved"))
        new = replace(old, outvars=(own,))
        whole = old.invars[0].name
        self.readers[whole] = [new if each is old else each for each in self.readers[whole]]
        return new

    def _behind(self, eqn: Eqn) -> tuple[Eqn, list[Eqn]] | None:
        """The linear map that a constant is added to or multiplied with, and the moves between, outermost first."""
        operands = [var for var in eqn.invars if var.name not in self.weights]
        if eqn.op not in _FOLDS or len(operands) != 1 or len(eqn.invars) > 2:
            return None
        return self.map_behind(operands[0]) if operands[0].shape == eqn.outvars[0].shape else None

    def _folded(self, eqn: Eqn, before: Eqn, moves: Sequence[Eqn]) -> Eqn | None:
        """The linear map, or the sum, with the constant in it."""
        weight, known = weight_position(before, self.weights), [v for v in eqn.invars if v.name in self.weights]
        array = self.weights[known[0].name] if known else np.array(-1.0)
        part = bool(moves) and moves[-1].op == "slice"
        if part and eqn.op == "sub" and eqn.invars[0].name in self.weights:
            return None
        if weight is None:
            constant = _of_sum(array, eqn, before, moves)
        else:
            constant = brought_back(array, before, weight, moves, float(eqn.op in ("mul", "neg")))
        if constant is None:
            return None
        result = before.outvars[0] if moves else eqn.outvars[0]
        if moves and not part:
            result = replace(result, name=self._unique(f"{eqn.outvars[0].name}.moved"))
        if weight is None:
            term = self._param(f"{result.name}.term", constant, result.dtype)
            return replace(before, invars=(*before.invars, term), outvars=(result,))
        return _FOLDS[eqn.op](self, eqn, before, weight, constant, result)

    def _moved(self, folded: Eqn, moves: Sequence[Eqn], result: Var) -> list[Eqn]:
        """A linear map, and the moves behind it that lead to a result."""
        eqns = [folded]
        for place, move in reversed(list(enumerate(moves))):
            (value,), (old,) = eqns[-1].outvars, move.outvars
            new = result if place == 0 else replace(old, name=self._unique(f"{result.name}.moved"))
            eqns.append(replace(move, invars=(value,), outvars=(new,)))
            self.readers[value.name] = [eqns[-1]]
        return eqns

    def finish(self) -> Program:
        graph = replace(self.graph, params=tuple(self.params.values()), eqns=tuple(self.eqns.values()))
        return Program(graph, self.weights)

    def shift(self, eqn: Eqn, before: Eqn, weight: int, constant: np.ndarray, result: Var) -> Eqn | None:
        """add: the constant joins the bias; where nothing is left of it, there is none."""
        bias = constant
        if len(before.invars) == 3:
            bias = self.weights[before.invars[2].name].astype(np.float64) + bias
        known = (self._param(result.name + ".bias", bias, result.dtype),) if bias.any() else ()
        return replace(before, invars=(*before.invars[:2], *known), outvars=(result,))

    def scale(self, eqn: Eqn, before: Eqn, weight: int, constant: np.ndarray, result: Var) -> Eqn | None:
        """mul, neg: the constant scales the weights' rows and the bias."""
        wide = constant.astype(np.float64)
        scaled = _scaled(before, weight, self.weights[before.invars[weight].name].astype(np.float64), wide)
        if scaled is None:
            return None
        operands = list(before.invars)
        operands[weight] = self._param(result.name + ".weight", scaled, result.dtype)
        if len(operands) == 3:
            operands[2] = self._param(result.name + ".bias", self.weights[operands[2].name] * wide, result.dtype)
        return replace(before, invars=tuple(operands), outvars=(result,))

    def difference(self, eqn: Eqn, before: Eqn, weight: int, constant: np.ndarray, result: Var) -> Eqn | None:
        """sub: a constant less the map is the map of the opposite weights, with the constant in its bias."""
        if eqn.invars[0].name not in self.weights:
            return self.shift(eqn, before, weight, -constant, result)
        opposite = self.scale(eqn, before, weight, np.full((1,) * constant.ndim, -1.0), result)
        return opposite and self.shift(eqn, opposite, weight, constant, result)

    def _unique(self, name: str) -> str:
        while name in self.params or name in self.readers:
            name += "'"
        self.readers[name] = []
        return name

    def _param(self, name: str, array: np.ndarray, dtype: np.dtype) -> Var:
        while name in self.params or name in self.readers:
            name += "'"
        self.weights[name] = np.asarray(array, dtype, order="C")
        self.params[name] = Var(name, self.weights[name].shape, dtype)
        return self.params[name]


_FOLDS: dict[str, Callable[..., Eqn | None]] = {
    "add": _Folding.shift,
    "sub": _Folding.difference,
    "mul": _Folding.scale,
    "neg": _Folding.scale,
}


def _of_sum(array: np.ndarray, eqn: Eqn, before: Eqn, moves: Sequence[Eqn]) -> np.ndarray | None:
    """What a constant that is added to a sum behind moves is as a term of the sum, which keeps the name of a module."""
    own = before.source.module in ("", eqn.source.module)
    if not moves or not own or (eqn.op, before.op) != ("add", "add"):
        return None
    found, shape = before_moves(array, moves, len(moves[0].outvars[0].shape), 0.0), before.outvars[0].shape
    return found if np.isfinite(found).all() and np.broadcast_shapes(found.shape, shape) == shape else None


def _scaled(eqn: Eqn, weight: int, K: np.ndarray, constant: np.ndarray) -> np.ndarray | None:
    """The weights times a constant in the result's rank; None where the operation has no such form."""
    if constant.size == 1:
        return np.multiply(K, constant.reshape(()), out=np.empty_like(K))
    if eqn.op == "mul":
        return K * constant
    if eqn.op == "matmul" and K.ndim == 2:
        return K * constant.reshape((1, -1) if weight == 1 else (-1, 1))
    if eqn.op == "einsum":
        return _scaled_by_letters(eqn.params["equation"], weight, K, constant)
    if eqn.op == "conv":
        return K * constant.reshape(-1, *(1,) * (K.ndim - 1))
    if eqn.op == "conv_transpose":
        groups = eqn.params["groups"]
        grouped = K.reshape(groups, -1, *K.shape[1:])
        return (grouped * constant.reshape(groups, 1, -1, *(1,) * (K.ndim - 2))).reshape(K.shape)
    return None


def _scaled_by_letters(equation: str, weight: int, K: np.ndarray, constant: np.ndarray) -> np.ndarray | None:
    """An einsum's weights times a constant in the rank of its result."""
    terms, result = equation.replace(" ", "").split("->")
    own = terms.split(",")[weight]
    if "." in own or len(set(own)) < len(own):
        return None
    axes = sorted(
        (own.index(result[axis]), axis) for axis, size in enumerate(constant.shape[-len(result) :]) if size > 1
    )
    shape = [1] * K.ndim
    for place, axis in axes:
        shape[place] = constant.shape[axis]
    return K * constant.transpose([*(axis for _, axis in axes), *_others(constant, axes)]).reshape(shape)


def _others(constant: np.ndarray, axes: Sequence[tuple[int, int]]) -> list[int]:
    used = {axis for _, axis in axes}
    return [axis for axis in range(constant.ndim) if axis not in used]
