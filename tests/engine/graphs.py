"""Small graphs for the engine's tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from backtrace_jax.analysis.bearing import bearing, bearing_inputs
from backtrace_jax.engine.plan import plan_walk
from backtrace_jax.engine.steps import Plan, Step
from backtrace_jax.ir import Program
from backtrace_jax.passes.build import Builder
from backtrace_jax.passes.check import check
from backtrace_jax.rules import find_mode

DOUBLE, SINGLE, INDEX, BOOL = map(np.dtype, (np.float64, np.float32, np.int64, np.bool_))


def program(build: Callable[..., Any], **inputs: tuple[tuple[int, ...], np.dtype]) -> Program:
    """A program on inputs given as name=(shape, dtype); `build` takes a builder and them, and gives the output(s).

    A result of `build` that is no mapping is the one output y.
    """
    builder = Builder()
    variables = [builder.input(name, shape, dtype) for name, (shape, dtype) in inputs.items()]
    result = build(builder, *variables)
    made = builder.finish(result if isinstance(result, Mapping) else {"y": result})
    check(made.graph)
    return made


def plan_of(program: Program, output: int = 0, wrt: tuple[str, ...] | None = None) -> Plan:
    """The walk in mode "default"."""
    return plan_walk(program.graph, find_mode("default"), program.graph.outputs[output], wrt)


def step_of(program: Program, op: str, wrt: tuple[str, ...] | None = None) -> Step:
    """The only step of an operation."""
    (step,) = [step for step in plan_of(program, wrt=wrt).steps if step.eqn.op == op]
    return step


def bears(program: Program, wrt: tuple[str, ...] | None = None) -> set[str]:
    """Names of the values that bear relevance."""
    return set(bearing(program.graph, bearing_inputs(program.graph, wrt)))


def jax_arrays(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The same arrays on the device; to be called where 64-bit types are kept."""
    return {name: jnp.asarray(array) for name, array in arrays.items()}
