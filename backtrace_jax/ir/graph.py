"""Frozen graph data: variables, equations, graphs, and a graph together with its weights; printed as a jaxpr is.

A graph is a list of equations in the order of computation, `outvars = op[params] invars`, as a jaxpr is. It is
specialised to the shapes of one example (batch axis of size 1); the engine adds the batch by `vmap`. Weights are named
by variables and kept beside the graph, never inside it, so that they can be arguments of the compiled function.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backtrace_jax.errors.texts import printable


@dataclass(frozen=True, slots=True)
class Var:
    """A value of the graph: its name (unique in the graph), shape and dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def is_float(self) -> bool:
        """Whether the values are floating-point numbers (bfloat16 and its kind included)."""
        return not (self.is_integer or self.dtype == np.bool_)

    @property
    def is_integer(self) -> bool:
        """Whether the values are integers, signed or not (those of fewer than 8 bits included)."""
        return self.dtype.name.startswith(("int", "uint"))


@dataclass(frozen=True, slots=True)
class Source:
    """Where an equation came from.

    Attributes:
        node: Name of the node.
        operator: Qualified operator.
        module: Path of the framework's module, where the exporter left one.
        calls: The modules around it from the outside in, each with the number of its call behind the first one
            (`block`, `block:1`); empty where the exporter kept no count.
    """

    node: str = ""
    operator: str = ""
    module: str = ""
    calls: tuple[str, ...] = ()


@dataclass(frozen=True)
class Eqn:
    """One equation: `outvars = op[params] invars`; sub-graphs are params."""

    op: str
    invars: tuple[Var, ...]
    outvars: tuple[Var, ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    source: Source = Source()

    @property
    def bodies(self) -> tuple[Graph, ...]:
        """The sub-graphs among the params."""
        return tuple(value for value in self.params.values() if isinstance(value, Graph))

    def __str__(self) -> str:
        from .graph import format_eqn

        return format_eqn(self)


@dataclass(frozen=True)
class Graph:
    """A graph of equations.

    Attributes:
        inputs: What the user passes, one example (batch axis of size 1).
        params: Weights and constants, passed beside the inputs.
        eqns: Equations in the order of computation; every operand is defined before it is used.
        outputs: Values returned; may be inputs or params.
        output_names: The model's own name of each output.
        turned: Names of the values held with channels as their last axis, where the model has them after the batch.
    """

    inputs: tuple[Var, ...]
    params: tuple[Var, ...]
    eqns: tuple[Eqn, ...]
    outputs: tuple[Var, ...]
    output_names: tuple[str, ...]
    turned: frozenset[str] = frozenset()

    def __str__(self) -> str:
        from .graph import format_graph

        return format_graph(self)

    def __hash__(self) -> int:
        """Graphs are settings of control flow, and settings are keys of caches."""
        return hash(str(self))

    def variables(self) -> Iterator[Var]:
        """Every value of the graph in the order of definition."""
        yield from self.inputs
        yield from self.params
        for eqn in self.eqns:
            yield from eqn.outvars

    def producers(self) -> dict[str, Eqn]:
        """The equation that computes each value, by the value's name."""
        return {var.name: eqn for eqn in self.eqns for var in eqn.outvars}

    def consumers(self) -> dict[str, list[Eqn]]:
        """The equations that read each value, by the value's name; one entry per operand that reads it."""
        readers: dict[str, list[Eqn]] = {var.name: [] for var in self.variables()}
        for eqn in self.eqns:
            for var in eqn.invars:
                readers[var.name].append(eqn)
        return readers


@dataclass(frozen=True)
class Program:
    """A graph and its weights.

    Attributes:
        graph: The graph.
        weights: Array of each of `graph.params`, by name.
    """

    graph: Graph
    weights: Mapping[str, np.ndarray]


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
