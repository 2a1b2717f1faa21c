"""The relevance walk over time: the rules of a body, step by step backwards, with the relevance of its states.

The forward scan has kept the states before each step. From them the values of all steps are computed at once, side by
side rather than one after the other; only the walk itself goes through time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from ..ops import run
from ..rules import Shares
from .books import Books
from .plan import Plan, Step
from .walk import Values, walk

Relevance = dict[int, Array]  # by position among the body's inputs or outputs


class OverTime(NamedTuple):
    """Shares of a scan's operands, and the books of its body's nodes, added up over time."""

    shares: Shares
    books: Books


def walk_over_time(
    step: Step, values: Values, found: Mapping[str, Array], *, nonnegative: bool, reference: Values | None = None
) -> OverTime:
    """Hand the relevance of a scan's results on to first states, sequences and constants.

    Args:
        step: The scan.
        values: Every value of the forward pass outside, by name.
        found: Relevance of the scan's results, by name; those without are left out.
        nonnegative: Whether that is known not to be negative anywhere.
        reference: Every value at the reference input, for modes that compare with one.
    """
    moving, fixed = _steps_values(step, values)
    compared, compared_fixed = _steps_values(step, reference) if reference is not None else ({}, {})
    backwards = _Backwards(step, fixed, compared_fixed, nonnegative)
    states, results = _arriving(step, values, found)
    constants = {i: _blank(backwards.plan, values[step.eqn.invars[i].name], found) for i in backwards.constants}
    length, reverse = step.eqn.params["length"], not step.eqn.params["reverse"]
    (first, constants), (series, books) = lax.scan(
        backwards.step, (states, constants), (moving, compared, results), length=length, reverse=reverse
    )
    placed = {i: jnp.moveaxis(R, 1, 0) if backwards.plan.paired else R for i, R in series.items()}
    return OverTime({**first, **placed, **constants}, Books(*(jnp.sum(book, axis=0) for book in books)))


class _Backwards:
    """One step of the walk over time, as `lax.scan` takes it."""

    def __init__(self, step: Step, fixed: Values, compared_fixed: Values, nonnegative: bool) -> None:
        self.plan, self.nonnegative = _body(step), nonnegative
        self.fixed, self.compared_fixed = fixed, compared_fixed
        self.reached = _positions(self.plan.graph.inputs, (var.name for var in self.plan.inputs))
        changing = step.eqn.params["states"] + step.eqn.params["sequences"]
        self.constants = [i for i in self.reached if i >= changing]

    def step(
        self, carried: tuple[Relevance, Relevance], given: tuple[Values, Values, Relevance]
    ) -> tuple[tuple[Relevance, Relevance], tuple[Relevance, Books]]:
        """From the relevance of new states and results to that of old states, and of one entry of each sequence."""
        (behind, summed), (moving, compared, arriving) = carried, given
        shares, books = self._walk(moving, compared, _by_name(self.plan, behind, arriving))
        kept = {i: shares.get(i, jnp.zeros_like(R)) for i, R in behind.items()}
        summed = {i: summed[i] + shares[i] for i in self.constants}
        series = {i: R for i, R in shares.items() if i not in kept and i not in summed}
        return (kept, summed), (series, books)

    def _walk(self, moving: Values, compared: Values, starts: dict[str, Array]) -> OverTime:
        now, then = {**self.fixed, **moving}, {**self.compared_fixed, **compared} or None
        relevance, books = walk(self.plan, now, starts, nonnegative=self.nonnegative, reference=then)
        names = {i: self.plan.graph.inputs[i].name for i in self.reached}
        shares = {i: relevance.get(name, _blank(self.plan, now[name], starts)) for i, name in names.items()}
        return OverTime(shares, books)


def _body(step: Step) -> Plan:
    assert step.body is not None
    return step.body


def _steps_values(step: Step, values: Values) -> tuple[dict[str, Array], dict[str, Array]]:
    """Values of the body that the walk reads: those of all steps, [length, ...], and those that never change."""
    body, params = _body(step).graph, step.eqn.params
    states, changing = params["states"], params["states"] + params["sequences"]
    outside = [values[var.name] for var in step.eqn.invars]
    before = [values[var.name] for var in step.eqn.outvars[len(step.eqn.outvars) - states :]]
    moving = {var.name: x for var, x in zip(body.inputs, (*before, *outside[states:changing]), strict=False)}
    fixed = {var.name: x for var, x in zip(body.inputs[changing:], outside[changing:], strict=True)}
    computed = jax.vmap(lambda now: run(body.eqns, {**fixed, **now}), out_axes=0, axis_size=params["length"])(moving)
    return {name: x for name, x in computed.items() if name not in fixed}, fixed


def _arriving(step: Step, values: Values, found: Mapping[str, Array]) -> tuple[Relevance, Relevance]:
    """Relevance of the last states, zero where none has arrived, and of the results of all steps, time first."""
    plan, states = _body(step), step.eqn.params["states"]
    bearing = _positions(plan.graph.outputs, (var.name for var in plan.outputs))
    outer = step.eqn.outvars
    last = {i: found.get(outer[i].name, _blank(plan, values[outer[i].name], found)) for i in bearing if i < states}
    results = {i: found[outer[i].name] for i in bearing if i >= states and outer[i].name in found}
    return last, {i: jnp.moveaxis(R, 0, 1) if plan.paired else R for i, R in results.items()}


def _positions(variables: Iterable[Any], names: Iterable[str]) -> list[int]:
    wanted = set(names)
    return [i for i, var in enumerate(variables) if var.name in wanted]


def _by_name(plan: Plan, *arriving: Relevance) -> dict[str, Array]:
    """Relevance of the body's outputs; one value may be both a state and a result."""
    starts: dict[str, Array] = {}
    for i, R in (item for each in arriving for item in each.items()):
        name = plan.graph.outputs[i].name
        starts[name] = starts[name] + R if name in starts else R
    return starts


def _blank(plan: Plan, like: Array, found: Mapping[str, Array]) -> Array:
    """No relevance yet for a value; that of integers has the float type of what has arrived."""
    dtype = like.dtype if jnp.issubdtype(like.dtype, jnp.inexact) else next(iter(found.values())).dtype
    return jnp.zeros((2, *like.shape) if plan.paired else like.shape, dtype)
