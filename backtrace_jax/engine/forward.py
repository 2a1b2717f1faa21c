"""The forward pass over a graph, keeping every value for the relevance walk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jax import lax

from backtrace_jax.ir import Graph
from backtrace_jax.ops import compute
from backtrace_jax.rules import WEIGHTED

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
) -> dict[str, Any]:
    """Compute every value of the graph.

    Args:
        graph: The graph.
        weights: Array of each of the graph's params, by name.
        inputs: Array of each of the graph's inputs, by name.
        given: Inputs and computed values that are taken as given here instead.

    Returns:
        Array of every value, by name.
    """
    stored = {var.name for eqn in graph.eqns if eqn.op in _STORED for var in eqn.invars}
    given = given or {}
    values = {**weights, **inputs, **given}
    for eqn in graph.eqns:
        if not any(var.name in given for var in eqn.outvars):
            found = compute(eqn, values)
            values |= {name: lax.optimization_barrier(x) if name in stored else x for name, x in found.items()}
    return values
