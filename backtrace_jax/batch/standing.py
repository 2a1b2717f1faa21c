"""Where values hold a batch whose examples may interact: of a run whose size the file fixes, row by row.

What a mixing operation gives still has one entry for each example where its result has the shape of an operand that
holds them, or where a product keeps their axis. Anywhere else, equal sizes are chance, and nothing is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backtrace_jax.ir import Eqn, Graph, Var

from .places import MixedError, Operand, Place, Step
from .rules import RULES


def standing(graph: Graph, places: Mapping[str, Place | None], count: int) -> dict[str, Place | None]:
    """Where every value holds the examples; None where it holds none, or that is not told."""
    found = {var.name: places.get(var.name) for var in (*graph.inputs, *graph.params)}
    for eqn in graph.eqns:
        operands = [Operand(var.shape, found[var.name]) for var in eqn.invars]
        found.update(zip((var.name for var in eqn.outvars), _placed(eqn, operands, count), strict=True))
    return found


def _placed(eqn: Eqn, operands: Sequence[Operand], count: int) -> Sequence[Place | None]:
    if all(each.place is None for each in operands):
        return (None,) * len(eqn.outvars)
    if eqn.op == "scan":
        return _looped(eqn, operands, count)
    if eqn.op == "einsum" or eqn.op == "matmul":
        operands = _first_alone(operands)
    try:
        step: Step = RULES[eqn.op](operands, eqn.params, [var.shape for var in eqn.outvars], count)
    except (MixedError, KeyError):
        return [_kept(var, operands) for var in eqn.outvars]
    return step.results


def _first_alone(operands: Sequence[Operand]) -> list[Operand]:
    """A product's result holds the examples as the first factor that holds them does."""
    first = next(i for i, each in enumerate(operands) if each.place is not None)
    return [each if i == first else Operand(each.shape, None) for i, each in enumerate(operands)]


def _kept(var: Var, operands: Sequence[Operand]) -> Place | None:
    return next((each.place for each in operands if each.place is not None and each.shape == var.shape), None)


def _looped(eqn: Eqn, operands: Sequence[Operand], count: int) -> list[Place | None]:
    """A loop over another axis than that of the examples; states stand where they are handed on."""
    states, sequences = eqn.params["states"], eqn.params["sequences"]
    body: Graph = eqn.params["body"]
    entries = [_entry(each.place) for each in operands[states : states + sequences]]
    given = [each.place for each in operands]
    given[states : states + sequences] = entries
    found = _handed_on(body, given, count)
    for _ in range(states):
        given[:states] = [old or new for old, new in zip(given[:states], found[:states], strict=True)]
        found = _handed_on(body, given, count)
    stacked = [*found[states:], *found[:states]]
    return [*found[:states], *(None if each is None else Place(each.axis + 1, each.outer) for each in stacked)]


def _handed_on(body: Graph, given: Sequence[Place | None], count: int) -> list[Place | None]:
    inner = standing(body, dict(zip((var.name for var in body.inputs), given, strict=True)), count)
    return [inner[var.name] for var in body.outputs]


def _entry(place: Place | None) -> Place | None:
    return None if place is None or place.axis == 0 else Place(place.axis - 1, place.outer)
