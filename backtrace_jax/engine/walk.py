"""The relevance walk: reads the equations backwards, hands relevance on by their rules, and keeps the books."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from ..ops import OPS
from ..rules import BIAS, CONSTANT, DEAD, STABILISER, Shares, Site
from .plan import Plan, Step

KEPT = (BIAS, CONSTANT, STABILISER, DEAD)


class Books(NamedTuple):
    """What happened to the relevance, step by step of the plan.

    Attributes:
        signed: [steps, 6] totals: received, handed on, then what was kept back by cause (`KEPT`).
        absolute: [steps, 6] the same of magnitudes, so that errors that cancel show.
    """

    signed: Array
    absolute: Array


def walk(plan: Plan, values: Mapping[str, Array], start: Array) -> tuple[dict[str, Array], Books]:
    """Walk relevance back from the output.

    Args:
        plan: Which rule each equation gets.
        values: Every value of the forward pass, by name.
        start: Relevance of the output, in its shape.

    Returns:
        Relevance of every value it reached, by name, and the books.
    """
    found = {plan.output.name: start}
    rows = []
    for step in plan.steps:
        received = found[step.eqn.outvars[0].name]
        shares, kept = step.rule.apply(_site(step, values), received)
        causes = {cause: [kept[cause]] if cause in kept else [] for cause in KEPT}
        causes[CONSTANT] += [share for i, share in shares.items() if not step.bears[i]]
        handed = _hand_on(step, shares, found)
        rows.append([_totals([received]), _totals(handed), *map(_totals, causes.values())])
    return found, Books(*(jnp.array([[cell[k] for cell in row] for row in rows]).reshape(-1, 6) for k in (0, 1)))


def _site(step: Step, values: Mapping[str, Array]) -> Site:
    eqn = step.eqn
    operands = tuple(values[var.name] for var in eqn.invars)
    result = values[eqn.outvars[0].name]
    return Site(OPS[eqn.op], eqn.params, step.kind, step.bears, step.saturation, step.nonnegative, operands, result)


def _hand_on(step: Step, shares: Shares, found: dict[str, Array]) -> list[Array]:
    """Add each share to what its operand has received so far; a value with several consumers gets the sum."""
    handed = [(step.eqn.invars[i].name, share) for i, share in shares.items() if step.bears[i]]
    for name, share in handed:
        found[name] = found[name] + share if name in found else share
    return [share for _, share in handed]


def _totals(arrays: Iterable[Array]) -> tuple[Array, Array]:
    """Signed and absolute total, added up in float64 so that the books show the rules' rounding, not their own."""
    wide = [array.astype(jnp.float64) for array in arrays]
    zero = jnp.zeros((), jnp.float64)
    return sum(map(jnp.sum, wide), zero), sum((jnp.sum(jnp.abs(array)) for array in wide), zero)
