"""The forward pass over a graph, keeping every value for the relevance walk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..ir import Graph
from ..ops import run


def forward(
    graph: Graph, weights: Mapping[str, Any], inputs: Mapping[str, Any], given: Mapping[str, Any] | None = None
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
    given = given or {}
    eqns = [eqn for eqn in graph.eqns if not any(var.name in given for var in eqn.outvars)]
    return run(eqns, {**weights, **inputs, **given})
