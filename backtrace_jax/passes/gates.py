"""Which map takes the bias of a gate: in W x + U h + b it is that of what enters the cell, W x + b (RULES section 8).

Cells write it behind both maps, with the state's, or with each its own, all the same function. What acts on the state's
map before the sum, as a reset gate does, keeps the bias there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from backtrace_jax.ir import Eqn, Program, Var
from backtrace_jax.ops import evaluate

from .affine import fold_affine
from .linear_maps import Maps, brought_back, weight_position
from .rewriting import Replacement, Rewriting, rewritten, within_bodies
from .sums import flatten_sums
from .tidy import narrowed


def settle_biases(program: Program) -> Program:
    """The program with the biases of gates at the maps of what enters the cell."""
    return within_bodies(program, _in_body)


def _in_body(scan: Eqn, body: Program) -> Program:
    body = settle_biases(body)
    gates = _Gates(body, scan.params["states"])
    settled = rewritten(body, lambda rewriting, eqn: gates.settled(rewriting, eqn))
    return flatten_sums(fold_affine(settled)) if settled.graph.eqns != body.graph.eqns else body


class _Gates:
    """The sums of a body, and what in it depends on a state."""

    def __init__(self, body: Program, states: int) -> None:
        self._maps = Maps(body)
        self._maps.eqns.update((eqn.outvars[0].name, eqn) for eqn in body.graph.eqns)
        self._weights = body.weights
        self._stateful = {var.name for var in body.graph.inputs[:states]}
        for eqn in body.graph.eqns:
            if any(var.name in self._stateful for var in eqn.invars):
                self._stateful.update(var.name for var in eqn.outvars)

    def settled(self, rewriting: Rewriting, eqn: Eqn) -> Replacement:
        """A sum of one map of what enters, and of what depends on a state, with all biases at the former."""
        if eqn.op != "add" or not eqn.outvars[0].is_float:
            return None
        known = [var for var in eqn.invars if var.name in self._weights]
        moving = [var for var in eqn.invars if var.name not in self._weights]
        entering = [var for var in moving if var.name not in self._stateful and self._map(var)]
        if len(entering) != 1 or not any(var.name in self._stateful for var in moving):
            return None
        biases = {var.name: self._bias(var) for var in moving if var.name in self._stateful}
        found = {name: bias for name, bias in biases.items() if bias is not None}
        constants = [*(self._weights[var.name] for var in known), *found.values()]
        if not constants:
            return None
        total = sum(constants[1:], constants[0])
        if not self._takes(entering[0], total):
            return None
        return _sum(rewriting, eqn, entering[0], moving, found, total)

    def _takes(self, var: Var, constant: np.ndarray) -> bool:
        """Whether a constant can join the bias of the map that a value comes from."""
        linear, moves = self._map(var) or (None, [])
        if linear is None or np.broadcast_shapes(constant.shape, var.shape) != var.shape:
            return False
        weight = weight_position(linear, self._weights)
        return weight is not None and brought_back(constant, linear, weight, moves, 0.0) is not None

    def _map(self, var: Var) -> tuple[Eqn, list[Eqn]] | None:
        """The linear map with known weights that a value comes from, and the moves between."""
        found = self._maps.map_behind(var)
        return found if found and weight_position(found[0], self._weights) is not None else None

    def _bias(self, var: Var) -> np.ndarray | None:
        """What the bias of its map adds to a value; None where that is nothing."""
        found = self._map(var)
        if found is None or len(found[0].invars) < 3 or found[0].invars[2].name not in self._weights:
            return None
        linear, moves = found
        bias = np.broadcast_to(self._weights[linear.invars[2].name], linear.outvars[0].shape)
        for move in reversed(moves):
            bias = np.asarray(evaluate(move.op, [bias], move.params))
        return narrowed(bias) if bias.any() else None


def _sum(
    rewriting: Rewriting,
    eqn: Eqn,
    entering: Var,
    moving: Sequence[Var],
    biases: dict[str, np.ndarray],
    total: np.ndarray,
) -> list[Eqn]:
    """The sum with the constants' total added to what enters, and the biases taken off what depends on a state."""
    eqns: list[Eqn] = []

    def changed(var: Var, op: str, constant: np.ndarray) -> Var:
        known = rewriting.param(f"{var.name}.bias", np.asarray(constant, var.dtype))
        eqns.append(rewriting.equation(eqn, op, var, known, name=var.name))
        return eqns[-1].outvars[0]

    operands = [changed(var, "sub", biases[var.name]) if var.name in biases else var for var in moving]
    operands[moving.index(entering)] = changed(entering, "add", total)
    return [*eqns, replace(eqn, invars=tuple(operands))]
