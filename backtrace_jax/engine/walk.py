"""The relevance walk: reads the equations backwards, hands relevance on by their rules, and keeps the books.

A scan is walked step by step backwards, its body by the same walk, with the relevance of its states handed from step to
step.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array, lax

from backtrace_jax.ops import OPS
from backtrace_jax.question.words import NODES
from backtrace_jax.rules import CONSTANT, DEAD, Shares, Site

from .body import Relevance, Values, arriving, blank, body_of, by_name, positions, steps_values
from .books import KEPT, Booking, Books, Total, kept_in, relevance_of
from .forms import Forms
from .forward import computed, stored
from .segments import Segment
from .sharing import Conditions, Shared, arrays_of, form_of, share
from .steps import Plan, Step
from .tracing import Traces


class Walked(NamedTuple):
    """Relevance of every value the walk reached, by name, and the books."""

    relevance: dict[str, Array]
    books: Books


def walk(
    plan: Plan,
    values: Values,
    starts: Mapping[str, Array],
    *,
    nonnegative: bool = False,
    masks: Values | None = None,
    reference: Values | None = None,
    wanted: Collection[str] | None = None,
    ledger: str | None = NODES,
) -> Walked:
    """Walk relevance back.

    Args:
        plan: Which rule each equation gets.
        values: Every value of the forward pass, by name.
        starts: Relevance of the plan's outputs, in their shapes; in pairs two channels, [2, ...].
        nonnegative: Whether it is known not to be negative anywhere; the books then need one pass, not two.
        masks: Factors that values' relevance is multiplied by before it is handed on; what they cut off is booked as
            dead.
        reference: Every value at the reference input, for modes that compare with one.
        wanted: Names of the values whose relevance is given; None: all that were reached.
        ledger: Of what books are kept.
    """
    conditions = Conditions(nonnegative, plan.paired, plan.conserving, ledger)
    tour = _Tour(plan, values, starts, conditions, masks or {})
    for segment, steps in plan.stretches:
        reference = tour.enter(segment, steps, reference)
        for step in steps:
            tour.visit(step, reference)
    names = [name for name in tour.carried if wanted is None or name in wanted]
    return Walked({name: tour.relevance(name) for name in names}, tour.booking.closed())


class _Tour:
    """One walk under way: what travels so far, what each value has received, and the books.

    Of the values that the plan names slopes R/x travel, of others relevance.
    """

    def __init__(
        self, plan: Plan, values: Values, starts: Mapping[str, Array], conditions: Conditions, masks: Values
    ) -> None:
        self.plan, self.values, self.masks, self.conditions = plan, values, masks, conditions
        self.carried: dict[str, Array] = dict(starts)
        self.signless = dict.fromkeys(starts, conditions.sure)
        self.received = {name: conditions.booked(start, travels=True) for name, start in starts.items()}
        self.traces, self.forms = Traces(), Forms()
        self.stored = stored(plan.graph) if plan.segments else frozenset()
        self.booking = Booking(self.traces, conditions.ledger, paired=plan.paired)

    def relevance(self, name: str) -> Array:
        """Relevance of a value, whatever travels."""
        found = self.carried[name]
        return relevance_of(found, self.values[name]) if name in self.plan.slopes else found

    def enter(self, segment: Segment | None, steps: Sequence[Step], reference: Values | None) -> Values | None:
        """Compute the values of a segment anew, once relevance is there, and give those at the reference input.

        Behind the barrier XLA cannot take them for those that the forward pass has computed.
        """
        names = [var.name for step in steps for var in step.eqn.outvars if var.name in self.carried]
        if segment is None or not names:
            return reference
        known = [each for each in (self.values, reference) if each is not None]
        read = [[each[name] for name in segment.reads] for each in known]
        arriving, read = lax.optimization_barrier(([self.carried[name] for name in names], read))
        self.carried.update(zip(names, arriving, strict=True))
        self.values, *compared = (
            {**each, **computed(segment.eqns, dict(zip(segment.reads, arrays, strict=True)), self.stored)}
            for each, arrays in zip(known, read, strict=True)
        )
        return compared[0] if compared else None

    def visit(self, step: Step, reference: Values | None) -> None:
        """Hand on what an equation's results have received, and add a row to the books, and those of its body."""
        names = [var.name for var in step.eqn.outvars if var.name in self.carried]
        if not names:
            return self.booking.blank(len(step.nodes))
        sure = all(self.signless[name] for name in names) and step.keeps_sign
        conditions = self.conditions._replace(sure=sure)
        cut = [each for name in names if name in self.masks for each in self._cut(name, conditions)]
        shared, inner = self._shared(step, reference, conditions)
        handed = [each for i, entry in shared.entries.items() for each in entry if step.bears[i]]
        ended = [each for i, entry in shared.entries.items() for each in entry if not step.bears[i]]
        kept = {**shared.kept, CONSTANT: shared.kept[CONSTANT] + ended, DEAD: shared.kept[DEAD] + cut}
        received = [each for name in names for each in self.received[name]]
        nothing = self.booking.nothing.signed
        strain = [nothing if each is None else each for each in shared.strain]
        self.booking.row(received, handed, *(kept[cause] for cause in KEPT), strain=strain)
        if inner is not None:
            self.booking.body(inner)
        for i in filter(step.bears.__getitem__, shared.shares):
            self._hand_on(step.eqn.invars[i].name, shared.shares[i], shared.entries[i], sure)
        return None

    def _shared(self, step: Step, reference: Values | None, conditions: Conditions) -> tuple[Shared, Books | None]:
        """How an equation shares, and the rows of its body."""
        if step.rule is None:
            return self._over_time(step, reference, conditions)
        result, plan = step.eqn.outvars[0].name, self.plan
        R, site = self.carried[result], site_of(step, self.values, reference)
        waiting = bool(plan.segments)
        conditions = conditions._replace(arriving=result in plan.slopes, turned=plan.turned(step), waiting=waiting)
        key = self.forms.setting((*form_of(step), *conditions))
        return self.traces.call(key, partial(share, step, site, conditions), (R, arrays_of(site))), None

    def _over_time(self, step: Step, reference: Values | None, conditions: Conditions) -> tuple[Shared, Books | None]:
        found = {var.name: self.relevance(var.name) for var in step.eqn.outvars if var.name in self.carried}
        how = {"nonnegative": conditions.sure, "reference": reference, "ledger": conditions.ledger}
        shares, books = walk_over_time(step, self.values, found, **how)
        entries = {i: conditions.booked(each, travels=step.bears[i]) for i, each in shares.items()}
        return Shared(shares, entries, kept_in(books, body_of(step), conditions.ledger)), books

    def _cut(self, name: str, conditions: Conditions) -> list[Total]:
        """Apply a mask, and give the totals of what it cuts off."""
        whole = self.carried[name]
        mask = jnp.broadcast_to(self.masks[name].astype(whole.dtype), whole.shape)  # in pairs, for both channels
        self.carried[name] = whole * mask
        return conditions.booked(whole * (1 - mask), self.values[name] if name in self.plan.slopes else None)

    def _hand_on(self, name: str, share: Array, entry: list[Total], sure: bool) -> None:
        """Add a share, and its entry in the books, to what a value has received so far from its other consumers."""
        if name in self.carried:
            received = self.carried[name], self.received[name]
            share, entry = self.traces.call(_added, _added, (received, (share, entry)))
        self.carried[name], self.received[name] = share, entry
        self.signless[name] = sure and self.signless.get(name, True)


_Received: TypeAlias = "tuple[Array, list[Total]]"


def _added(received: tuple[_Received, _Received]) -> _Received:
    """What a value has received, and what it receives now, with their totals, added up."""
    (R, entry), (share, new) = received
    return _plus(R, share), jax.tree.map(jnp.add, entry, new)


def _plus(R: Array, share: Array) -> Array:
    """The sum of two shares, each rounded before.

    XLA would add up anew, for every reader, all that a residual stream has received: the square of the depth. And where
    no books read a share that is a product, it would multiply and add at once, without rounding the product.
    """
    R, share = lax.optimization_barrier((R, share))
    return lax.optimization_barrier(R + share)


def site_of(step: Step, values: Values, reference: Values | None = None) -> Site:
    """What a rule sees of an equation."""
    eqn, op = step.eqn, OPS[step.eqn.op]
    operands, result = tuple(values[var.name] for var in eqn.invars), values[eqn.outvars[0].name]
    compared = site_of(step, reference) if reference is not None else None
    signs = step.nonnegative
    return Site(op, eqn.params, step.kind, step.bears, step.saturation, signs, step.gate, operands, result, compared)


class OverTime(NamedTuple):
    """Shares of a scan's operands, and the books of its body's nodes, added up over time."""

    shares: Shares
    books: Books


def walk_over_time(
    step: Step,
    values: Values,
    found: Mapping[str, Array],
    *,
    nonnegative: bool,
    reference: Values | None = None,
    ledger: str | None = NODES,
) -> OverTime:
    """Hand the relevance of a scan's results on to first states, sequences and constants.

    Args:
        step: The scan.
        values: Every value of the forward pass outside, by name.
        found: Relevance of the scan's results, by name; those without are left out.
        nonnegative: Whether that is known not to be negative anywhere.
        reference: Every value at the reference input, for modes that compare with one.
        ledger: Of what books are kept.
    """
    moving, fixed = steps_values(step, values)
    compared, compared_fixed = steps_values(step, reference) if reference is not None else ({}, {})
    backwards = _Backwards(step, fixed, compared_fixed, nonnegative, ledger)
    states, results = arriving(step, values, found)
    constants = {i: blank(backwards.plan, values[step.eqn.invars[i].name], found) for i in backwards.constants}
    length, reverse = step.eqn.params["length"], not step.eqn.params["reverse"]
    (first, constants), (series, books) = lax.scan(
        backwards.step, (states, constants), (moving, compared, results), length=length, reverse=reverse
    )
    placed = {i: jnp.moveaxis(R, 1, 0) if backwards.plan.paired else R for i, R in series.items()}
    return OverTime({**first, **placed, **constants}, jax.tree.map(partial(jnp.sum, axis=0), books))


class _Backwards:
    """One step of the walk over time, as `lax.scan` takes it."""

    def __init__(
        self, step: Step, fixed: Values, compared_fixed: Values, nonnegative: bool, ledger: str | None
    ) -> None:
        self.plan, self.nonnegative, self.ledger = body_of(step), nonnegative, ledger
        self.fixed, self.compared_fixed = fixed, compared_fixed
        self.reached = positions(self.plan.graph.inputs, (var.name for var in self.plan.inputs))
        changing = step.eqn.params["states"] + step.eqn.params["sequences"]
        self.constants = [i for i in self.reached if i >= changing]

    def step(
        self, carried: tuple[Relevance, Relevance], given: tuple[Values, Values, Relevance]
    ) -> tuple[tuple[Relevance, Relevance], tuple[Relevance, Books]]:
        """From the relevance of new states and results to that of old states, and of one entry of each sequence."""
        (behind, summed), (moving, compared, results) = carried, given
        shares, books = self._walk(moving, compared, by_name(self.plan, behind, results))
        kept = {i: shares.get(i, jnp.zeros_like(R)) for i, R in behind.items()}
        summed = {i: _plus(summed[i], shares[i]) for i in self.constants}
        series = {i: R for i, R in shares.items() if i not in kept and i not in summed}
        return (kept, summed), (series, books)

    def _walk(self, moving: Values, compared: Values, starts: dict[str, Array]) -> OverTime:
        now, then = {**self.fixed, **moving}, {**self.compared_fixed, **compared} or None
        how = {"nonnegative": self.nonnegative, "reference": then, "ledger": self.ledger}
        relevance, books = walk(self.plan, now, starts, **how)
        names = {i: self.plan.graph.inputs[i].name for i in self.reached}
        shares = {i: relevance.get(name, blank(self.plan, now[name], starts)) for i, name in names.items()}
        return OverTime(shares, books)
