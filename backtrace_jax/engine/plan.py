"""Plans a relevance walk: which values bear relevance, what kind each equation is there, and which rule it gets.

A value bears relevance when it is computed, through edges that carry relevance, from a float input or from rows of a
table that an integer input looks up. Whatever does not is a weight to products and a constant to sums. All of this
follows from the graph; nothing is computed with numbers here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from ..errors import SettingError, UnsupportedError
from ..ir import Eqn, Graph, Var
from ..ops import LINEAR, MOVE, OPS, POINTWISE, PRODUCT, QUOTIENT
from ..rules import EMBEDDING, Mode, Rule
from .facts import nonnegative_values, saturation


@dataclass(frozen=True)
class Step:
    """One equation of the walk.

    Attributes:
        eqn: The equation.
        kind: Its kind, given which operands bear relevance.
        rule: The rule that applies.
        bears: Whether each operand bears relevance that can come from it.
        saturation: Range of the activation that alone consumes the result, or None.
        nonnegative: Whether each operand is known never to be negative.
    """

    eqn: Eqn
    kind: str
    rule: Rule
    bears: tuple[bool, ...]
    saturation: tuple[float, float] | None
    nonnegative: tuple[bool, ...]


@dataclass(frozen=True)
class Plan:
    """A relevance walk over a graph.

    Attributes:
        graph: The graph.
        output: The value whose relevance is given.
        steps: Equations that pass relevance on, in the order of the walk (output first).
        inputs: Inputs that receive relevance.
    """

    graph: Graph
    output: Var
    steps: tuple[Step, ...]
    inputs: tuple[Var, ...]


def plan_walk(graph: Graph, mode: Mode, output: Var, wrt: Collection[str] | None = None) -> Plan:
    """Plan the walk from one output back to the inputs.

    Args:
        graph: The graph.
        mode: The rules.
        output: Where relevance starts.
        wrt: Names of the inputs that bear relevance; None: all.

    Raises:
        UnsupportedError: Naming an equation without a rule in this mode.
        SettingError: When no relevance can reach the inputs asked for.
    """
    carrying = bearing(graph, wrt)
    saturated, signs = saturation(graph), nonnegative_values(graph)
    needed, steps = {output.name}, []
    for eqn in reversed(graph.eqns):
        bears = bearers(eqn, carrying)
        if any(bears) and any(var.name in needed for var in eqn.outvars):
            step = _step(eqn, mode, bears, saturated.get(eqn.outvars[0].name), signs)
            needed.update(var.name for var, takes in zip(eqn.invars, step.rule.takers(bears), strict=True) if takes)
            steps.append(step)
    reached = tuple(var for var in graph.inputs if var.name in needed & carrying)
    _check_reached(graph, output, reached, wrt)
    return Plan(graph, output, tuple(steps), reached)


def bearing(graph: Graph, wrt: Collection[str] | None = None) -> frozenset[str]:
    """Names of the values that bear relevance."""
    found = {var.name for var in graph.inputs if (wrt is None or var.name in wrt) and (var.is_float or var.is_integer)}
    for eqn in graph.eqns:
        if any(bearers(eqn, found)):
            found.update(var.name for var in eqn.outvars if var.is_float or var.is_integer)
    return frozenset(found)


def bearers(eqn: Eqn, carrying: Collection[str]) -> tuple[bool, ...]:
    """Which operands of an equation can take relevance from its result, given the values that bear relevance."""
    if _is_embedding(eqn, carrying):
        return tuple(position == 1 for position in range(len(eqn.invars)))
    return tuple(var.name in carrying and _carries(eqn, i) for i, var in enumerate(eqn.invars))


def _is_embedding(eqn: Eqn, carrying: Collection[str]) -> bool:
    if eqn.op != "gather" or not eqn.outvars[0].is_float:
        return False
    table, index = eqn.invars
    return table.name not in carrying and index.name in carrying


def _carries(eqn: Eqn, position: int) -> bool:
    """Floats pass relevance to floats; integers only where tokens are moved, not computed with."""
    op, result = OPS[eqn.op], eqn.outvars[0]
    moved = op.kind == MOVE or op.name == "cast"
    same = result.is_float == eqn.invars[position].is_float
    return op.carries(position) and same and (result.is_float or (result.is_integer and moved))


def kind_of(eqn: Eqn, bears: tuple[bool, ...]) -> str:
    """The kind of an equation where it stands: a product with one bearing factor is linear, and so on."""
    kind = OPS[eqn.op].kind
    if eqn.op == "gather" and not bears[0]:
        return EMBEDDING
    if kind == PRODUCT and not all(bears[:2]):
        return LINEAR
    if kind == QUOTIENT and not all(bears):
        return LINEAR if bears[0] else POINTWISE
    return kind


def _step(
    eqn: Eqn,
    mode: Mode,
    bears: tuple[bool, ...],
    saturated: tuple[float, float] | None,
    nonnegative: Collection[str],
) -> Step:
    kind = kind_of(eqn, bears)
    rule = mode.rule(eqn, kind)
    if rule is None:
        raise UnsupportedError(f"mode {mode.name!r} has no rule for {kind} operation {eqn.op!r} in: {eqn}")
    return Step(eqn, kind, rule, bears, saturated, tuple(var.name in nonnegative for var in eqn.invars))


def _check_reached(graph: Graph, output: Var, reached: Iterable[Var], wrt: Collection[str] | None) -> None:
    names = {var.name for var in reached}
    unknown = sorted(set(wrt or ()) - {var.name for var in graph.inputs})
    if unknown:
        raise SettingError(f"wrt={unknown}: no such input; the model takes {[var.name for var in graph.inputs]}")
    if not names:
        kinds = ", ".join(f"{var.name} ({var.dtype.name})" for var in graph.inputs)
        raise SettingError(
            f"output {output.name!r} takes no relevance from the inputs: {kinds}. Float inputs carry it, and integer "
            "inputs that look up a table; give integer features to the model as floats"
        )
    lost = sorted(set(wrt or ()) - names)
    if lost:
        raise SettingError(
            f"wrt={lost}: no relevance can reach it from output {output.name!r}; reachable: {sorted(names)}"
        )
