"""Statistics that were reduced without their axes, worked on, and given their axes back, keep the axes throughout.

JAX writes means so, and what is made of them (a variance, its maximum with 0) before it meets the value again; with the
axes kept they read as everyone else's. `jax.vmap` moves the axes of a value and those of its statistics each on their
own; there the statistics become those of the moved value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from backtrace_jax.ir import Eqn, Program, Var
from backtrace_jax.ops import OPS, POINTWISE, QUOTIENT, SUM, result_types

from .rewriting import Replacement, Rewriting, rewritten
from .tidy import merge_alike

_ENTRYWISE = {name for name, op in OPS.items() if op.kind in (POINTWISE, SUM, QUOTIENT)}
_ENTRYWISE |= {"mul", "maximum", "minimum", "where", "is_nan", "is_inf", "logical_or", "logical_not"}
_MOVES = {"reshape", "transpose"}
_DEPTH = 8  # operations between the reduction and the reshape
_MOVED = 3  # moves of a value, one behind the other, that are looked through

_Places: TypeAlias = tuple[int | None, ...]
"""Which axis of a value each axis of the moved one is; None for axes of size 1."""


def keep_axes(program: Program) -> Program:
    """The program with the axes of such statistics kept."""
    return merge_alike(rewritten(program, _step))


def _step(rewriting: Rewriting, eqn: Eqn) -> Replacement:
    if eqn.op != "reshape" or not eqn.outvars[0].is_float:
        return None
    lift = _Lift(rewriting, eqn)
    if lift.value(eqn.invars[0], (eqn,), _DEPTH) is None:
        return None
    return *lift.eqns[:-1], replace(lift.eqns[-1], outvars=eqn.outvars)


@dataclass
class _Lift:
    """The equations behind a reshape, written anew in its shape."""

    rewriting: Rewriting
    eqn: Eqn
    eqns: list[Eqn] = field(default_factory=list)
    found: dict[Any, Var] = field(default_factory=dict)

    def value(self, var: Var, moves: tuple[Eqn, ...], depth: int) -> Var | None:
        """The value with its axes kept, after these moves, outermost first; None where it is no statistic."""
        key = var.name, *(move.outvars[0].name for move in moves)
        if key not in self.found:
            made = self.made(var, moves, depth)
            if made is None:
                return None
            self.found[key] = made
        return self.found[key]

    def made(self, var: Var, moves: tuple[Eqn, ...], depth: int) -> Var | None:
        """What `value` finds, made."""
        before = self.rewriting.producers.get(var.name)
        if before is None or not depth:
            return None
        if before.op in _MOVES:
            return self.value(before.invars[0], (*moves, before), depth - 1)
        if before.op.startswith("reduce_") and not before.params["keepdims"]:
            return self.reduced(before, moves)
        if before.op not in _ENTRYWISE:
            return None
        operands = [self.operand(each, var, moves, depth - 1) for each in before.invars]
        return self.emit(before, [each for each in operands if each]) if all(operands) else None

    def reduced(self, reduction: Eqn, moves: tuple[Eqn, ...]) -> Var | None:
        """A reduction as one with its axes kept: of its operand, or of that moved as the reduction is."""
        value, reduced = reduction.invars[0], set(reduction.params["axes"])
        plain = self.emit(reduction, [value], keepdims=True) if len(moves) == 1 else None
        left = [axis for at, axis in enumerate(_large(value)) if at not in reduced]
        order = _order(left, moves)
        for ways, places in _ways(self.rewriting, value, _large(value), _MOVED) if plain is None and order else ():
            axes = tuple(at for at, axis in enumerate(places) if axis in reduced)
            if len(axes) == len(reduced) and [each for each in places if each not in reduced | {None}] == order:
                shape = (ways[-1].outvars[0] if ways else value).shape
                if self.eqn.outvars[0].shape == tuple(1 if at in axes else size for at, size in enumerate(shape)):
                    return self.emit(reduction, [self.again(value, ways)], axes=axes, keepdims=True)
        return plain

    def again(self, value: Var, moves: Sequence[Eqn]) -> Var:
        """A value moved, here and now: its own moves may come later in the graph."""
        for move in moves:
            name = f"{move.outvars[0].name}.kept"
            self.eqns.append(self.rewriting.equation(move, move.op, value, name=name, **move.params))
            value = self.eqns[-1].outvars[0]
        return value

    def operand(self, var: Var, result: Var, moves: tuple[Eqn, ...], depth: int) -> Var | None:
        """An operand with its axes kept; a known one holds one number."""
        number, array = self.rewriting.uniform(var), self.rewriting.weights.get(var.name)
        if number is not None and array is not None:
            return self.rewriting.param(var.name, array.reshape(-1)[:1].reshape(())) if var.shape else var
        return self.value(var, moves, depth) if var.shape == result.shape else None

    def emit(self, like: Eqn, operands: Sequence[Var], **changed: Any) -> Var | None:
        """An equation like another one, of these operands, where its result has the shape of the whole."""
        params = {**like.params, **changed}
        if result_types(like.op, operands, params)[0][0] != self.eqn.outvars[0].shape:
            return None
        name = f"{like.outvars[0].name}.kept"
        self.eqns.append(self.rewriting.equation(self.eqn, like.op, *operands, name=name, **params))
        return self.eqns[-1].outvars[0]


def _large(var: Var) -> _Places:
    return tuple(axis if size > 1 else None for axis, size in enumerate(var.shape))


def _order(places: Sequence[int | None], moves: Sequence[Eqn]) -> list[int | None] | None:
    """The order in which moves, outermost first, leave axes; None where they join or split them."""
    found: _Places | None = tuple(places)
    for move in reversed(moves):
        found = None if found is None else _placed(move, found)
    return None if found is None else [axis for axis in found if axis is not None]


def _ways(
    rewriting: Rewriting, var: Var, places: _Places, reach: int, before: tuple[Eqn, ...] = ()
) -> Iterator[tuple[tuple[Eqn, ...], _Places]]:
    """Every way in which the graph moves a value's axes, none at all first: the moves, and where they bring them."""
    yield before, places
    for move in rewriting.readers[var.name] if reach else ():
        found = _placed(move, places) if move.op in _MOVES else None
        if found is not None:
            yield from _ways(rewriting, move.outvars[0], found, reach - 1, (*before, move))


def _placed(move: Eqn, places: _Places) -> _Places | None:
    """Where a move brings axes; None where it joins or splits them."""
    if move.op == "transpose":
        return tuple(places[axis] for axis in move.params["perm"])
    (value,), (result,) = move.invars, move.outvars
    if [size for size in value.shape if size > 1] != [size for size in result.shape if size > 1]:
        return None
    kept = iter([axis for axis in places if axis is not None])
    return tuple(next(kept) if size > 1 else None for size in result.shape)
