"""Nodes and graphs that are very wide: operands, results, consumers, inputs and outputs by the thousand."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..corpus import node
from .picking import Generator, pick
from .unfolding import inserted

_MANY = (30, 300, 3000, 20_000)


def many_operands(model: onnx.ModelProto, rng: Generator) -> None:
    """One value, or known ones, as very many operands of a node."""
    count, operator = int(pick(rng, _MANY)), pick(rng, ("Sum", "Concat", "Max", "Mean", "Min", "SequenceConstruct"))
    settings: dict[str, Any] = {"axis": int(pick(rng, (0, -1, 1)))} if operator == "Concat" else {}
    model.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "single"))
    others = pick(rng, (["start"], ["start", "single"]))
    wide = node(operator, [others[i % len(others)] for i in range(count)], ["wide"], **settings)
    inserted(model, rng, [wide], "start", "wide")


def many_results(model: onnx.ModelProto, rng: Generator) -> None:
    """A value cut into very many parts."""
    count = int(pick(rng, _MANY))
    parts = [f"part{i}" for i in range(count)]
    cut = node("Split", ["start"], parts, axis=int(pick(rng, (0, -1))), num_outputs=count)
    inserted(model, rng, [cut], "start", parts[-1])


def many_consumers(model: onnx.ModelProto, rng: Generator) -> None:
    """One value read by very many nodes, whose results are added up or are all outputs."""
    count = int(pick(rng, (30, 300, 3000)))
    names = [f"read{i}" for i in range(count)]
    readers = [node("Identity", ["start"], ["start_again"])]
    readers += [node(pick(rng, ("Relu", "Neg", "Tanh")), ["start_again"], [name]) for name in names]
    inserted(model, rng, [*readers, node("Sum", names, ["total"])], "start", "total")
    if rng.random() < 0.3:
        model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)


def many_inputs(model: onnx.ModelProto, rng: Generator) -> None:
    """Very many inputs, which are added to a value."""
    count = int(pick(rng, (30, 300, 3000)))
    names = [f"input{i}" for i in range(count)]
    model.graph.input.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in names)
    inserted(model, rng, [node("Sum", ["start", *names], ["total"])], "start", "total")
