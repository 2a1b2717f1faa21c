"""Statistics that were reduced without their axes, worked on, and given their axes back, keep the axes throughout.

JAX writes means so, and what is made of them (a variance, its maximum with 0) before it meets the value again; with the
axes kept they read as everyone else's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from backtrace_jax.ir import Eqn, Program, Var
from backtrace_jax.ops import OPS, POINTWISE, QUOTIENT, SUM, result_types

from .rewriting import Replacement, Rewriting, rewritten

_ENTRYWISE = {name for name, op in OPS.items() if op.kind in (POINTWISE, SUM, QUOTIENT)} | {"mul", "maximum", "minimum"}
_DEPTH = 8  # operations between the reduction and the reshape


def keep_axes(program: Program) -> Program:
    """The program with the axes of such statistics kept."""
    return rewritten(program, _step)


def _step(rewriting: Rewriting, eqn: Eqn) -> Replacement:
    if eqn.op != "reshape" or not eqn.outvars[0].is_float:
        return None
    lift = _Lift(rewriting, eqn)
    return lift.eqns if lift.value(eqn.invars[0], _DEPTH) and lift.eqns else None


@dataclass
class _Lift:
    """The equations behind a reshape, written anew in its shape."""

    rewriting: Rewriting
    eqn: Eqn
    eqns: list[Eqn] = field(default_factory=list)
    found: dict[str, Var] = field(default_factory=dict)

    def value(self, var: Var, depth: int) -> Var | None:
        """The value with its axes kept; None where it is no statistic."""
        if var.name in self.found:
            return self.found[var.name]
        before = self.rewriting.producers.get(var.name)
        if before is None or not depth:
            return None
        if before.op.startswith("reduce_") and not before.params["keepdims"]:
            return self.emit(var, before, before.invars, keepdims=True)
        if before.op not in _ENTRYWISE:
            return None
        operands = [self.operand(each, var, depth - 1) for each in before.invars]
        return self.emit(var, before, [each for each in operands if each]) if all(operands) else None

    def operand(self, var: Var, result: Var, depth: int) -> Var | None:
        if self.rewriting.number(var) is not None:
            return (
                var if not var.shape else self.rewriting.param(var.name, self.rewriting.weights[var.name].reshape(()))
            )
        return self.value(var, depth) if var.shape == result.shape else None

    def emit(self, var: Var, like: Eqn, operands: list[Var] | tuple[Var, ...], **changed: bool) -> Var | None:
        params = {**like.params, **changed}
        if result_types(like.op, operands, params)[0][0] != self.eqn.outvars[0].shape:
            return None
        last = var == self.eqn.invars[0]
        name = "" if last else f"{var.name}.kept"
        self.eqns.append(self.rewriting.equation(self.eqn, like.op, *operands, name=name, **params))
        self.found[var.name] = self.eqns[-1].outvars[0]
        return self.found[var.name]
