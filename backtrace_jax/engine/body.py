"""What a walk over time needs of a scan's body: its values at every step, and the relevance that arrives from outside.

The forward scan has kept the states before each step. From them the values of all steps are computed at once, side by
side rather than one after the other; only the walk itself goes through time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from backtrace_jax.ops import run

from .steps import Plan, Step

Values: TypeAlias = Mapping[str, Any]
"""Values by name."""
Relevance: TypeAlias = dict[int, Array]
"""Relevance by position among the body's inputs or outputs."""


def body_of(step: Step) -> Plan:
    """The plan of a scan's body."""
    assert step.body is not None
    return step.body


def steps_values(step: Step, values: Values) -> tuple[dict[str, Array], dict[str, Array]]:
    """Values of the body that the walk reads: those of all steps, [length, ...], and those that never change."""
    body, params = body_of(step).graph, step.eqn.params
    states, changing = params["states"], params["states"] + params["sequences"]
    outside = [values[var.name] for var in step.eqn.invars]
    before = [values[var.name] for var in step.eqn.outvars[len(step.eqn.outvars) - states :]]
    moving = {var.name: x for var, x in zip(body.inputs, (*before, *outside[states:changing]), strict=False)}
    fixed = {var.name: x for var, x in zip(body.inputs[changing:], outside[changing:], strict=True)}
    computed = jax.vmap(lambda now: run(body.eqns, {**fixed, **now}), out_axes=0, axis_size=params["length"])(moving)
    return {name: x for name, x in computed.items() if name not in fixed}, fixed


def arriving(step: Step, values: Values, found: Mapping[str, Array]) -> tuple[Relevance, Relevance]:
    """Relevance of the last states, zero where none has arrived, and of the results of all steps, time first."""
    plan, states = body_of(step), step.eqn.params["states"]
    bearing = positions(plan.graph.outputs, (var.name for var in plan.outputs))
    outer = step.eqn.outvars
    last = {i: found.get(outer[i].name, blank(plan, values[outer[i].name], found)) for i in bearing if i < states}
    results = {i: found[outer[i].name] for i in bearing if i >= states and outer[i].name in found}
    return last, {i: jnp.moveaxis(R, 0, 1) if plan.paired else R for i, R in results.items()}


def positions(variables: Iterable[Any], names: Iterable[str]) -> list[int]:
    """Positions of the variables of these names."""
    wanted = set(names)
    return [i for i, var in enumerate(variables) if var.name in wanted]


def by_name(plan: Plan, *arriving: Relevance) -> dict[str, Array]:
    """Relevance of the body's outputs; one value may be both a state and a result."""
    starts: dict[str, Array] = {}
    for i, R in (item for each in arriving for item in each.items()):
        name = plan.graph.outputs[i].name
        starts[name] = starts[name] + R if name in starts else R
    return starts


def blank(plan: Plan, like: Array, found: Mapping[str, Array]) -> Array:
    """No relevance yet for a value; that of integers has the float type of what has arrived."""
    dtype = like.dtype if jnp.issubdtype(like.dtype, jnp.inexact) else next(iter(found.values())).dtype
    return jnp.zeros((2, *like.shape) if plan.paired else like.shape, dtype)
