"""What mutations pick from: the parts of a model, and values that nobody expects."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto

Generator: TypeAlias = np.random.Generator

ABSURD = (0, 1, -1, -2, 3, 2**16, 2**20, 2**24, 2**28, 2**31 - 1, 2**31, 2**32 + 1, 2**40, 2**62, 2**63 - 1, -(2**63))
TEXTS = ("", "\0x", "x", "y", "a" * 100_000, "\x1b[2J", "../../x", "%s%n", "é\n", "{0.__class__}", "__class__")


def pick(rng: Generator, items: Any) -> Any:
    return items[int(rng.integers(len(items)))]


def nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Nodes of the graph, of its sub-graphs and of functions."""
    waiting: list[Any] = [model.graph, *model.functions]
    found = []
    while waiting:
        current = waiting.pop()
        found += current.node
        waiting += [attribute.g for each in current.node for attribute in each.attribute if attribute.HasField("g")]
    return found


def tensors(model: onnx.ModelProto) -> list[TensorProto]:
    held = [attribute.t for each in nodes(model) for attribute in each.attribute if attribute.HasField("t")]
    return [*model.graph.initializer, *held]


def attributes(model: onnx.ModelProto) -> list[AttributeProto]:
    return [attribute for each in nodes(model) for attribute in each.attribute]


def names(model: onnx.ModelProto) -> list[str]:
    return [name for each in nodes(model) for name in (*each.input, *each.output)] + [
        i.name for i in model.graph.initializer
    ]
