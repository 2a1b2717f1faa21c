"""Follows the examples of a batch through a graph, equation by equation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any

import numpy as np

from backtrace_jax.errors import MixedExamplesError
from backtrace_jax.ir import Eqn, Program, Var

from .counting import COUNTS, Bounds, bounds_of, counted, exact
from .places import MixedError, Operand, Place, Shape, Step, alone, of_one
from .rules import RULES
from .terms import Term, Terms
from .writing import Doubt, doubt, places_named

OPEN = Place(-1)
"""The place of a state whose place the body of a loop has yet to tell."""

TOGETHER = "If the inputs are one example together, pass batch_axis=None"
WAYS_OUT = f"{TOGETHER}; if the model is meant for batches of one size, fix that size in the file"


@dataclass(frozen=True)
class Followed:
    """A value of a graph over a batch.

    Attributes:
        var: The value.
        place: Where it holds the examples; None where all examples share it.
        term: What it is for one example.
        known: Its value, where that is known.
        bounds: What is known of its integers.
        doubt: Entries that may belong to another example.
        copied: What a shared value was copied from, where it was.
        mixed: Why it is no value of one example, where examples were mixed to compute it.
    """

    var: Var
    place: Place | None
    term: Term
    known: np.ndarray | None = None
    bounds: Bounds | None = None
    doubt: Doubt | None = None
    copied: Term | None = None
    mixed: str = ""

    @property
    def free(self) -> bool:
        """Whether it is free of the positions of examples in the batch."""
        return self.doubt is None and (self.bounds is None or not self.bounds.counts)


@dataclass(frozen=True)
class Over:
    """What values are followed over.

    Attributes:
        count: Number of examples.
        terms: Makes the terms.
        depth: Loops around the equations at hand.
        asked: Where known values that every step of a loop reads hold the examples, by their names in its body.
    """

    count: int
    terms: Terms
    depth: int = 0
    asked: dict[str, Place] = field(default_factory=dict)


def follow(program: Program, places: Mapping[str, Place | None], over: Over) -> dict[str, Followed]:
    """Every value of a program over a batch, from where its inputs hold the examples; what was mixed says so."""
    given = [_given(var, var.name, places[var.name], over) for var in program.graph.inputs]
    weights = [(var, program.weights[var.name]) for var in program.graph.params]
    known = [Followed(var, None, over.terms.array(array), array) for var, array in weights]
    return _followed(program.graph.eqns, [*given, *known], over)


def _given(var: Var, name: Any, place: Place | None, over: Over) -> Followed:
    shape = var.shape if place is OPEN else alone(var.shape, place, over.count)
    return Followed(var, place, over.terms.given(name, shape))


def _followed(eqns: Sequence[Eqn], given: Sequence[Followed], over: Over) -> dict[str, Followed]:
    values = {each.var.name: each for each in given}
    for number, eqn in enumerate(eqns):
        operands = [values[var.name] for var in eqn.invars]
        values.update({each.var.name: each for each in _results(eqns, number, operands, over)})
    return values


def _results(eqns: Sequence[Eqn], number: int, operands: Sequence[Followed], over: Over) -> list[Followed]:
    """The results of the equation of this number; those that mix the examples say so, which in a loop ends the loop."""
    eqn = eqns[number]
    what = next((each.mixed for each in operands if each.mixed), "")
    try:
        if not what:
            return (_scan if eqn.op == "scan" else _step)(eqn, operands, over)
    except MixedError as error:
        what = _mixes(named(eqns, number), operands, str(error))
    except MixedExamplesError as error:
        what = error.reason
    if over.depth:
        raise MixedExamplesError(what, WAYS_OUT)
    lost = [(var, over.terms.given(("mixed", var.name), var.shape)) for var in eqn.outvars]
    return [Followed(var, None, term, mixed=what) for var, term in lost]


def _mixes(node: str, operands: Sequence[Followed], what: str) -> str:
    held = next((each for each in operands if each.place not in (None, OPEN)), operands[0])
    along = f" along axis {held.place.axis} of {held.var.name!r} {list(held.var.shape)}" if held.place else ""
    return f"node {node} mixes the examples{along}: {what}"


def named(eqns: Sequence[Eqn], number: int = 0) -> str:
    """The node that an equation came from, by its name or that of its result, for a message."""
    own, source = eqns[number].outvars[0].name, eqns[number].source
    same = takewhile(lambda eqn: eqn.source == source, (eqns[place] for place in range(number, len(eqns))))
    results = ((eqn, eqn.outvars[0].name) for eqn in same)
    result = next((name for eqn, name in results if name.split(".")[0] != eqn.op), own)
    return f"{(source.node or result)!r} ({source.operator or eqns[number].op})"


def _step(eqn: Eqn, operands: Sequence[Followed], over: Over) -> list[Followed]:
    """The results of an equation other than a loop."""
    step = _ruled(eqn, operands, over.count)
    own = [_conforming(each, place, over) for each, place in zip(operands, step.wanted, strict=True)]
    shapes = [alone(var.shape, place, over.count) for var, place in zip(eqn.outvars, step.results, strict=True)]
    terms = over.terms.results(eqn.op, step.params, [each.term for each in own], shapes)
    rest = OPEN if any(each.place is OPEN for each in operands) else None
    found = zip(eqn.outvars, step.results, terms, strict=True)
    copied = own[0].term if eqn.op == "expand" else None
    return [
        Followed(var, place or rest, term, None, *_facts(eqn.op, var, term.shape, step, own), copied)
        for var, place, term in found
    ]


def _facts(op: str, var: Var, shape: Shape, step: Step, own: Sequence[Followed]) -> tuple[Bounds | None, Doubt | None]:
    """What is known of the integers of a result, and which entries may belong to another example."""
    sizes, params = [each.term.shape for each in own], step.params
    bounds = bounds_of(op, [each.bounds for each in own], sizes, params, shape, var.is_integer)
    if step.results[0] is not None:
        bounds = bounds or places_named(op, var.name, params, sizes, shape)
    seen = [Operand(each.term.shape, each.place, each.known, each.bounds) for each in own]
    return bounds, doubt(op, params, [each.doubt for each in own], seen, shape)


def _ruled(eqn: Eqn, operands: Sequence[Followed], count: int) -> Step:
    seen = [
        Operand(each.var.shape, None if each.place is OPEN else each.place, each.known, each.bounds)
        for each in operands
    ]
    if all(each.place is None for each in seen):
        return Step((None,) * len(seen), (None,) * len(eqn.outvars), eqn.params)
    rule = RULES.get(eqn.op)
    if rule is None:
        raise MixedError(f"where {eqn.op!r} leaves the batch is not known")
    return rule(seen, eqn.params, [var.shape for var in eqn.outvars], count)


def _conforming(value: Followed, place: Place | None, over: Over) -> Followed:
    """An operand where the operation needs it to hold the examples, which a known value may do as it is."""
    if value.place == place or value.place is OPEN:
        return value if value.known is None else replace(value, bounds=exact(value.known))
    if value.place is not None:
        raise MixedError("it combines different examples")
    copies = _copies(value, place, over)
    if copies is not None:
        return copies
    if value.known is None or place is None:
        raise MixedError(f"{value.var.name!r}, which all examples share, meets them as if it held one entry for each")
    part = of_one(value.known, place, over.count)
    if part is not None:
        over.asked.setdefault(value.var.name, place)
        return Followed(value.var, place, over.terms.array(part), part, exact(part))
    numbers = counted(value.known, place, over.count)
    if numbers is None:
        raise MixedError(f"{value.var.name!r} has different entries for the examples")
    return Followed(value.var, place, over.terms.array(numbers[0]), bounds=numbers[1])


def _copies(value: Followed, place: Place | None, over: Over) -> Followed | None:
    """A shared value that was copied for each example, as one of the copies."""
    if value.copied is None or place is None:
        return None
    shape, given = value.var.shape, value.copied.shape
    axis = place.axis - (len(shape) - len(given))
    if place.outer > 1 or shape[place.axis] != over.count or (axis >= 0 and given[axis] != 1):
        return None
    own = alone(shape, place, over.count)
    (term,) = over.terms.results("expand", {"shape": own}, [value.copied], [own])
    return Followed(value.var, place, term)


def _scan(eqn: Eqn, operands: Sequence[Followed], over: Over) -> list[Followed]:
    """A loop: its states hold the examples where its body hands them on."""
    states, sequences = eqn.params["states"], eqn.params["sequences"]
    entries = [_entry(each) for each in operands[states : states + sequences]]
    places = [each.place or OPEN for each in operands[:states]]
    found, asked = _body(eqn, operands, places, entries, over)
    while OPEN in places:
        after = [new.place if old is OPEN else old for old, new in zip(places, found, strict=False)]
        places = [None if place is OPEN else place for place in after] if after == places else after
        found, asked = _body(eqn, operands, places, entries, over)
    if [each.place for each in found[:states]] != places:
        raise MixedError("a state of the loop does not keep its batch")
    inner = eqn.params["body"].inputs[states:]
    others = (asked.get(var.name, each.place) for var, each in zip(inner, operands[states:], strict=True))
    return _loop_results(eqn, operands, [*places, *others], found, over)


def _entry(sequence: Followed) -> Place | None:
    """Where one entry of a sequence holds the examples."""
    if sequence.place is None or sequence.place is OPEN:
        return sequence.place
    if sequence.place.axis == 0:
        raise MixedError("it runs from one example to the next")
    return replace(sequence.place, axis=sequence.place.axis - 1)


def _body(
    eqn: Eqn, operands: Sequence[Followed], places: Sequence[Place | None], entries: Sequence[Place | None], over: Over
) -> tuple[list[Followed], dict[str, Place]]:
    """The results of a loop's body, in terms of its own states and entries, and where known values hold examples."""
    body, inside = eqn.params["body"], replace(over, depth=over.depth + 1, asked={})
    varying = enumerate(zip(body.inputs, [*places, *entries], strict=False))
    own = [_given(var, (over.depth, number), place, over) for number, (var, place) in varying]
    others = zip(body.inputs[len(own) :], operands[len(own) :], strict=True)
    values = _followed(body.eqns, [*own, *(replace(outer, var=var) for var, outer in others)], inside)
    return [values[var.name] for var in body.outputs], inside.asked


def _loop_results(
    eqn: Eqn, operands: Sequence[Followed], wanted: Sequence[Place | None], found: Sequence[Followed], over: Over
) -> list[Followed]:
    places = wanted[: eqn.params["states"]]
    stacked = [*(each.place for each in found[len(places) :]), *places]
    results = [*places, *(None if place is None else replace(place, axis=place.axis + 1) for place in stacked)]
    own = [_conforming(each, place, over) for each, place in zip(operands, wanted, strict=True)]
    if not all(each.free for each in (*own, *found)):
        raise MixedError(COUNTS)
    sizes = [alone(var.shape, place, over.count) for var, place in zip(eqn.outvars, results, strict=True)]
    outcome = over.terms.outcome([each.term for each in found])
    terms = over.terms.results("scan", eqn.params, [each.term for each in own], sizes, outcome)
    return [Followed(var, place, term) for var, place, term in zip(eqn.outvars, results, terms, strict=True)]
