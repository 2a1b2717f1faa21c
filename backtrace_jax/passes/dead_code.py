"""Drops equations and params that no output needs."""

from __future__ import annotations

from dataclasses import replace

from backtrace_jax.ir import Program


def drop_dead_code(program: Program) -> Program:
    """Keep only what the outputs depend on; inputs stay, used or not."""
    graph = program.graph
    needed = {var.name for var in graph.outputs}
    eqns = []
    for eqn in reversed(graph.eqns):
        if any(var.name in needed for var in eqn.outvars):
            needed.update(var.name for var in eqn.invars)
            eqns.append(eqn)
    params = tuple(var for var in graph.params if var.name in needed)
    weights = {var.name: program.weights[var.name] for var in params}
    return Program(replace(graph, params=params, eqns=tuple(reversed(eqns))), weights)
