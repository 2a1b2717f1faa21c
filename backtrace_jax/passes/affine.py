"""Folds scales and shifts into the linear map before them: bias additions and batch normalisation at inference.

A constant added to a linear map is its bias where it varies only along axes along which the weights vary; a position
table, which varies along time as well, stays an operand of a sum. A constant factor folds into the weights likewise.
A transposition between the two, as layers with channels last have it, changes places with the constant first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from ..ir import Eqn, Program, Var
from ..ops import OPS, PRODUCT


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
        move = self._transposition(eqn)
        if move is not None and self._visit_before(move, eqn):
            return
        folded = self._fold(eqn)
        if folded:
            del self.eqns[self._producer(eqn)]
        self.eqns[eqn.outvars[0].name] = folded or eqn

    def _transposition(self, eqn: Eqn) -> Eqn | None:
        """The transposition that a constant is added to or multiplied with, if nothing else reads it."""
        operands = [var for var in eqn.invars if var.name not in self.weights]
        if eqn.op not in _FOLDS or len(operands) != 1 or len(eqn.invars) != 2:
            return None
        before = self.eqns.get(operands[0].name)
        moves = before is not None and before.op == "transpose" and operands[0].shape == eqn.outvars[0].shape
        return before if moves and self._alone(operands[0]) else None

    def _visit_before(self, move: Eqn, eqn: Eqn) -> bool:
        """Fold a constant into what is transposed; both orders give the same."""
        result, (source,) = eqn.outvars[0], move.invars
        position = next(i for i, var in enumerate(eqn.invars) if var.name in self.weights)
        constant = self.weights[eqn.invars[position].name]
        aligned = constant.reshape((1,) * (len(result.shape) - constant.ndim) + constant.shape)
        turned = self._param(f"{result.name}.turned", aligned.transpose(np.argsort(move.params["perm"])), result.dtype)
        inner = Var(f"{result.name}.transposed", source.shape, result.dtype)
        operands = tuple(turned if i == position else source for i in (0, 1))
        folded = self._fold(replace(eqn, invars=operands, outvars=(inner,)))
        del self.params[turned.name], self.weights[turned.name]
        if folded is None:
            return False
        del self.eqns[source.name], self.eqns[move.outvars[0].name]
        self.readers[inner.name] = [move]
        self.eqns[inner.name] = folded
        self.eqns[result.name] = replace(move, invars=(inner,), outvars=eqn.outvars)
        return True

    def finish(self) -> Program:
        graph = replace(self.graph, params=tuple(self.params.values()), eqns=tuple(self.eqns.values()))
        return Program(graph, self.weights)

    def _producer(self, eqn: Eqn) -> str:
        return next(var.name for var in eqn.invars if var.name not in self.weights)

    def _fold(self, eqn: Eqn) -> Eqn | None:
        """The linear map before `eqn` with `eqn` folded in, or None."""
        combine = _FOLDS.get(eqn.op)
        others = [var for var in eqn.invars if var.name not in self.weights]
        if combine is None or len(others) != 1 or len(eqn.invars) != 2:
            return None
        before = self.eqns.get(others[0].name)
        weight = _weight_position(before, self.weights) if before else None
        if before is None or weight is None or not self._alone(others[0]):
            return None
        constant = self._constant(eqn, before, weight)
        return None if constant is None else combine(self, before, weight, constant, eqn)

    def _alone(self, var: Var) -> bool:
        return len(self.readers[var.name]) == 1 and var.name not in self.outputs

    def _constant(self, eqn: Eqn, before: Eqn, weight: int) -> np.ndarray | None:
        """The constant operand in the rank of the result, if it varies only along axes of the weights."""
        result = eqn.outvars[0]
        if result.shape != before.outvars[0].shape:
            return None
        position = next(i for i, var in enumerate(eqn.invars) if var.name in self.weights)
        constant = self.weights[eqn.invars[position].name]
        aligned = constant.reshape((1,) * (len(result.shape) - constant.ndim) + constant.shape)
        varying = {axis for axis, size in enumerate(aligned.shape) if size > 1}
        if not np.isfinite(aligned).all() or not varying <= _feature_axes(before, weight):
            return None
        return _signed(eqn, position, aligned)

    def shift(self, before: Eqn, weight: int, constant: np.ndarray, eqn: Eqn) -> Eqn | None:
        """add: the constant joins the bias."""
        bias = constant
        if len(before.invars) == 3:
            bias = self.weights[before.invars[2].name].astype(np.float64) + bias
        operands = (
            *before.invars[:2],
            self._param(eqn.outvars[0].name + ".bias", bias, eqn.outvars[0].dtype),
        )
        return replace(before, invars=operands, outvars=eqn.outvars)

    def scale(self, before: Eqn, weight: int, constant: np.ndarray, eqn: Eqn) -> Eqn | None:
        """mul: the constant scales the weights' rows and the bias."""
        dtype, wide = eqn.outvars[0].dtype, constant.astype(np.float64)
        scaled = _scaled(before, weight, self.weights[before.invars[weight].name].astype(np.float64), wide)
        if scaled is None:
            return None
        operands = list(before.invars)
        operands[weight] = self._param(eqn.outvars[0].name + ".weight", scaled, dtype)
        if len(operands) == 3:
            operands[2] = self._param(eqn.outvars[0].name + ".bias", self.weights[operands[2].name] * wide, dtype)
        return replace(before, invars=tuple(operands), outvars=eqn.outvars)

    def _param(self, name: str, array: np.ndarray, dtype: np.dtype) -> Var:
        while name in self.params or name in self.readers:
            name += "'"
        self.weights[name] = np.asarray(array, dtype, order="C")
        self.params[name] = Var(name, self.weights[name].shape, dtype)
        return self.params[name]


_FOLDS: dict[str, Callable[..., Eqn | None]] = {
    "add": _Folding.shift,
    "sub": _Folding.shift,
    "mul": _Folding.scale,
}


def _signed(eqn: Eqn, position: int, constant: np.ndarray) -> np.ndarray | None:
    """The constant as it is added or multiplied; None for constant - x, which is no shift of x."""
    if eqn.op != "sub":
        return constant
    return -constant if position == 1 else None


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
    if eqn.op == "matmul" and weight == 1 and K.ndim == 2:
        return K * constant.reshape(1, -1)
    if eqn.op == "conv":
        return K * constant.reshape(-1, *(1,) * (K.ndim - 1))
    if eqn.op == "conv_transpose":
        groups = eqn.params["groups"]
        grouped = K.reshape(groups, -1, *K.shape[1:])
        return (grouped * constant.reshape(groups, 1, -1, *(1,) * (K.ndim - 2))).reshape(K.shape)
    return None
