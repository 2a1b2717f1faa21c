"""Which values bear relevance, and what kind an equation is where it stands.

A value bears relevance when it is computed, through edges that carry relevance, from a float input or from rows of a
table that an integer input looks up. Whatever does not is a weight to products and a constant to sums. All of this
follows from the graph; nothing is computed with numbers here.
"""

from __future__ import annotations

from collections.abc import Collection

from ..ir import Eqn, Graph, Var
from ..ops import CONTROL, LINEAR, MOVE, OPS, POINTWISE, PRODUCT, QUOTIENT, SELECT
from ..rules import EMBEDDING


def bearing_inputs(graph: Graph, wrt: Collection[str] | None = None) -> frozenset[str]:
    """Names of the inputs that bear relevance, should it reach them."""
    inputs = [var for var in graph.inputs if wrt is None or var.name in wrt]
    return frozenset(var.name for var in inputs if _can_bear(var))


def bearing(graph: Graph, inputs: Collection[str]) -> frozenset[str]:
    """Names of the values that bear relevance, given the inputs that do."""
    found = set(inputs)
    for eqn in graph.eqns:
        if OPS[eqn.op].kind == CONTROL:
            found.update(_scanned(eqn, found))
        elif any(bearers(eqn, found)):
            found.update(var.name for var in eqn.outvars if _can_bear(var))
    return frozenset(found)


def bearing_in_body(eqn: Eqn, carrying: Collection[str]) -> frozenset[str]:
    """Names of the values of a body that bear relevance in some step, given those that do outside.

    A state bears relevance if its new value does, which may depend on states in turn: found by repetition. One that is
    set to a constant in every step bears none, whatever it starts from.
    """
    body, states = eqn.params["body"], eqn.params["states"]
    given = list(zip(body.inputs, eqn.invars, strict=True))
    others = {inner.name for inner, outer in given[states:] if outer.name in carrying}
    starting = {inner.name for inner, outer in given[:states] if outer.name in carrying}
    while True:
        found = bearing(body, others | _growing(body, states, others, starting))
        idle = starting - _bearing_states(body, states, found)
        if not idle:
            return found
        starting -= idle


def _growing(body: Graph, states: int, others: set[str], starting: set[str]) -> set[str]:
    """States that bear relevance sooner or later, given those that do at first."""
    found = starting
    while True:
        grown = found | _bearing_states(body, states, bearing(body, others | found))
        if grown == found:
            return found
        found = grown


def _bearing_states(body: Graph, states: int, found: Collection[str]) -> set[str]:
    pairs = zip(body.inputs[:states], body.outputs[:states], strict=True)
    return {state.name for state, new in pairs if new.name in found}


def _scanned(eqn: Eqn, carrying: Collection[str]) -> set[str]:
    """Results of control flow that bear relevance; the kept states that follow them are nobody's operands."""
    inside, body = bearing_in_body(eqn, carrying), eqn.params["body"]
    return {outer.name for outer, inner in zip(eqn.outvars, body.outputs, strict=False) if inner.name in inside}


def _can_bear(var: Var) -> bool:
    return var.is_float or var.is_integer


def bearers(eqn: Eqn, carrying: Collection[str]) -> tuple[bool, ...]:
    """Which operands of an equation can take relevance from its result, given the values that bear relevance."""
    if OPS[eqn.op].kind == CONTROL:
        return tuple(var.name in carrying and var.is_float for var in eqn.invars)
    if _is_embedding(eqn, carrying):
        return tuple(position == 1 for position in range(len(eqn.invars)))
    return tuple(var.name in carrying and _carries(eqn, i) for i, var in enumerate(eqn.invars))


_LOOK_UPS = ("gather", "gather_by_key")
_QUANTISING = ("quantize", "dequantize")


def _is_embedding(eqn: Eqn, carrying: Collection[str]) -> bool:
    if eqn.op not in _LOOK_UPS or not _can_bear(eqn.outvars[0]):
        return False
    table, index = eqn.invars[:2]
    return table.name not in carrying and index.name in carrying


def _carries(eqn: Eqn, position: int) -> bool:
    """Floats pass relevance to floats; integers only where they are moved or selected, not computed with.

    Integers that stand for quantities are made of floats, and turned into floats, by operations of their own. A float
    that is cut to a whole number may look up a row, as the code of a category among other features does.
    """
    op, result = OPS[eqn.op], eqn.outvars[0]
    moved = op.kind in (MOVE, SELECT) or op.name in ("cast", *_QUANTISING)
    same = result.is_float == eqn.invars[position].is_float or op.name in _QUANTISING
    same = same or (op.name == "cast" and result.is_integer)
    return op.carries(position) and same and (result.is_float or (result.is_integer and moved))


def kind_of(eqn: Eqn, bears: tuple[bool, ...]) -> str:
    """The kind of an equation where it stands: a product with one bearing factor is linear, and so on."""
    kind = OPS[eqn.op].kind
    if eqn.op in _LOOK_UPS and not bears[0]:
        return EMBEDDING
    if kind == PRODUCT and not all(bears[:2]):
        return LINEAR
    if kind == QUOTIENT and not all(bears):
        return LINEAR if bears[0] else POINTWISE
    return kind
