"""Holds the values of convolutional networks with channels as the last axis, as CPUs compute convolutions.

XLA would turn every convolution's operand and result around on its own. Here values stay turned from one convolution to
the next: through pooling, and through all that works entry by entry. Where something else reads one, it is turned back.
A turned value keeps its name; `Graph.turned` has the names, so that whoever asks for one by name can turn it back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np

from backtrace_jax.ir import Eqn, Program, Var
from backtrace_jax.ops import OPS, POINTWISE, QUOTIENT, SUM, result_types

from .dead_code import drop_dead_code

_ENTRYWISE = {name for name, op in OPS.items() if op.kind in (POINTWISE, SUM, QUOTIENT)}
_ENTRYWISE |= {"mul", "maximum", "minimum"}
_REDUCTIONS = {name for name in OPS if name.startswith("reduce_")}


def channels_last(program: Program, keep: Collection[str] = ()) -> Program:
    """The same program, its convolutions with channels last.

    Args:
        program: The program.
        keep: Names of values that keep their axes, beside the graph's inputs and outputs.
    """
    kept = {*keep, *(var.name for var in program.graph.outputs)}
    return _Turning(program, kept).run() if any(map(_is_convolution, program.graph.eqns)) else program


def _is_convolution(eqn: Eqn) -> bool:
    return eqn.op in ("conv", "conv_transpose") and not eqn.params.get("channels_last")


def _turned(shape: Sequence[int]) -> tuple[int, ...]:
    return (shape[0], *shape[2:], shape[1])


def _place(axis: int, rank: int) -> int:
    """Where an axis stands in the turned form."""
    return {0: 0, 1: rank - 1}.get(axis, axis - 1)


class _Turning:
    """One sweep over a graph."""

    def __init__(self, program: Program, kept: Collection[str]) -> None:
        self.graph, self.kept = program.graph, kept
        self.weights = dict(program.weights)
        self.params = {var.name: var for var in program.graph.params}
        self.taken = {var.name for var in program.graph.variables()}
        self.last: dict[str, Var] = {}  # the turned form of values, by their names
        self.first: dict[str, Var] = {}  # the form with channels after the batch of values held turned
        self.eqns: list[Eqn] = []

    def run(self) -> Program:
        for eqn in self.graph.eqns:
            rule = _RULES.get(eqn.op)
            if rule is None or not rule(self, eqn):
                self.eqns.append(replace(eqn, invars=tuple(self.plain(var, eqn) for var in eqn.invars)))
        turned = frozenset(name for name, var in self.last.items() if var.name == name)
        params = tuple(self.params.values())
        graph = replace(self.graph, params=params, eqns=tuple(self.eqns), turned=turned)
        return drop_dead_code(Program(graph, self.weights))

    def convolution(self, eqn: Eqn) -> bool:
        x, K, *bias = eqn.invars
        if K.name not in self.weights or any(var.name not in self.weights for var in bias):
            return False
        rank = len(x.shape)
        kernel = self.constant(K, (*range(2, rank), 1, 0))
        self.emit(eqn, [self.turn(x, eqn), kernel, *(self.spread(var, rank) for var in bias)], channels_last=True)
        return True

    def pooling(self, eqn: Eqn) -> bool:
        if eqn.invars[0].name not in self.last:
            return False
        self.emit(eqn, [self.last[eqn.invars[0].name]], channels_last=True)
        return True

    def entrywise(self, eqn: Eqn) -> bool:
        result = eqn.outvars[0]
        fits = all(self.fits(var, len(result.shape)) for var in eqn.invars)
        if not fits or not any(var.name in self.last for var in eqn.invars):
            return False
        self.emit(eqn, [self.operand(var, eqn) for var in eqn.invars])
        return True

    def reduction(self, eqn: Eqn) -> bool:
        x, rank = eqn.invars[0], len(eqn.invars[0].shape)
        if x.name not in self.last:
            return False
        axes = [axis % rank for axis in eqn.params["axes"]]
        turned = tuple(sorted(_place(axis, rank) for axis in axes))
        if eqn.params["keepdims"]:
            self.emit(eqn, [self.last[x.name]], axes=turned)
            return True
        left = [axis for axis in range(2, rank) if axis not in axes]
        if left and 1 not in axes:  # channels would stand behind what is left of the image
            return False
        self.eqns.append(replace(eqn, invars=(self.last[x.name],), params={**eqn.params, "axes": turned}))
        return True

    def concatenation(self, eqn: Eqn) -> bool:
        if not all(var.name in self.last for var in eqn.invars):
            return False
        rank = len(eqn.invars[0].shape)
        axis = _place(eqn.params["axis"] % rank, rank)
        self.emit(eqn, [self.last[var.name] for var in eqn.invars], axis=axis)
        return True

    def emit(self, eqn: Eqn, operands: Sequence[Var], **settings: object) -> None:
        """The equation on turned operands; its turned result takes the name, unless the name must keep its axes.

        What is kept is read as it is kept, so that it stays on the way.
        """
        result, params = eqn.outvars[0], {**eqn.params, **settings}
        ((shape, dtype),) = result_types(eqn.op, operands, params)
        name = self.unique(result.name + ".last") if result.name in self.kept else result.name
        turned = Var(name, shape, dtype)
        self.eqns.append(replace(eqn, invars=tuple(operands), outvars=(turned,), params=params))
        if result.name in self.kept:
            self.move(turned, result, eqn)
        else:
            self.last[result.name] = turned

    def turn(self, var: Var, eqn: Eqn) -> Var:
        """The turned form of a value, made where there is none yet."""
        if var.name not in self.last:
            turned = Var(self.unique(var.name + ".last"), _turned(var.shape), var.dtype)
            self.eqns.append(_transposition(eqn, var, turned, (0, *range(2, len(var.shape)), 1)))
            self.last[var.name] = turned
        return self.last[var.name]

    def plain(self, var: Var, eqn: Eqn) -> Var:
        """The value as the graph had it."""
        held = self.last.get(var.name)
        if held is not None and held.name == var.name and var.name not in self.first:
            self.first[var.name] = Var(self.unique(var.name + ".first"), var.shape, var.dtype)
            self.move(held, self.first[var.name], eqn)
        return self.first.get(var.name, var)

    def move(self, turned: Var, plain: Var, eqn: Eqn) -> None:
        rank = len(plain.shape)
        self.eqns.append(_transposition(eqn, turned, plain, (0, rank - 1, *range(1, rank - 1))))

    def fits(self, var: Var, rank: int) -> bool:
        """Whether an operand of something entrywise can be turned: constants line up, others have all axes."""
        return len(var.shape) == rank or (len(var.shape) < rank and var.name in self.weights) or not var.shape

    def operand(self, var: Var, eqn: Eqn) -> Var:
        if var.name in self.last or (var.name not in self.weights and var.shape):
            return self.turn(var, eqn)
        return self.spread(var, len(eqn.outvars[0].shape)) if var.shape else var

    def spread(self, var: Var, rank: int) -> Var:
        """A constant that broadcasts against a turned value."""
        lead = rank - len(var.shape)
        return self.constant(var, (0, *range(2, rank), 1), lead)

    def constant(self, var: Var, perm: Sequence[int], lead: int = 0) -> Var:
        """A known array with its axes in another order, after leading axes of size 1."""
        array = self.weights[var.name]
        turned = np.ascontiguousarray(np.transpose(array.reshape((1,) * lead + array.shape), perm))
        name = f"{var.name}.last"
        while name in self.taken and not (name in self.params and np.array_equal(self.weights[name], turned)):
            name += "'"
        self.taken.add(name)
        self.weights[name], self.params[name] = turned, Var(name, turned.shape, var.dtype)
        return self.params[name]

    def unique(self, name: str) -> str:
        while name in self.taken:
            name += "'"
        self.taken.add(name)
        return name


def _transposition(eqn: Eqn, var: Var, result: Var, perm: tuple[int, ...]) -> Eqn:
    return replace(eqn, op="turn", invars=(var,), outvars=(result,), params={"perm": perm})


_RULES: dict[str, Callable[[_Turning, Eqn], bool]] = {
    **dict.fromkeys(_ENTRYWISE, _Turning.entrywise),
    **dict.fromkeys(_REDUCTIONS, _Turning.reduction),
    **dict.fromkeys(("conv", "conv_transpose"), _Turning.convolution),
    "max_pool": _Turning.pooling,
    "avg_pool": _Turning.pooling,
    "concat": _Turning.concatenation,
}
