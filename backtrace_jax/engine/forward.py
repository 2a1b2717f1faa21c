"""The forward pass over a graph, keeping every value for the relevance walk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..ir import Eqn, Graph
from ..ops import OPS


def forward(graph: Graph, weights: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Compute every value of the graph.

    Args:
        graph: The graph.
        weights: Array of each of the graph's params, by name.
        inputs: Array of each of the graph's inputs, by name.

    Returns:
        Array of every value, by name.
    """
    values = {**weights, **inputs}
    for eqn in graph.eqns:
        values.update(compute(eqn, values))
    return values


def compute(eqn: Eqn, values: Mapping[str, Any]) -> dict[str, Any]:
    """Results of one equation, by name."""
    op = OPS[eqn.op]
    results = op(*(values[var.name] for var in eqn.invars), **eqn.params)
    return {var.name: result for var, result in zip(eqn.outvars, results if op.many else (results,), strict=True)}
