"""Changes the floating-point type a program computes in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np

from backtrace_jax.ir import Eqn, Graph, Program, Var

from .check import check

_HALVES = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
_NARROW = (*_HALVES, np.dtype(np.float32))


def with_float_type(program: Program, dtype: np.dtype) -> Program:
    """The same program with every value and weight of float32 or half precision in another float type.

    A file's type is how its weights are stored, and what it would be run in where that is cheap; the walk needs more
    digits than half precision has. A cast to half precision inside the model is part of what the model computes: it
    still rounds, and its result has the wider type.
    """
    graph = _retyped_graph(program.graph, dtype)
    if graph == program.graph:
        return program
    weights = {name: array.astype(_wide(array.dtype, dtype), copy=False) for name, array in program.weights.items()}
    return Program(check(graph), weights)


def _wide(own: np.dtype, dtype: np.dtype) -> np.dtype:
    return dtype if own in _NARROW else own


def _retyped_graph(graph: Graph, dtype: np.dtype) -> Graph:
    inputs, params, outputs = (_retyped(v, dtype) for v in (graph.inputs, graph.params, graph.outputs))
    eqns = tuple(new for eqn in graph.eqns for new in _retyped_eqn(eqn, dtype))
    return replace(graph, inputs=inputs, params=params, eqns=eqns, outputs=outputs)


def _retyped(variables: tuple[Var, ...], dtype: np.dtype) -> tuple[Var, ...]:
    return tuple(replace(var, dtype=_wide(var.dtype, dtype)) for var in variables)


def _retyped_eqn(eqn: Eqn, dtype: np.dtype) -> tuple[Eqn, ...]:
    invars, outvars = _retyped(eqn.invars, dtype), _retyped(eqn.outvars, dtype)
    if eqn.op == "bitcast" and (invars, outvars) != (eqn.invars, eqn.outvars):
        return _kept(eqn, dtype)
    rounding = eqn.params["dtype"] if eqn.op == "cast" and eqn.outvars[0].dtype in _HALVES else None
    params = {
        name: value if name == "rounded" else _retyped_param(value, dtype)  # a model's own rounding stays
        for name, value in eqn.params.items()
    }
    return (replace(eqn, invars=invars, outvars=outvars, params={**params, **_rounded(eqn.invars[0], rounding)}),)


def _rounded(operand: Var, rounding: str | None) -> Mapping[str, str]:
    """Setting of a cast to half precision, unless the numbers have it already."""
    return {} if rounding is None or operand.dtype.name == rounding else {"rounded": rounding}


def _kept(eqn: Eqn, dtype: np.dtype) -> tuple[Eqn, ...]:
    """Bits are those of the file's own types: numbers are cast to and from them."""
    (operand,), (result,) = eqn.invars, eqn.outvars
    narrow, bits = replace(operand, name=f"{result.name}.narrow"), replace(result, name=f"{result.name}.bits")
    before = Eqn("cast", _retyped((operand,), dtype), (narrow,), {"dtype": operand.dtype.name}, eqn.source)
    read = replace(eqn, invars=(narrow,), outvars=(bits,))
    after = Eqn("cast", (bits,), _retyped((result,), dtype), {"dtype": _wide(result.dtype, dtype).name}, eqn.source)
    return before, read, after


def _retyped_param(value: Any, dtype: np.dtype) -> Any:
    if isinstance(value, Graph):
        return _retyped_graph(value, dtype)
    narrow = isinstance(value, str) and value in [each.name for each in _NARROW]
    return dtype.name if narrow else value
