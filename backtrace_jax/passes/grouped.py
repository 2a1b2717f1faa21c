"""Statistics of groups of channels that were repeated for every channel meet the value by groups instead.

x - repeat(mean) for channels is the same as that for groups, reshaped: so a normalisation of groups reads as one of a
value with an axis for the groups, which `norms` knows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from backtrace_jax.ir import Eqn, Program, Var

from .rewriting import Replacement, Rewriting
from .tidy import merge_alike

_ENTRYWISE = {"add", "sub", "mul", "div", "sqrt", "rsqrt"}


def group_statistics(program: Program) -> Program:
    """The program with such statistics, and what they meet, by groups."""
    groups = _Groups()
    return merge_alike(Rewriting(program).sweep(groups.step, lambda _, body: group_statistics(body)))


@dataclass
class _Groups:
    """Values by groups, [..., groups, 1 or channels of each], by the name of what they are reshaped."""

    found: dict[str, Var] = field(default_factory=dict)

    def step(self, rewriting: Rewriting, eqn: Eqn) -> Replacement:
        if eqn.op == "reshape":
            return self.repeated(rewriting, eqn)
        grouped = [self.found[var.name] for var in eqn.invars if var.name in self.found]
        known = [var for var in eqn.invars if var.name in rewriting.weights]
        statistic = any(var.shape[-1] == 1 for var in grouped)
        meets = grouped and (statistic or len(eqn.invars) - len(known) > 1)  # a scale or shift behind it stays there
        return self.met(rewriting, eqn) if eqn.op in _ENTRYWISE and meets else None

    def repeated(self, rewriting: Rewriting, eqn: Eqn) -> Replacement:
        """A statistic repeated along the last axis, as one with the axes of what it is a statistic of."""
        copies = rewriting.producers.get(eqn.invars[0].name)
        if copies is None or copies.op != "expand" or not _splits(copies.outvars[0].shape, eqn.outvars[0].shape):
            return None
        shape = (*eqn.outvars[0].shape[:-1], copies.outvars[0].shape[-2], 1)
        (value,) = copies.invars
        if len(value.shape) < 2 or value.shape[-1] != 1 or value.shape[-2] != shape[-2]:
            return None
        kept = rewriting.equation(eqn, "reshape", value, name=f"{value.name}.groups", shape=shape)
        spread = (*shape[:-1], copies.outvars[0].shape[-1])
        again = rewriting.equation(eqn, "expand", kept.outvars[0], name=f"{value.name}.channels", shape=spread)
        self.found[eqn.outvars[0].name] = kept.outvars[0]
        return kept, again, rewriting.equation(eqn, "reshape", again.outvars[0], shape=eqn.outvars[0].shape)

    def met(self, rewriting: Rewriting, eqn: Eqn) -> Replacement:
        """An operation on values by groups, reshaped; all else that it reads is split into groups."""
        result = eqn.outvars[0].shape
        groups = next(self.found[var.name].shape[-2] for var in eqn.invars if var.name in self.found)
        eqns: list[Eqn] = []
        operands = [self.split(rewriting, eqn, var, groups, eqns) for var in eqn.invars]
        by_group = rewriting.equation(eqn, eqn.op, *operands, name=f"{eqn.outvars[0].name}.groups", **eqn.params)
        spread = (*by_group.outvars[0].shape[:-1], result[-1] // groups)
        value = by_group.outvars[0]
        self.found[eqn.outvars[0].name] = value
        eqns.append(by_group)
        if value.shape != spread:
            eqns.append(rewriting.equation(eqn, "expand", value, name=f"{value.name}.channels", shape=spread))
        return *eqns, rewriting.equation(eqn, "reshape", eqns[-1].outvars[0], shape=result)

    def split(self, rewriting: Rewriting, eqn: Eqn, var: Var, groups: int, eqns: list[Eqn]) -> Var:
        """An operand by groups."""
        if var.name in self.found:
            return self.found[var.name]
        if not var.shape:
            return var
        last = (groups, var.shape[-1] // groups) if var.shape[-1] > 1 else (1, 1)
        shape, array = (*var.shape[:-1], *last), rewriting.weights.get(var.name)
        if array is not None:
            return rewriting.param(var.name, array.reshape(shape))
        eqns.append(rewriting.equation(eqn, "reshape", var, name=f"{var.name}.groups", shape=shape))
        return eqns[-1].outvars[0]


def _splits(split: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    """Whether the last two axes of a shape, groups and channels of each, are the last axis of the other one."""
    if len(split) < 2 or not whole or split[-2] * split[-1] != whole[-1] or split[-1] == 1:
        return False
    return [size for size in split[:-2] if size > 1] == [size for size in whole[:-1] if size > 1]
