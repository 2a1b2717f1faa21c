"""Integers and truths among the inputs: which of them stand for quantities, and which are forgotten.

A token id looks up a row, a mask or a length decides what counts, an age or a pixel is a quantity like any float. The
first bear relevance by their rows and the second never do; for the last the user's word, or that nothing else bears
any, has to be enough, because in the graph they are cast to floats as a mask is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property

from backtrace_jax.ir import Eqn, Graph
from backtrace_jax.ops import MOVE, OPS, PRODUCT, SELECT, SOFTMAX, SUM
from backtrace_jax.rules import WEIGHTED

from .bearing import bearing, bearing_in_body, quantities_in


def forgotten_quantities(graph: Graph, carrying: Collection[str], reached: Collection[str]) -> tuple[str, ...]:
    """Names of the inputs that bear no relevance, though what they hold is treated as a quantity.

    What is cast to floats is a quantity where it is weighed by itself, put beside values that bear relevance or
    compared with them, added to them, or made larger or smaller before it multiplies them. A mask is none of that: it
    multiplies them as it is, or is added to what a softmax or a maximum then leaves out.

    Args:
        graph: The graph.
        carrying: Names of the values that bear relevance.
        reached: Names of the inputs that receive any.
    """
    unused = [var.name for var in graph.inputs if var.name not in reached and not var.is_float]
    return tuple(name for name in unused if _is_used_as_quantity(graph, name, carrying))


@dataclass(frozen=True)
class _Scope:
    """A graph, or a body that runs over time, and what is known of names in it.

    Attributes:
        graph: The graph.
        own: Values that follow from the input in question.
        quantities: The integers and truths among them.
        carrying: Values that bear relevance.
        constants: Known arrays.
        measured: Those of its inputs that were scaled or shifted before.
    """

    graph: Graph
    own: frozenset[str]
    quantities: frozenset[str]
    carrying: frozenset[str]
    constants: frozenset[str]
    measured: frozenset[str] = frozenset()

    @cached_property
    def others(self) -> set[str]:
        """Floats that bear relevance."""
        return {var.name for var in self.graph.variables() if var.is_float and var.name in self.carrying}

    @cached_property
    def changed(self) -> set[str]:
        """What was scaled or shifted by a constant, and what follows from it."""
        return _measured(self.graph, self.own - self.others, self.constants, self.measured)

    def bodies(self) -> Iterator[_Scope]:
        """The bodies in it."""
        for eqn in self.graph.eqns:
            if "body" in eqn.params:
                pairs = [
                    (inner.name, outer.name) for inner, outer in zip(eqn.params["body"].inputs, eqn.invars, strict=True)
                ]
                own = bearing_in_body(eqn, self.own, self.quantities)
                carrying = bearing_in_body(eqn, self.carrying).bearing
                known = (
                    frozenset(inner for inner, outer in pairs if outer in names)
                    for names in (self.constants, self.changed)
                )
                yield _Scope(eqn.params["body"], own.bearing, own.quantities, carrying, *known)


def _is_used_as_quantity(graph: Graph, name: str, carrying: Collection[str]) -> bool:
    own, quantities = bearing(graph, (), quantities=[name]), quantities_in(graph, (), [name])
    params = frozenset(var.name for var in graph.params)
    return _uses(_Scope(graph, own, quantities, frozenset(carrying), params))


def _uses(scope: _Scope) -> bool:
    """Whether what follows from the input is used as a quantity, in a body or outside."""
    own, others, hiding = scope.own - scope.others, scope.others, _hiding(scope.graph)
    here = any(
        _weighs(eqn, own, others)
        or _meets(eqn, own, others, (MOVE, SELECT))
        or (_meets(eqn, own, others, (SUM,)) and eqn.outvars[0].name not in hiding)
        or _meets(eqn, scope.changed, others, (PRODUCT,))
        for eqn in scope.graph.eqns
    )
    return here or any(map(_uses, scope.bodies()))


def _weighs(eqn: Eqn, own: Collection[str], carrying: Collection[str]) -> bool:
    return (
        eqn.op in WEIGHTED
        and any(var.name in own for var in eqn.invars[:2])
        and not any(var.name in carrying for var in eqn.invars)
    )


def _meets(eqn: Eqn, own: Collection[str], carrying: Collection[str], kinds: Collection[str]) -> bool:
    """Whether an operation of these kinds joins such values, as floats, with values that bear relevance."""
    op = OPS[eqn.op]
    names = {var.name for i, var in enumerate(eqn.invars) if var.is_float and op.carries(i)}
    return op.kind in kinds and not names.isdisjoint(own) and not names.isdisjoint(carrying)


def _measured(graph: Graph, own: Collection[str], params: Collection[str], before: Collection[str]) -> set[str]:
    """What was scaled or shifted by a constant, and what follows from it; 1 - m turns a mask round and is no shift."""
    found = set(before)
    for eqn in graph.eqns:
        names = [var.name for var in eqn.invars]
        pairs = {"mul": (names, names[::-1]), "div": (names,), "sub": (names,), "add": (names, names[::-1])}
        changed = any(pair[0] in own and pair[1] in params for pair in pairs.get(eqn.op, ()))
        if eqn.outvars[0].name in own and (changed or not found.isdisjoint(names)):
            found.update(var.name for var in eqn.outvars)
    return found


def _hiding(graph: Graph) -> set[str]:
    """What leads, moved, scaled and added to, only to a softmax or a largest entry."""
    outputs = {var.name for var in graph.outputs}
    hiding, seen = {var.name for eqn in graph.eqns for var in eqn.outvars} - outputs, set()
    for eqn in reversed(graph.eqns):
        passes = OPS[eqn.op].kind in (MOVE, SUM) or eqn.op in ("mul", "div", "cast")
        ends = OPS[eqn.op].kind in (SOFTMAX, SELECT)
        seen |= {var.name for var in eqn.invars}
        if not ends and not (passes and hiding.issuperset(var.name for var in eqn.outvars)):
            hiding -= {var.name for var in eqn.invars}
    return hiding & seen


def has_unfollowed_index(graph: Graph, carrying: Collection[str]) -> bool:
    """Whether rows are looked up by integers that follow from inputs, and that bear no relevance nonetheless."""
    following = {var.name for var in graph.inputs}
    for eqn in graph.eqns:
        if any(var.name in following for var in eqn.invars):
            following.update(var.name for var in eqn.outvars)
    look_ups = (eqn for eqn in graph.eqns if eqn.op == "gather" and eqn.invars[0].name not in following)
    return any(eqn.outvars[0].is_float and eqn.invars[1].name in following - set(carrying) for eqn in look_ups)
