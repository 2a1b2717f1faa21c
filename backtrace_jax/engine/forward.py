"""The forward pass over a graph, giving every value for the relevance walk."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any, TypeAlias

import jax
from jax import Array, lax

from backtrace_jax.ir import Eqn, Graph
from backtrace_jax.ops import compute
from backtrace_jax.rules import WEIGHTED
from backtrace_jax.runtime.numerics import Device

from .pieces import compile_function

Weights: TypeAlias = Mapping[str, Any]
Forward: TypeAlias = Callable[[Weights, Any], tuple[Array, ...]]

_STORED = frozenset({*WEIGHTED, "avg_pool", "reduce_mean", "reduce_sum"})
"""Operations whose operands are computed once and kept.

Products read memory anyway, and XLA would compute their operands anew for every other reader in the relevance walk. A
convolution that it has fused with the mean after it gets one thread on the CPU.
"""


def forward(
    graph: Graph,
    weights: Mapping[str, Any],
    inputs: Mapping[str, Any],
    given: Mapping[str, Any] | None = None,
    kept: Collection[str] = (),
) -> dict[str, Any]:
    """Compute every value of the graph.

    Args:
        graph: The graph.
        weights: Array of each of the graph's params, by name.
        inputs: Array of each of the graph's inputs, by name.
        given: Inputs and computed values that are taken as given here instead.
        kept: Names of values that the walk reads when all others are gone.

    Returns:
        Array of every value, by name.
    """
    given = given or {}
    eqns = [eqn for eqn in graph.eqns if not any(var.name in given for var in eqn.outvars)]
    return computed(eqns, {**weights, **inputs, **given}, {*stored(graph), *kept})


def stored(graph: Graph) -> set[str]:
    """Names of the values that are computed once and kept."""
    return {var.name for eqn in graph.eqns if eqn.op in _STORED for var in eqn.invars}


def computed(eqns: Iterable[Eqn], values: Mapping[str, Any], stored: Collection[str]) -> dict[str, Any]:
    """These values, and the results of equations that are computed from them."""
    values = dict(values)
    for eqn in eqns:
        found = compute(eqn, values)
        values |= {name: lax.optimization_barrier(x) if name in stored else x for name, x in found.items()}
    return values


def compile_forward(graph: Graph, weights: Weights, inputs: Any, *, device: Device | None = None) -> Forward:
    """Compile the forward pass at the graph's own shapes: (weights, inputs) -> tuple of outputs."""
    return compile_function(partial(outputs_of, graph), weights, inputs, device=device or jax.local_devices()[0])


def compile_batched_forward(graph: Graph, weights: Weights, inputs: Any) -> Forward:
    """Compile the forward pass for a chunk of examples: (weights, inputs) -> tuple of outputs, chunk first."""

    def batched(weights: Weights, inputs: Any) -> tuple[Array, ...]:
        return jax.vmap(lambda example: outputs_of(graph, weights, example))(inputs)

    return compile_function(batched, weights, inputs, device=jax.local_devices()[0])


def outputs_of(graph: Graph, weights: Weights, inputs: Mapping[str, Any]) -> tuple[Array, ...]:
    """The outputs of a graph."""
    values = forward(graph, weights, inputs)
    return tuple(values[var.name] for var in graph.outputs)
