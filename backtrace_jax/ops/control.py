"""Control flow: a body graph run over time. LSTM, GRU, RNN, `Scan` and counted loops are all this one operation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from jax import Array, lax

from .registry import CONTROL, NONE, OPS, register

if TYPE_CHECKING:
    from backtrace_jax.ir import Eqn, Graph


def compute(eqn: Eqn, values: Mapping[str, Any]) -> dict[str, Any]:
    """Results of one equation, by name."""
    op = OPS[eqn.op]
    results = op(*(values[var.name] for var in eqn.invars), **eqn.params)
    return {var.name: result for var, result in zip(eqn.outvars, results if op.many else (results,), strict=True)}


def run(eqns: Iterable[Eqn], values: Mapping[str, Any]) -> dict[str, Any]:
    """Compute equations one after the other.

    Args:
        eqns: The equations, in the order of computation.
        values: What they read that none of them computes, by name.

    Returns:
        `values` and every result, by name.
    """
    found = dict(values)
    for eqn in eqns:
        found.update(compute(eqn, found))
    return found


def scan(*operands: Array, body: Graph, states: int, sequences: int, length: int, reverse: bool) -> tuple[Array, ...]:
    """Run a body once per time step, handing its states on.

    Args:
        operands: First states, then sequences [length, ...], then constants that every step reads.
        body: Takes states, one entry of each sequence, and constants; returns new states and one entry of each result.
        states: How many states there are.
        sequences: How many sequences there are.
        length: Number of steps.
        reverse: Whether time runs backwards; results keep the positions of the sequences.

    Returns:
        Last states, results of all steps [length, ...], and the states *before* each step [length, ...], from which the
        relevance walk computes every step's values anew.
    """
    constants = operands[states + sequences :]

    def step(carried: tuple[Array, ...], entries: tuple[Array, ...]) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        given = zip(body.inputs, (*carried, *entries, *constants), strict=True)
        found = run(body.eqns, {var.name: value for var, value in given})
        results = tuple(found[var.name] for var in body.outputs)
        return results[:states], (*results[states:], *carried)

    first, series = operands[:states], operands[states : states + sequences]
    last, stacked = lax.scan(step, tuple(first), tuple(series), length=length, reverse=reverse)
    return (*last, *stacked)


def entrywise(*operands: Array, function: Graph) -> Array:
    """A function of the first operand's entries, each on its own, and of constants."""
    given = {var.name: value for var, value in zip(function.inputs, operands, strict=True)}
    return run(function.eqns, given)[function.outputs[0].name]


register(CONTROL, {"scan": scan}, many=True)
register(NONE, {"entrywise": entrywise})  # integers, for indices worked out in floats
