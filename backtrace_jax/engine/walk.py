"""The relevance walk: reads the equations backwards, hands relevance on by their rules, and keeps the books."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from ..ops import OPS
from ..rules import BIAS, CONSTANT, DEAD, STABILISER, Site
from .plan import Plan, Step

KEPT = (BIAS, CONSTANT, STABILISER, DEAD)


class Books(NamedTuple):
    """What happened to the relevance, step by step of the plan.

    Attributes:
        signed: [steps, 6] totals: received, handed on, then what was kept back by cause (`KEPT`).
        absolute: [steps, 6] the same of magnitudes, so that errors that cancel show.
    """

    signed: Any
    absolute: Any


def walk(
    plan: Plan, values: Mapping[str, Array], start: Array, *, nonnegative: bool = False
) -> tuple[dict[str, Array], Books]:
    """Walk relevance back from the output.

    Args:
        plan: Which rule each equation gets.
        values: Every value of the forward pass, by name.
        start: Relevance of the output, in its shape.
        nonnegative: Whether the start is known not to be negative anywhere; the books then need one pass, not two.

    Returns:
        Relevance of every value it reached, by name, and the books.
    """
    found = {plan.output.name: start}
    received = {plan.output.name: totals(start, nonnegative)}
    signless = {plan.output.name: nonnegative}
    rows = []
    for step in plan.steps:
        name = step.eqn.outvars[0].name
        shares, kept = step.rule.apply(_site(step, values), found[name])
        sure = signless[name] and step.rule.keeps_sign
        entries = {i: totals(share, sure) for i, share in shares.items()}
        handed = [entries[i] for i in entries if step.bears[i]]
        causes = {cause: [totals(kept[cause], sure)] if cause in kept else [] for cause in KEPT}
        causes[CONSTANT] += [entries[i] for i in entries if not step.bears[i]]
        rows.append(jnp.stack([received[name], *map(_sum, (handed, *causes.values()))]))
        for i in filter(step.bears.__getitem__, shares):
            operand = step.eqn.invars[i].name
            signless[operand] = sure and signless.get(operand, True)
            _hand_on(operand, shares[i], entries[i], found, received)
    books = jnp.stack(rows) if rows else jnp.zeros((0, 2 + len(KEPT), 2), jnp.float64)
    return found, Books(books[..., 0], books[..., 1])


def _hand_on(name: str, share: Array, entry: Array, found: dict[str, Array], received: dict[str, Array]) -> None:
    """Add a share, and its entry in the books, to what a value has received so far from its other consumers."""
    found[name] = found[name] + share if name in found else share
    received[name] = received[name] + entry if name in received else entry


def _site(step: Step, values: Mapping[str, Array]) -> Site:
    eqn = step.eqn
    operands = tuple(values[var.name] for var in eqn.invars)
    result = values[eqn.outvars[0].name]
    return Site(OPS[eqn.op], eqn.params, step.kind, step.bears, step.saturation, step.nonnegative, operands, result)


def totals(array: Array, nonnegative: bool = False) -> Array:
    """Signed and absolute total, [2], in float64, so that the books show the rules' rounding and not their own."""
    signed = jnp.sum(array.astype(jnp.float64))
    # the magnitude is taken before widening: a shared float64 copy of the array would be written to memory
    absolute = signed if nonnegative else jnp.sum(jnp.abs(array).astype(jnp.float64))
    return jnp.stack([signed, absolute])


def _sum(entries: list[Array]) -> Array:
    return sum(entries, jnp.zeros(2, jnp.float64))
