"""Changes the floating-point type a program computes in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..ir import Eqn, Program, Var, check

_SINGLE = np.dtype(np.float32)


def with_float_type(program: Program, dtype: np.dtype) -> Program:
    """The same program with every float32 value, weight and cast in another float type (float64 for audits)."""
    if dtype == _SINGLE:
        return program
    graph = program.graph
    inputs, params, outputs = (_retyped(v, dtype) for v in (graph.inputs, graph.params, graph.outputs))
    eqns = tuple(_retyped_eqn(eqn, dtype) for eqn in graph.eqns)
    weights = {
        name: array.astype(dtype) if array.dtype == _SINGLE else array for name, array in program.weights.items()
    }
    changed = replace(graph, inputs=inputs, params=params, eqns=eqns, outputs=outputs)
    return Program(check(changed), weights)


def _retyped(variables: tuple[Var, ...], dtype: np.dtype) -> tuple[Var, ...]:
    return tuple(replace(var, dtype=dtype) if var.dtype == _SINGLE else var for var in variables)


def _retyped_eqn(eqn: Eqn, dtype: np.dtype) -> Eqn:
    params = {**eqn.params, "dtype": dtype.name} if eqn.params.get("dtype") == _SINGLE.name else eqn.params
    return replace(eqn, invars=_retyped(eqn.invars, dtype), outvars=_retyped(eqn.outvars, dtype), params=params)
