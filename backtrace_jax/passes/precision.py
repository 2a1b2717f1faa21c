"""Changes the floating-point type a program computes in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..ir import Eqn, Graph, Program, Var, check

_SINGLE = np.dtype(np.float32)


def with_float_type(program: Program, dtype: np.dtype) -> Program:
    """The same program with every float32 value, weight and cast in another float type (float64 for audits)."""
    if dtype == _SINGLE:
        return program
    weights = {
        name: array.astype(dtype) if array.dtype == _SINGLE else array for name, array in program.weights.items()
    }
    return Program(check(_retyped_graph(program.graph, dtype)), weights)


def _retyped_graph(graph: Graph, dtype: np.dtype) -> Graph:
    inputs, params, outputs = (_retyped(v, dtype) for v in (graph.inputs, graph.params, graph.outputs))
    eqns = tuple(_retyped_eqn(eqn, dtype) for eqn in graph.eqns)
    return replace(graph, inputs=inputs, params=params, eqns=eqns, outputs=outputs)


def _retyped(variables: tuple[Var, ...], dtype: np.dtype) -> tuple[Var, ...]:
    return tuple(replace(var, dtype=dtype) if var.dtype == _SINGLE else var for var in variables)


def _retyped_eqn(eqn: Eqn, dtype: np.dtype) -> Eqn:
    params = {name: _retyped_param(value, dtype) for name, value in eqn.params.items()}
    return replace(eqn, invars=_retyped(eqn.invars, dtype), outvars=_retyped(eqn.outvars, dtype), params=params)


def _retyped_param(value: Any, dtype: np.dtype) -> Any:
    if isinstance(value, Graph):
        return _retyped_graph(value, dtype)
    return dtype.name if isinstance(value, str) and value == _SINGLE.name else value
