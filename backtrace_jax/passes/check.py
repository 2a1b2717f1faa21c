"""Verifies that a graph is well formed: names unique, operands defined, shapes and dtypes what the operations give."""

from __future__ import annotations

from backtrace_jax.errors import ModelError
from backtrace_jax.ir.graph import Eqn, Graph, Var
from backtrace_jax.ops import result_types


def check(graph: Graph) -> Graph:
    """Return the graph if it is well formed.

    Raises:
        ModelError: Naming the equation and what is wrong with it.
    """
    defined: dict[str, Var] = {}
    for var in (*graph.inputs, *graph.params):
        _define(var, defined, "the graph's arguments")
    for eqn in graph.eqns:
        for body in eqn.bodies:
            check(body)
        _check_operands(eqn, defined)
        _check_results(eqn)
        for var in eqn.outvars:
            _define(var, defined, str(eqn))
    for var in graph.outputs:
        if defined.get(var.name) != var:
            raise ModelError(f"graph output {var.name!r} is not computed by the graph")
    return graph


def _define(var: Var, defined: dict[str, Var], where: str) -> None:
    if var.name in defined:
        raise ModelError(f"value {var.name!r} is defined twice, the second time in: {where}")
    defined[var.name] = var


def _check_operands(eqn: Eqn, defined: dict[str, Var]) -> None:
    for var in eqn.invars:
        if defined.get(var.name) != var:
            raise ModelError(f"operand {var.name!r} is not defined, or with another type, before: {eqn}")


def _check_results(eqn: Eqn) -> None:
    found = [(var.shape, var.dtype) for var in eqn.outvars]
    expected = result_types(eqn.op, eqn.invars, eqn.params)
    if found != expected:
        raise ModelError(f"results should be {expected}, found {found}, in: {eqn}")
