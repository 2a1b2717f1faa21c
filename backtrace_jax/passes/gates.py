"""Gates of recurrent cells: in W x + U h + b the bias is that of what enters the cell, W x + b (RULES section 8).

Cells write it behind both maps, with the state's, or with each its own, all the same function; and the map of what
enters in the loop or in front of it. What acts on the state's map before the sum, as a reset gate does, keeps the bias
there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from backtrace_jax.ir import Eqn, Program, Var
from backtrace_jax.ops import evaluate

from .affine import fold_affine
from .cells import depending, spell_cell
from .linear_maps import Maps, before_moves, brought_back, weight_position
from .rewriting import Replacement, Rewriting, rewritten_outside
from .sums import flatten_sums
from .tidy import narrowed


def settle_biases(program: Program) -> Program:
    """The program with the biases of gates at the maps of what enters the cell."""
    loops = _Loops(program)
    settled = Rewriting(program).sweep(loops.entered, loops.in_body)
    return fold_affine(settled) if loops.added else settled


class _Loops:
    """The loops of a program, and what has to be added to the sequences that they read."""

    def __init__(self, program: Program) -> None:
        self._maps = _maps(program)
        self.added: dict[str, np.ndarray] = {}

    def in_body(self, scan: Eqn, body: Program) -> Program:
        """The body of a loop with its biases settled."""
        states, sequences = scan.params["states"], scan.params["sequences"]
        body = settle_biases(body)
        apart = spell_cell(body, states)
        pairs = list(zip(body.graph.inputs, scan.invars, strict=False))[states : states + sequences]
        gates = _Gates(apart, depending(apart, states), {inner.name: outer for inner, outer in pairs}, self)
        settled = rewritten_outside(apart, gates.settled)
        return flatten_sums(fold_affine(settled)) if settled.graph.eqns != body.graph.eqns else body

    def entered(self, rewriting: Rewriting, eqn: Eqn) -> Replacement:
        """A loop behind the sums that its sequences have become."""
        if eqn.op != "scan" or self.added.keys().isdisjoint(var.name for var in eqn.invars):
            return None
        sums: dict[str, Eqn] = {}
        for var in eqn.invars:
            if var.name in self.added and var.name not in sums:
                known = rewriting.param(f"{var.name}.bias", self.added[var.name].astype(var.dtype))
                sums[var.name] = rewriting.equation(eqn, "add", var, known, name=var.name)
        invars = (sums[var.name].outvars[0] if var.name in sums else var for var in eqn.invars)
        return [*sums.values(), replace(eqn, invars=tuple(invars))]

    def takes(self, var: Var, constant: np.ndarray) -> bool:
        """Whether a constant of one entry can join the bias of the map that a sequence comes from."""
        return _takes(self._maps, var, constant[None])

    def add(self, var: Var, constant: np.ndarray) -> None:
        """Add a constant to every entry of a sequence."""
        self.added[var.name] = self.added.get(var.name, 0) + constant[None]


def _maps(program: Program) -> Maps:
    """The maps of a program, all its equations seen."""
    maps = Maps(program)
    maps.eqns.update((var.name, eqn) for eqn in program.graph.eqns for var in eqn.outvars)
    return maps


def _takes(maps: Maps, var: Var, constant: np.ndarray) -> bool:
    """Whether a constant can join the bias of the map that a value comes from."""
    linear, moves = _map(maps, var) or (None, [])
    if linear is None or np.broadcast_shapes(constant.shape, var.shape) != var.shape:
        return False
    weight = weight_position(linear, maps.weights)
    return weight is not None and brought_back(constant, linear, weight, moves, 0.0) is not None


def _map(maps: Maps, var: Var) -> tuple[Eqn, list[Eqn]] | None:
    """The linear map with known weights that a value comes from, and the moves between."""
    found = maps.map_behind(var)
    return found if found and weight_position(found[0], maps.weights) is not None else None


class _Gates:
    """The sums of a body.

    Attributes:
        stateful: Names of what depends on a state.
        entries: The sequence outside, by the name of its entry inside.
    """

    def __init__(self, body: Program, stateful: set[str], entries: dict[str, Var], loops: _Loops) -> None:
        self._maps, self._loops = _maps(body), loops
        self.stateful, self.entries = stateful, entries

    def settled(self, rewriting: Rewriting, eqn: Eqn) -> Replacement:
        """A sum of one map of what enters, and of what depends on a state, with all biases at the former."""
        if eqn.op != "add" or not eqn.outvars[0].is_float:
            return None
        known = [var for var in eqn.invars if var.name in self._maps.weights]
        moving = [var for var in eqn.invars if var.name not in self._maps.weights]
        entering = [var for var in moving if var.name not in self.stateful and self._enters(var)]
        if len(entering) != 1 or not any(var.name in self.stateful for var in moving):
            return None
        biases = {var.name: self._bias(var) for var in moving if var.name in self.stateful}
        found = {name: bias for name, bias in biases.items() if bias is not None}
        constants = [*(self._maps.weights[var.name] for var in known), *found.values()]
        if not constants:
            return None
        total = sum(constants[1:], constants[0])
        if _takes(self._maps, entering[0], total):
            return _sum(rewriting, eqn, moving, found, {entering[0].name: total})
        if not self._outside(entering[0], total):
            return None
        return _sum(rewriting, eqn, moving, found, {})

    def _enters(self, var: Var) -> bool:
        """Whether a value comes from a map with known weights, in the body or in front of the loop."""
        found = self._maps.value_behind(var)
        return _map(self._maps, var) is not None or (found is not None and found[0].name in self.entries)

    def _outside(self, var: Var, constant: np.ndarray) -> bool:
        """Leave a constant to the map in front of the loop that a value comes from, where that can take it."""
        entry, moves = self._maps.value_behind(var) or (var, [])
        sequence, rank = self.entries.get(entry.name), len(var.shape)
        if sequence is None or np.broadcast_shapes(constant.shape, var.shape) != var.shape:
            return False
        constant = before_moves(constant, moves, rank, 0.0)
        constant = constant.reshape((1,) * (len(entry.shape) - constant.ndim) + constant.shape)
        if not self._loops.takes(sequence, constant):
            return False
        self._loops.add(sequence, constant)
        return True

    def _bias(self, var: Var) -> np.ndarray | None:
        """What the bias of its map adds to a value; None where that is nothing."""
        found = _map(self._maps, var)
        if found is None or len(found[0].invars) < 3 or found[0].invars[2].name not in self._maps.weights:
            return None
        linear, moves = found
        bias = np.broadcast_to(self._maps.weights[linear.invars[2].name], linear.outvars[0].shape)
        for move in reversed(moves):
            bias = np.asarray(evaluate(move.op, [bias], move.params))
        return narrowed(bias) if bias.any() else None


def _sum(
    rewriting: Rewriting, eqn: Eqn, moving: Sequence[Var], biases: dict[str, np.ndarray], added: dict[str, np.ndarray]
) -> list[Eqn]:
    """The sum of values that biases are taken off, or that a constant is added to."""
    eqns: list[Eqn] = []

    def changed(var: Var, op: str, constant: np.ndarray) -> Var:
        known = rewriting.param(f"{var.name}.bias", np.asarray(constant, var.dtype))
        eqns.append(rewriting.equation(eqn, op, var, known, name=var.name))
        return eqns[-1].outvars[0]

    operands = [changed(var, "sub", biases[var.name]) if var.name in biases else var for var in moving]
    operands = [changed(var, "add", added[var.name]) if var.name in added else var for var in operands]
    return [*eqns, replace(eqn, invars=tuple(operands))]
