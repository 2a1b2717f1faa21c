"""Compiles an explanation: forward pass, start relevance and relevance walk of one example, batched by `vmap`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ..ir import Graph, Program
from ..numerics import COMPILER_OPTIONS, Device, exact_types
from ..tasks import Task
from .forward import forward
from .plan import Plan
from .walk import Books, totals, walk


class Result(NamedTuple):
    """What one compiled call gives for a chunk of examples; every array has the chunk as its first axis.

    Arrays are JAX's where they are computed and NumPy's once they are on the host.

    Attributes:
        outputs: Every output of the model, by name.
        target: Flat index of the explained unit, -1 for all.
        start: Total start relevance, signed and absolute.
        relevance: Relevance of the inputs that bear it, by name.
        layers: Relevance of the values asked for.
        books: What every step of the plan received, handed on and kept.
    """

    outputs: dict[str, Any]
    target: Any
    start: Any
    relevance: dict[str, Any]
    layers: dict[str, Any]
    books: Books


Weights = Mapping[str, Any]
Explain = Callable[[Weights, dict[str, Any], Any, Any], Result]
Forward = Callable[[Weights, Any], tuple[Array, ...]]


@dataclass(frozen=True)
class Request:
    """What is compiled: a plan, how relevance starts, and the names of the values whose relevance is kept."""

    plan: Plan
    task: Task
    layers: Mapping[str, str]
    precision: str


def explain_example(request: Request, weights: Weights, inputs: Mapping[str, Any], target: Array, given: Any) -> Result:
    """Explain one example; pure, for `vmap` and `jit`."""
    plan = request.plan
    graph = plan.graph
    values = forward(graph, weights, inputs)
    start, chosen = request.task.start(values[plan.output.name], target, given)
    found, books = walk(plan, values, start, nonnegative=request.task.nonnegative)
    return Result(
        {name: values[var.name] for name, var in zip(graph.output_names, graph.outputs, strict=True)},
        chosen,
        totals(start, request.task.nonnegative),
        {var.name: found[var.name] for var in plan.inputs},
        {key: _relevance(found, values, name, start) for key, name in request.layers.items()},
        books,
    )


def _relevance(found: Mapping[str, Array], values: Mapping[str, Array], name: str, start: Array) -> Array:
    """Relevance of a value; a value the walk does not pass has none."""
    return found[name] if name in found else jnp.zeros(values[name].shape, start.dtype)


def compile_explain(request: Request, weights: Weights, examples: Any, device: Device) -> Explain:
    """Compile for chunks shaped like `examples` = (inputs, target, given), on one device; weights stay arguments."""

    def batched(weights: Weights, inputs: Any, target: Any, given: Any) -> Result:
        return jax.vmap(lambda *one: explain_example(request, weights, *one))(inputs, target, given)

    with exact_types(request.precision), jax.default_device(device):
        lowered = jax.jit(batched).lower(weights, *examples)
        return lowered.compile(compiler_options=COMPILER_OPTIONS.get(device.platform, {}))


def compile_forward(graph: Graph, weights: Weights, inputs: Any, *, precision: str = "highest") -> Forward:
    """Compile the forward pass at the graph's own shapes: (weights, inputs) -> tuple of outputs."""
    return _compiled(lambda weights, inputs: _outputs(graph, weights, inputs), weights, inputs, precision)


def compile_batched_forward(graph: Graph, weights: Weights, inputs: Any, *, precision: str = "highest") -> Forward:
    """Compile the forward pass for a chunk of examples: (weights, inputs) -> tuple of outputs, chunk first."""

    def batched(weights: Weights, inputs: Any) -> tuple[Array, ...]:
        return jax.vmap(lambda example: _outputs(graph, weights, example))(inputs)

    return _compiled(batched, weights, inputs, precision)


def _compiled(function: Forward, weights: Weights, inputs: Any, precision: str) -> Forward:
    with exact_types(precision):
        return jax.jit(function).lower(weights, inputs).compile()


def _outputs(graph: Graph, weights: Weights, inputs: Mapping[str, Any]) -> tuple[Array, ...]:
    values = forward(graph, weights, inputs)
    return tuple(values[var.name] for var in graph.outputs)


def cost(program: Program) -> float:
    """Floating-point operations of one forward pass, as XLA counts them before optimising."""
    graph = program.graph
    types = ({v.name: jax.ShapeDtypeStruct(v.shape, v.dtype) for v in group} for group in (graph.params, graph.inputs))
    with exact_types():
        lowered = jax.jit(lambda weights, inputs: _outputs(graph, weights, inputs)).lower(*types)
        analysis = lowered.cost_analysis()
    return float(analysis.get("flops", 0.0)) if analysis else 0.0
