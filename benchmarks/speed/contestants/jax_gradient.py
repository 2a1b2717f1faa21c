"""The gradient of each example's top logit by JAX, over the same graph: what one backward pass costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
from jax import Array

from backtrace_jax.analysis.bearing import bearers, bearing, bearing_inputs, kind_of
from backtrace_jax.engine.forward import forward
from backtrace_jax.ir import Graph, Program, Var
from backtrace_jax.passes import drop_dead_code
from backtrace_jax.rules import EMBEDDING
from backtrace_jax.runtime.numerics import COMPILER_OPTIONS, exact_types

from ..stored import Stored
from . import Prepared
from .jax_programs import compiled, lowered


def leaves(graph: Graph) -> tuple[Var, ...]:
    """What the gradient is taken with respect to: float inputs, and rows looked up by integer ones."""
    found = bearing(graph, bearing_inputs(graph))
    rows = (eqn.outvars[0] for eqn in graph.eqns if kind_of(eqn, bearers(eqn, found)) == EMBEDDING)
    return (*(var for var in graph.inputs if var.is_float), *rows)


def top(logits: Array) -> Array:
    """The largest logit, of the last position where there are several."""
    return logits.reshape(-1, logits.shape[-1])[-1].max()


def batched_gradient(program: Program) -> Callable[[Mapping[str, Any], Mapping[str, Any]], Any]:
    """(weights, inputs) -> top logits and gradients, over a batch."""
    graph, names = program.graph, [var.name for var in leaves(program.graph)]
    looking_up = _ending_at(program, leaves(graph)).graph

    def one(weights: Mapping[str, Any], inputs: Mapping[str, Any]) -> Any:
        values = forward(looking_up, weights, inputs)

        def explained(given: dict[str, Array]) -> Array:
            return top(forward(graph, weights, inputs, given)[graph.outputs[0].name])

        return jax.value_and_grad(explained)({name: values[name] for name in names})

    return jax.vmap(one, in_axes=(None, 0))


def _ending_at(program: Program, outputs: tuple[Var, ...]) -> Program:
    graph = replace(program.graph, outputs=outputs, output_names=tuple(var.name for var in outputs))
    return drop_dead_code(replace(program, graph=graph))


def prepare(stored: Stored, batch: int, mode: str, device: str) -> Prepared:
    """The gradients of a whole batch, compiled as our own functions are."""
    program, weights, inputs = lowered(stored, batch)
    options = COMPILER_OPTIONS.get(jax.default_backend(), {})

    def compile() -> Callable[..., Any]:
        with exact_types():
            return jax.jit(batched_gradient(program)).lower(weights, inputs).compile(compiler_options=options)

    return compiled(compile, weights, inputs)
