"""Integers and truths among the inputs: which of them stand for quantities, and which are forgotten.

A token id looks up a row, a mask or a length decides what counts, an age or a pixel is a quantity like any float. The
first bear relevance by their rows and the second never do; for the last the user's word, or that nothing else bears
any, has to be enough, because in the graph they are cast to floats as a mask is.
"""

from __future__ import annotations

from collections.abc import Collection

from ..ir import Eqn, Graph
from ..rules import WEIGHTED
from .bearing import bearing


def forgotten_quantities(graph: Graph, carrying: Collection[str], reached: Collection[str]) -> tuple[str, ...]:
    """Names of the inputs that bear no relevance, though what they hold is treated as a quantity.

    They are cast to floats, and weighed, or joined with values that bear relevance, before they meet any such value in
    a sum or product, as masks do.

    Args:
        graph: The graph.
        carrying: Names of the values that bear relevance.
        reached: Names of the inputs that receive any.
    """
    unused = [var.name for var in graph.inputs if var.name not in reached and not var.is_float]
    return tuple(name for name in unused if _is_used_as_quantity(graph, name, carrying))


def _is_used_as_quantity(graph: Graph, name: str, carrying: Collection[str]) -> bool:
    own = bearing(graph, (), quantities=[name]) - set(carrying)
    return any(_weighs(eqn, own, carrying) or _joins(eqn, own, carrying) for eqn in graph.eqns)


def _weighs(eqn: Eqn, own: Collection[str], carrying: Collection[str]) -> bool:
    return (
        eqn.op in WEIGHTED
        and any(var.name in own for var in eqn.invars[:2])
        and not any(var.name in carrying for var in eqn.invars)
    )


def _joins(eqn: Eqn, own: Collection[str], carrying: Collection[str]) -> bool:
    names = {var.name for var in eqn.invars if var.is_float}
    return eqn.op == "concat" and not names.isdisjoint(own) and not names.isdisjoint(carrying)


def has_unfollowed_index(graph: Graph, carrying: Collection[str]) -> bool:
    """Whether rows are looked up by integers that follow from inputs, and that bear no relevance nonetheless."""
    following = {var.name for var in graph.inputs}
    for eqn in graph.eqns:
        if any(var.name in following for var in eqn.invars):
            following.update(var.name for var in eqn.outvars)
    look_ups = (eqn for eqn in graph.eqns if eqn.op == "gather" and eqn.invars[0].name not in following)
    return any(eqn.outvars[0].is_float and eqn.invars[1].name in following - set(carrying) for eqn in look_ups)
