"""What of a call decides what is compiled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import numpy as np

from backtrace_jax.batch import Leaving
from backtrace_jax.ir import Graph, Var
from backtrace_jax.question.tasks import Task
from backtrace_jax.question.words import Question

from .compile import Constant

Shapes: TypeAlias = "tuple[tuple[str, tuple[int, ...]], ...]"


@dataclass(frozen=True)
class Form:
    """What of a call decides what is compiled: shapes, and which of the optional arguments it has.

    Attributes:
        shapes: (input name, shape of one example without batch axis) of every input.
        task: How relevance starts.
        custom: Whether the user passes the start relevance.
        contrasted: Whether the target is contrasted with another class.
        reference: Names of the inputs that a baseline is given for.
        conditions: Names of the values that conditions are given for.
        rows: Examples that one run of the graph takes: more than one where the file fixes its batch.
        leaving: Where each output holds the examples; None where all are batch first as they come.
        many: Whether several questions are asked about each example.
    """

    shapes: Shapes
    task: Task
    custom: bool = False
    contrasted: bool = False
    reference: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    rows: int = 1
    leaving: tuple[Leaving, ...] | None = None
    many: bool = False


def chunk_types(
    graph: Graph, output: Var, chunk: int, form: Form, at_once: int | None
) -> tuple[dict[str, Any], Question]:
    """Types of the inputs and the questions of a chunk."""
    inputs = {var.name: jax.ShapeDtypeStruct((chunk, *var.shape), var.dtype) for var in graph.inputs}
    each = (chunk,) if at_once is None else (chunk, at_once)
    index = jax.ShapeDtypeStruct(each if form.rows == 1 else (*each, form.rows), np.int64)
    start = jax.ShapeDtypeStruct((*each, *output.shape), output.dtype) if form.custom else None
    return inputs, Question(index, index, index, start)


def constant_types(graph: Graph, form: Form, masked: Mapping[str, Var]) -> Constant:
    """Types of what all examples share."""
    reference = {v.name: jax.ShapeDtypeStruct(v.shape, v.dtype) for v in graph.inputs if v.name in form.reference}
    return Constant(reference, {v.name: jax.ShapeDtypeStruct(v.shape, v.dtype) for v in masked.values()})
