"""The forward pass over a graph, giving every value for the relevance walk."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from jax import lax

from backtrace_jax.ir import Eqn, Graph
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
