"""Which values bear relevance, and what kind an equation is where it stands.

A value bears relevance when it is computed, through edges that carry relevance, from a float input or from rows of a
table that an integer input looks up. Whatever does not is a weight to products and a constant to sums. All of this
follows from the graph; nothing is computed with numbers here.

An index may be worked out from an id, entry by entry and with constants only (an offset, a negative one counted from
the end, a remainder, a comparison): the look-up is then one by the id, in another table, and the arithmetic hands on
what it gets. Arithmetic that mixes entries (positions counted from a mask) or inputs makes no such index.

Integers and truths that are cast to floats may be quantities (pixels, an age, a flag) or settings (an attention mask),
and the graph does not tell. They bear relevance when they are said to be quantities: see `plan_walk`. What is computed
with quantities before the cast is arithmetic as with floats, whatever it mixes.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from backtrace_jax.ir import Eqn, Graph, Var
from backtrace_jax.ops import CONTROL, FUNCTION, LINEAR, MOVE, NONE, OPS, POINTWISE, PRODUCT, QUOTIENT, SELECT
from backtrace_jax.rules import EMBEDDING, INDEX


def bearing_inputs(graph: Graph, wrt: Collection[str] | None = None) -> frozenset[str]:
    """Names of the inputs that bear relevance, should it reach them."""
    inputs = [var for var in graph.inputs if wrt is None or var.name in wrt]
    return frozenset(var.name for var in inputs if _can_bear(var))


def bearing(
    graph: Graph,
    inputs: Collection[str],
    varying: Collection[str] | None = None,
    quantities: Collection[str] = (),
) -> frozenset[str]:
    """Names of the values that bear relevance, given the inputs that do.

    Args:
        graph: The graph.
        inputs: Names of the inputs that bear relevance.
        varying: Names of the inputs that are no constants to an index worked out from others; None: those that bear.
        quantities: Names of the inputs whose integers or truths are quantities, which bear relevance as floats do.
    """
    search = _Search({*inputs, *quantities}, inputs if varying is None else varying, quantities)
    return frozenset(search.over(graph).found)


def quantities_in(graph: Graph, inputs: Collection[str], quantities: Collection[str]) -> frozenset[str]:
    """Names of the integers and truths that stand for quantities, given the inputs that bear and those that do."""
    return frozenset(_Search({*inputs, *quantities}, inputs, quantities).over(graph).quantities)


class Inside(NamedTuple):
    """Names of the values of a body that bear relevance, and of its integers and truths that stand for quantities."""

    bearing: frozenset[str]
    quantities: frozenset[str]


class _Search:
    """The values that bear relevance, found equation by equation.

    Attributes:
        found: Their names.
        quantities: Names of those that are integers or truths and stand for quantities.
    """

    def __init__(self, inputs: Collection[str], varying: Collection[str], quantities: Collection[str]) -> None:
        self.found, self.quantities = set(inputs), set(quantities)
        self._varying = set(varying)  # whatever is computed from such inputs, in any way
        self._sources: dict[str, set[str]] = {}  # where integers that bear relevance come from; themselves by default

    def over(self, graph: Graph) -> _Search:
        """The same search, after all equations of a graph."""
        for eqn in graph.eqns:
            self._visit(eqn)
        return self

    def _visit(self, eqn: Eqn) -> None:
        """Add the results that bear relevance."""
        if any(var.name in self._varying for var in eqn.invars):
            self._varying.update(var.name for var in eqn.outvars)
        if OPS[eqn.op].kind == CONTROL:
            self._add_scanned(eqn)
        elif self._is_quantity(eqn) or (self._is_worked_out(eqn) if _is_index(eqn) else any(bearers(eqn, self.found))):
            self._add(eqn)

    def _add_scanned(self, eqn: Eqn) -> None:
        """Add results of control flow; the kept states that follow them are nobody's operands."""
        inside = bearing_in_body(eqn, self.found, self.quantities)
        pairs = list(zip(eqn.outvars, eqn.params["body"].outputs, strict=False))
        self.found.update(outer.name for outer, inner in pairs if inner.name in inside.bearing)
        self.quantities.update(outer.name for outer, inner in pairs if inner.name in inside.quantities)

    def _add(self, eqn: Eqn) -> None:
        sources = self._sources_of(eqn)
        self.found.update(var.name for var in eqn.outvars)
        self._sources.update({var.name: sources for var in eqn.outvars if sources and not var.is_float})
        if self._is_quantity(eqn):
            self.quantities.update(var.name for var in eqn.outvars if not var.is_float)

    def _is_quantity(self, eqn: Eqn) -> bool:
        """Whether quantities are cast, or something is computed with them as integers or truths."""
        op, cast = OPS[eqn.op], eqn.op == "cast"
        carried = (var.name for i, var in enumerate(eqn.invars) if op.carries(i) or eqn.op in _INDEXING)
        return (cast or not eqn.outvars[0].is_float) and not self.quantities.isdisjoint(carried)

    def _sources_of(self, eqn: Eqn) -> set[str]:
        integers = [var.name for var in eqn.invars if not var.is_float and var.name in self.found]
        return set().union(*(self._sources.get(name, {name}) for name in integers))

    def _is_worked_out(self, eqn: Eqn) -> bool:
        """Whether an index follows from entries of one value that bears relevance, and from constants."""
        names = {var.name for var in eqn.invars}
        ids = {var.name for var in eqn.invars if not var.is_float} & self.found
        others = (names - ids) & self._varying
        return bool(ids) and not others and (len(ids) == 1 or len(self._sources_of(eqn)) == 1)


def bearing_in_body(eqn: Eqn, carrying: Collection[str], quantities: Collection[str] = ()) -> Inside:
    """What bears relevance in a body in some step, given what does outside.

    A state bears relevance if its new value does, which may depend on states in turn: found by repetition. One that is
    set to a constant in every step bears none, whatever it starts from.
    """
    body, states = eqn.params["body"], eqn.params["states"]
    given = list(zip(body.inputs, eqn.invars, strict=True))
    others = {inner.name for inner, outer in given[states:] if outer.name in carrying}
    starting = {inner.name for inner, outer in given[:states] if outer.name in carrying}
    measured = {inner.name for inner, outer in given if outer.name in quantities}
    while True:
        found = _settled(body, states, others | starting, measured & (others | starting))
        idle = starting - _new_states(body, states, found.bearing)
        if not idle:
            return found
        starting -= idle


def _settled(body: Graph, states: int, inputs: set[str], measured: set[str]) -> Inside:
    """What bears relevance once every state does that sooner or later will, given what does at first."""
    while True:
        search = _Search(inputs, {var.name for var in body.inputs}, measured).over(body)
        found = Inside(frozenset(search.found), frozenset(search.quantities))
        grown = tuple(_new_states(body, states, names) for names in found)
        if grown[0] <= inputs and grown[1] <= measured:
            return found
        inputs, measured = inputs | grown[0], measured | grown[1]


def _new_states(body: Graph, states: int, found: Collection[str]) -> set[str]:
    """States whose new values are among these."""
    pairs = zip(body.inputs[:states], body.outputs[:states], strict=True)
    return {state.name for state, new in pairs if new.name in found}


def _can_bear(var: Var) -> bool:
    return var.is_float or var.is_integer


def bearers(eqn: Eqn, carrying: Collection[str]) -> tuple[bool, ...]:
    """Which operands of an equation can take relevance from its result, given the values that bear relevance."""
    if OPS[eqn.op].kind == CONTROL:
        return tuple(var.name in carrying for var in eqn.invars)
    if _is_embedding(eqn, carrying):
        return tuple(position == 1 for position in range(len(eqn.invars)))
    if _is_index(eqn) and eqn.outvars[0].name in carrying:
        return tuple(var.name in carrying and not var.is_float for var in eqn.invars)
    return tuple(var.name in carrying and _carries(eqn, i, carrying) for i, var in enumerate(eqn.invars))


_LOOK_UPS = ("gather", "gather_by_key")
_COMPARING = ("equal", "less", "less_equal", "greater", "greater_equal")
_LOGICAL = ("logical_and", "logical_or", "logical_xor", "logical_not")
_BITWISE = ("bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not", "shift_left", "shift_right")
_ARITHMETIC = ("add", "sub", "mul", "div", "mod", "neg", "abs", "sign", "clip", "integer_pow")
_INDEXING = frozenset((*_COMPARING, *_LOGICAL, *_BITWISE, *_ARITHMETIC, "entrywise"))
_CHOOSING = ("maximum", "minimum")
_QUANTISING = ("quantize", "dequantize")


def _is_index(eqn: Eqn) -> bool:
    """Whether integers (or truths) are worked out entry by entry.

    Of a larger and a smaller integer the winner takes all where they are quantised numbers, which have fewer bits than
    indices; an index kept inside its range by that is the token's, at the end of the range as well.
    """
    result = eqn.outvars[0]
    chosen = eqn.op in _CHOOSING and result.dtype.itemsize >= 4
    return (eqn.op in _INDEXING or chosen) and not result.is_float


def _is_embedding(eqn: Eqn, carrying: Collection[str]) -> bool:
    if eqn.op not in _LOOK_UPS or not _can_bear(eqn.outvars[0]):
        return False
    table, index = eqn.invars[:2]
    return table.name not in carrying and index.name in carrying


def _carries(eqn: Eqn, position: int, carrying: Collection[str]) -> bool:
    """Floats pass relevance to floats; integers only where they are moved or selected, not computed with.

    Integers that stand for quantities are made of floats, and turned into floats, by operations of their own. A float
    that is cut to a whole number may look up a row, as the code of a category among other features does. What is
    computed with integers passes nothing on, unless it is an index (`INDEX`) or a quantity.
    """
    op, result = OPS[eqn.op], eqn.outvars[0]
    if not op.carries(position):
        smooth = result.is_float or op.name in _QUANTISING
        return smooth and eqn.invars[position].is_float and op.varies_with(position)
    moved = op.kind in (MOVE, SELECT) or op.name in ("cast", *_QUANTISING)
    same = result.is_float == eqn.invars[position].is_float or op.name in _QUANTISING
    same = same or (op.name == "cast" and (result.is_integer or result.name in carrying))  # of quantities to floats
    return same and (result.is_float or moved or result.name in carrying)


def measures(eqn: Eqn, quantities: Collection[str]) -> bool:
    """Whether an equation computes integers or truths from quantities."""
    return not eqn.outvars[0].is_float and any(var.name in quantities for var in eqn.invars)


def _is_function(eqn: Eqn, bears: tuple[bool, ...]) -> bool:
    """Whether more operands bear relevance than the rules of its kind know to share among."""
    op = OPS[eqn.op]
    beyond = any(bears and not op.carries(i) for i, bears in enumerate(bears))
    return op.kind != CONTROL and (beyond or (op.kind == POINTWISE and sum(bears) > 1))


def kind_of(eqn: Eqn, bears: tuple[bool, ...], quantities: Collection[str] = ()) -> str:
    """The kind of an equation where it stands: a product with one bearing factor is linear, and so on.

    No operand that bears relevance and moves the result is left out: where the rules of the operation's kind know
    nothing of one, the operation is a function, which modes of derivatives follow and relevance modes refuse.

    Args:
        eqn: The equation.
        bears: Whether each operand bears relevance.
        quantities: Names of the integers and truths that stand for quantities.
    """
    kind = OPS[eqn.op].kind
    if _is_index(eqn) and (kind == NONE or not measures(eqn, quantities)):
        return INDEX
    if eqn.op in _LOOK_UPS and not bears[0]:
        return EMBEDDING
    if _is_function(eqn, bears):
        return FUNCTION
    if kind == PRODUCT and not all(bears[:2]):
        return LINEAR
    if kind == QUOTIENT and not all(bears):
        return LINEAR if bears[0] else POINTWISE
    return kind
