"""Folds scales and shifts into the linear map before them: bias additions and batch normalisation at inference.

A constant added to a linear map is its bias where it varies only along axes along which the weights vary; a position
table, which varies along time as well, stays an operand of a sum. A constant factor folds into the weights likewise.
Moves between the two, which keep every entry once (reshapes, transpositions, casts), change places with the constant.
Where a map is cut into parts (one projection for queries, keys and values), the constant of a part is one of the map.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from ..ir import Eqn, Program, Var
from ..ops import OPS, PRODUCT
from .tidy import narrowed


def fold_affine(program: Program) -> Program:
    """Fold every constant shift and scale that alone consumes a linear map with known weights."""
    folding = _Folding(program)
    for eqn in program.graph.eqns:
        folding.visit(eqn)
    return folding.finish()


class _Folding:
    """Equations seen so far, by result, and the weights as they are being rewritten."""

    def __init__(self, program: Program) -> None:
        self.graph = program.graph
        self.weights = dict(program.weights)
        self.params = {var.name: var for var in program.graph.params}
        self.eqns: dict[str, Eqn] = {}
        self.readers = program.graph.consumers()
        self.outputs = {var.name for var in program.graph.outputs}

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
        var, moves = operands[0], []
        if var.shape != eqn.outvars[0].shape:
            return None
        while (before := self.eqns.get(var.name)) is not None and self._alone(var):
            if before.op == "slice" and self._cut(before.invars[0]):
                whole = self.eqns.get(before.invars[0].name)
                return (whole, [*moves, before]) if whole is not None else None
            if not _is_move(before):
                return before, moves
            moves.append(before)
            var = before.invars[0]
        return None

    def _cut(self, var: Var) -> bool:
        """Whether a value is read in parts only, and no entry twice."""
        parts = self.readers[var.name]
        if var.name in self.outputs or any(part.op != "slice" for part in parts):
            return False
        return all(_apart(one, other) for one, other in combinations(parts, 2))

    def _folded(self, eqn: Eqn, before: Eqn, moves: Sequence[Eqn]) -> Eqn | None:
        """The linear map with the constant in it."""
        weight, known = _weight_position(before, self.weights), [v for v in eqn.invars if v.name in self.weights]
        if weight is None:
            return None
        array = self.weights[known[0].name] if known else np.array(-1.0)
        rank = len(eqn.outvars[0].shape)
        array = array.reshape((1,) * (rank - array.ndim) + array.shape)
        part = moves[-1] if moves and moves[-1].op == "slice" else None
        if part is not None and eqn.op == "sub" and eqn.invars[0].name in self.weights:
            return None
        constant = _pulled_back(array, moves if part is None else moves[:-1])
        constant = constant if part is None else _widened(constant, part, float(eqn.op in ("mul", "neg")))
        varying = {axis for axis, size in enumerate(constant.shape) if size > 1}
        if not np.isfinite(constant).all() or not varying <= _feature_axes(before, weight):
            return None
        result = before.outvars[0] if moves else eqn.outvars[0]
        if moves and part is None:
            result = replace(result, name=self._unique(f"{eqn.outvars[0].name}.moved"))
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

    def _alone(self, var: Var) -> bool:
        return len(self.readers[var.name]) == 1 and var.name not in self.outputs

    def shift(self, eqn: Eqn, before: Eqn, weight: int, constant: np.ndarray, result: Var) -> Eqn | None:
        """add: the constant joins the bias."""
        bias = constant
        if len(before.invars) == 3:
            bias = self.weights[before.invars[2].name].astype(np.float64) + bias
        operands = (*before.invars[:2], self._param(result.name + ".bias", bias, result.dtype))
        return replace(before, invars=operands, outvars=(result,))

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


def _is_move(eqn: Eqn) -> bool:
    """Whether every entry is in the result once, in another place or float type, to which it is not rounded."""
    cast = eqn.op == "cast" and eqn.invars[0].is_float and eqn.params.get("rounded") is None
    return cast or eqn.op in ("reshape", "transpose")


def _apart(one: Eqn, other: Eqn) -> bool:
    """Whether two slices of one value have no entry in common."""
    bounds = zip(*(each.params[key] for each in (one, other) for key in ("start", "limit")), strict=True)
    return any(limit <= begin or end <= start for start, limit, begin, end in bounds)


def _widened(constant: np.ndarray, part: Eqn, neutral: float) -> np.ndarray:
    """A constant of a part as one of the whole, which leaves the other entries as they are."""
    whole, places = list(constant.shape), [slice(None)] * constant.ndim
    for axis, (start, limit) in enumerate(zip(part.params["start"], part.params["limit"], strict=True)):
        if limit - start < part.invars[0].shape[axis]:
            whole[axis] = part.invars[0].shape[axis]
            places[axis] = slice(start, limit, part.params["stride"][axis])
    wide = np.full(whole, neutral, constant.dtype)
    wide[tuple(places)] = constant
    return wide


def _pulled_back(constant: np.ndarray, moves: Sequence[Eqn]) -> np.ndarray:
    """What a constant is before the moves, outermost first, that lead to the value it meets."""
    for move in moves:
        if move.op == "transpose":
            constant = constant.transpose(np.argsort(move.params["perm"]))
        if move.op == "reshape":
            shape = move.invars[0].shape
            wide = constant if constant.size == 1 else np.broadcast_to(constant, move.outvars[0].shape)
            constant = wide.reshape((1,) * len(shape)) if wide.size == 1 else narrowed(wide.reshape(shape))
    return constant


def _weight_position(eqn: Eqn, weights: Mapping[str, np.ndarray]) -> int | None:
    """Which factor of a product is its only known one; None where there is none."""
    if OPS[eqn.op].kind != PRODUCT:
        return None
    known = [i for i in (0, 1) if eqn.invars[i].name in weights]
    return known[0] if len(known) == 1 else None


def _feature_axes(eqn: Eqn, weight: int) -> set[int]:
    """Axes of the result along which the weights vary."""
    rank, shape = len(eqn.outvars[0].shape), eqn.invars[weight].shape
    if eqn.op in ("conv", "conv_transpose"):
        return {1}
    if eqn.op == "einsum":
        return _lettered_axes(eqn.params["equation"], weight, rank)
    if eqn.op == "matmul" and any(len(var.shape) < 2 for var in eqn.invars[:2]):
        own = (*shape[:-2], *shape[-1 if weight == 1 else -2 :][:1])  # a vector has no axis in the result
        return {axis for axis, size in enumerate(own) if size > 1} if len(shape) > 1 else set()
    axes = {rank - 1 - i for i, size in enumerate(reversed(shape)) if size > 1}
    return axes - {rank - 2 if weight == 1 else rank - 1} if eqn.op == "matmul" else axes


def _lettered_axes(equation: str, weight: int, rank: int) -> set[int]:
    """Axes of an einsum's result that its weights share; an ellipsis in the middle stands for the axes left over."""
    terms, result = equation.replace(" ", "").split("->")
    own = terms.split(",")[weight]
    if "..." in own:
        return set()
    before, _, after = result.partition("...")
    letters = [*enumerate(before), *((rank - len(after) + i, letter) for i, letter in enumerate(after))]
    return {axis for axis, letter in letters if letter in own}


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
