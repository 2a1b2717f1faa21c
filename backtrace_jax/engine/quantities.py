"""Integers and truths among the inputs: which of them stand for quantities, and which are forgotten.

A token id looks up a row, a mask or a length decides what counts, an age or a pixel is a quantity like any float. The
first bear relevance by their rows and the second never do; for the last the user's word, or that nothing else bears
any, has to be enough, because in the graph they are cast to floats as a mask is.
"""

from __future__ import annotations

from collections.abc import Collection

from ..ir import Eqn, Graph
from ..ops import MOVE, OPS, PRODUCT, SELECT, SOFTMAX, SUM
from ..rules import WEIGHTED
from .bearing import bearing


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


def _is_used_as_quantity(graph: Graph, name: str, carrying: Collection[str]) -> bool:
    others = {var.name for var in graph.variables() if var.is_float and var.name in carrying}
    own = bearing(graph, (), quantities=[name]) - others
    measured, hiding = _measured(graph, own), _hiding(graph)
    return any(
        _weighs(eqn, own, others)
        or _meets(eqn, own, others, (MOVE, SELECT))
        or (_meets(eqn, own, others, (SUM,)) and eqn.outvars[0].name not in hiding)
        or _meets(eqn, measured, others, (PRODUCT,))
        for eqn in graph.eqns
    )


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


def _measured(graph: Graph, own: Collection[str]) -> set[str]:
    """What was scaled or shifted by a constant, and what follows from it; 1 - m turns a mask round and is no shift."""
    params, found = {var.name for var in graph.params}, set()
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
