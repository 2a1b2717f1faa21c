"""Graphs that unfold: chains, loops, functions that call functions, nodes with very many operands."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..corpus import graph, node
from .picking import ABSURD, Generator, pick


def inserted(model: onnx.ModelProto, rng: Generator, nodes: list[onnx.NodeProto], first: str, last: str) -> None:
    """Put nodes between the graph's first or any value and whoever reads it."""
    reader = pick(rng, [each for each in model.graph.node if any(each.input)])
    position = next(i for i, name in enumerate(reader.input) if name)
    nodes[0].input[:] = [reader.input[position] if name == first else name for name in nodes[0].input]
    reader.input[position] = last
    place = list(model.graph.node).index(reader)
    rest = [onnx.NodeProto.FromString(each.SerializeToString()) for each in model.graph.node]
    model.graph.ClearField("node")
    model.graph.node.extend([*rest[:place], *nodes, *rest[place:]])


def doubled(model: onnx.ModelProto, rng: Generator) -> None:
    """A value joined with itself again and again."""
    count, operator = int(pick(rng, (8, 30, 60, 500))), pick(rng, ("Concat", "Add", "Mul", "MatMul"))
    settings: dict[str, Any] = {"axis": 0} if operator == "Concat" else {}
    names = ["start", *(f"doubled{i}" for i in range(count))]
    nodes = [node(operator, [a, a], [b], **settings) for a, b in pairwise(names)]
    inserted(model, rng, nodes, "start", names[-1])


def chained(model: onnx.ModelProto, rng: Generator) -> None:
    """A long chain of nodes."""
    count, operator = int(pick(rng, (50, 500, 5000))), pick(rng, ("Relu", "Identity", "Neg", "Shape", "Unsqueeze"))
    names = ["start", *(f"chained{i}" for i in range(count))]
    extra = ["chained_axes"] if operator == "Unsqueeze" else []
    if extra:
        model.graph.initializer.append(numpy_helper.from_array(np.array([0]), extra[0]))
    nodes = [node(operator, [a, *extra], [b]) for a, b in pairwise(names)]
    inserted(model, rng, nodes, "start", names[-1])


def calling_itself(model: onnx.ModelProto, rng: Generator) -> None:
    """Functions that call themselves, or two of the next level each."""
    depth = int(pick(rng, (1, 3, 16, 40, 2000)))
    cyclic = rng.random() < 0.5
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("f", 1)]
    for level in range(depth):
        inner = f"f{level + 1}" if level + 1 < depth else ("f0" if cyclic else "Relu")
        domain = "f" if inner.startswith("f") else ""
        calls = [node(inner, ["a"], ["m"], domain=domain), node(inner, ["m"], ["b"], domain=domain)]
        model.functions.append(helper.make_function("f", f"f{level}", ["a"], ["b"], calls, opsets))
    model.opset_import.append(helper.make_opsetid("f", 1))
    inserted(model, rng, [node("f0", ["start"], ["called"], domain="f")], "start", "called")


def looping(model: onnx.ModelProto, rng: Generator) -> None:
    """A loop of very many steps."""
    carried = {"i": (TensorProto.INT64, []), "c": (TensorProto.BOOL, []), "s": (TensorProto.FLOAT, [])}
    bodies = [
        [node("Identity", ["s"], ["u"])],
        [node("Concat", ["s", "s"], ["u"], axis=0)],
        [node("Tanh", ["s"], ["u"])],
        [node("Add", ["s", "s"], ["m"]), node("Unsqueeze", ["m", "loop_axes"], ["u"])],
    ]
    outputs = pick(rng, (["c", "u"], ["c", "u", "s"], ["c", "u", "i"]))
    body = graph(pick(rng, bodies), carried, outputs)
    for name, array in (
        ("loop_count", np.array(pick(rng, ABSURD))),
        ("loop_axes", np.array([0])),
        ("yes", np.array(True)),
    ):
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    given = [pick(rng, ("loop_count", "loop_count", "")), pick(rng, ("yes", "")), "start"]
    results = ["looped", *(f"all{i}" for i in range(len(outputs) - 2))]
    inserted(model, rng, [node("Loop", given, results, body=body)], "start", "looped")
