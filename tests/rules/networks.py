"""Small ONNX models in float64, built node by node."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper


class Network:
    """Collects nodes; arrays among the operands become initialisers."""

    def __init__(self, seed: int = 0, **inputs: Sequence[int]) -> None:
        """Inputs by name and shape of one example; integer inputs are those whose name begins with `ids`."""
        self.generator = np.random.default_rng(seed)
        self._inputs = {name: tuple(shape) for name, shape in inputs.items()}
        self._nodes: list[onnx.NodeProto] = []
        self._arrays: list[onnx.TensorProto] = []

    def node(self, op_type: str, *operands: str | np.ndarray | None, **attributes: Any) -> str:
        """Add a node; the name of its first result."""
        name = f"{op_type.lower()}{len(self._nodes)}"
        self._nodes.append(helper.make_node(op_type, [*map(self._named, operands)], [name], name=name, **attributes))
        return name

    def _named(self, operand: str | np.ndarray | None) -> str:
        if not isinstance(operand, np.ndarray):
            return operand or ""
        self._arrays.append(numpy_helper.from_array(operand, f"array{len(self._arrays)}"))
        return self._arrays[-1].name

    def normal(self, *shape: int, scale: float = 1.0) -> np.ndarray:
        """Normally distributed weights."""
        return np.asarray(scale * self.generator.normal(size=shape))

    def dense(self, x: str, inputs: int, outputs: int, *, bias: bool = True) -> str:
        """x W + b."""
        product = self.node("MatMul", x, self.normal(inputs, outputs, scale=inputs**-0.5))
        return self.node("Add", product, self.normal(outputs, scale=0.3)) if bias else product

    def model(self, *outputs: str) -> onnx.ModelProto:
        """The model with these results as its outputs."""
        inputs = [
            helper.make_tensor_value_info(name, _element_type(name), ["batch", *shape])
            for name, shape in self._inputs.items()
        ]
        results = [helper.make_empty_tensor_value_info(name) for name in outputs]
        graph = helper.make_graph(self._nodes, "network", inputs, results, self._arrays)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _element_type(name: str) -> int:
    return onnx.TensorProto.INT64 if name.startswith("ids") else onnx.TensorProto.DOUBLE


def perceptron(activation: str = "Relu", *, bias: bool = True, sizes: Sequence[int] = (6, 8, 7, 4)) -> onnx.ModelProto:
    """Dense layers with one activation between them."""
    network = Network(x=sizes[:1])
    value = "x"
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        value = network.node(activation, value) if i else value
        value = network.dense(value, inputs, outputs, bias=bias)
    return network.model(value)
