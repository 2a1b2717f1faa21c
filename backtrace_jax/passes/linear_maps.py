"""The linear maps behind values, and what a constant that meets such a value is at the map itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from backtrace_jax.ir import Eqn, Program, Var
from backtrace_jax.ops import OPS, PRODUCT

from .tidy import narrowed


class Maps:
    """Equations by their first result, and who reads them.

    Attributes:
        weights: Known arrays by name.
        eqns: The equations seen so far, by name of the first result.
        readers: The equations that read each value, by its name.
        outputs: Names of the graph's outputs.
    """

    def __init__(self, program: Program) -> None:
        self.weights = dict(program.weights)
        self.eqns: dict[str, Eqn] = {}
        self.readers = program.graph.consumers()
        self.outputs = {var.name for var in program.graph.outputs}

    def map_behind(self, var: Var) -> tuple[Eqn, list[Eqn]] | None:
        """The equation that a value comes from, and the moves between, outermost first, that nothing else reads."""
        found = self.value_behind(var)
        before = self.eqns.get(found[0].name) if found else None
        return (before, found[1]) if found and before is not None else None

    def value_behind(self, var: Var) -> tuple[Var, list[Eqn]] | None:
        """The value that another one is moved from, and the moves, outermost first, that nothing else reads.

        None where something else reads it as well.
        """
        moves: list[Eqn] = []
        while self._alone(var):
            before = self.eqns.get(var.name)
            if before is not None and before.op == "slice" and self._cut(before.invars[0]):
                return before.invars[0], [*moves, before]
            if before is None or not _is_move(before):
                return var, moves
            moves.append(before)
            var = before.invars[0]
        return None

    def _cut(self, var: Var) -> bool:
        """Whether a value is read in parts only, and no entry twice."""
        parts = self.readers[var.name]
        if var.name in self.outputs or any(part.op != "slice" for part in parts):
            return False
        return all(_apart(one, other) for one, other in combinations(parts, 2))

    def _alone(self, var: Var) -> bool:
        return len(self.readers[var.name]) == 1 and var.name not in self.outputs


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


def brought_back(
    array: np.ndarray, linear: Eqn, weight: int, moves: Sequence[Eqn], neutral: float
) -> np.ndarray | None:
    """A constant that meets a linear map behind moves, outermost first, as one at the map itself.

    None where it varies along other axes than the weights do, or is not finite. `neutral` leaves other entries alone.
    """
    constant = before_moves(array, moves, len((moves[0] if moves else linear).outvars[0].shape), neutral)
    varying = {axis for axis, size in enumerate(constant.shape) if size > 1}
    return constant if np.isfinite(constant).all() and varying <= _feature_axes(linear, weight) else None


def before_moves(array: np.ndarray, moves: Sequence[Eqn], rank: int, neutral: float) -> np.ndarray:
    """A constant that meets a value of a rank behind moves, outermost first, as one that meets it before them."""
    part = moves[-1] if moves and moves[-1].op == "slice" else None
    constant = array.reshape((1,) * (rank - array.ndim) + array.shape)
    constant = _pulled_back(constant, moves if part is None else moves[:-1])
    return constant if part is None else _widened(constant, part, neutral)


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


def weight_position(eqn: Eqn, weights: Mapping[str, np.ndarray]) -> int | None:
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
        return lettered_axes(eqn.params["equation"], weight, rank)
    if eqn.op == "matmul" and any(len(var.shape) < 2 for var in eqn.invars[:2]):
        own = (*shape[:-2], *shape[-1 if weight == 1 else -2 :][:1])  # a vector has no axis in the result
        return {axis for axis, size in enumerate(own) if size > 1} if len(shape) > 1 else set()
    axes = {rank - 1 - i for i, size in enumerate(reversed(shape)) if size > 1}
    return axes - {rank - 2 if weight == 1 else rank - 1} if eqn.op == "matmul" else axes


def lettered_axes(equation: str, weight: int, rank: int) -> set[int]:
    """Axes of an einsum's result that its weights share; an ellipsis in the middle stands for the axes left over."""
    terms, result = equation.replace(" ", "").split("->")
    own = terms.split(",")[weight]
    if "..." in own:
        return set()
    before, _, after = result.partition("...")
    letters = [*enumerate(before), *((rank - len(after) + i, letter) for i, letter in enumerate(after))]
    return {axis for axis, letter in letters if letter in own}
