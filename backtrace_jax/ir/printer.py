"""Prints a graph the way a jaxpr reads, with the module or node each equation came from."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..texts import printable
from .graph import Eqn, Graph, Var

_SHORT = {"float": "f", "int": "i", "uint": "u", "complex": "c", "bfloat": "bf"}


def format_var(var: Var) -> str:
    """`name:f32[1,3,224,224]`."""
    return f"{printable(var.name)}:{format_dtype(var.dtype)}[{','.join(map(str, var.shape))}]"


def format_dtype(dtype: np.dtype) -> str:
    """`f32` for float32, `i64` for int64, the plain name for others."""
    letters = dtype.name.rstrip("0123456789")
    bits = dtype.name[len(letters) :]
    return _SHORT[letters] + bits if letters in _SHORT and bits else dtype.name


def format_eqn(eqn: Eqn) -> str:
    """One equation on a line of its own (sub-graphs of control flow below it)."""
    targets = " ".join(map(format_var, eqn.outvars))
    settings = " ".join(f"{name}={_format_param(value)}" for name, value in eqn.params.items())
    operands = " ".join(printable(var.name) for var in eqn.invars)
    origin = printable(eqn.source.module or eqn.source.node)
    return f"{targets} = {eqn.op}[{settings}] {operands}" + (f"  # {origin}" if origin else "")


def _format_param(value: Any) -> str:
    if isinstance(value, Graph):
        return "\n" + _indent(format_graph(value)) + "\n"
    if isinstance(value, tuple):
        return "(" + ",".join(map(_format_param, value)) + ")"
    return str(value)


def _indent(text: str) -> str:
    return "\n".join("    " + line for line in text.splitlines())


def format_graph(graph: Graph) -> str:
    """The whole graph, `{ lambda params ; inputs . let equations in outputs }`."""
    params = " ".join(map(format_var, graph.params))
    inputs = " ".join(map(format_var, graph.inputs))
    outputs = ", ".join(printable(var.name) for var in graph.outputs)
    lines = [f"{{ lambda {params} ; {inputs} . let", *(_indent(format_eqn(eqn)) for eqn in graph.eqns)]
    return "\n".join([*lines, f"  in ({outputs}) }}"])
