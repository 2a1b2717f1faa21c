"""Graphs that are large but honest, by kind and size; each is one small ONNX model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH = 8
_OPSET = 20


class _Writer:
    """Nodes and weights of a model that is being written."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(seed)

    def op(self, operator: str, *operands: str, **attributes: Any) -> str:
        """Add a node and name its result."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, operands, [name], f"n{len(self.nodes)}", **attributes))
        return name

    def weight(self, *shape: int, scale: float = 1.0) -> str:
        """Add a weight."""
        return self.constant((scale * self._random.standard_normal(shape) / np.sqrt(WIDTH)).astype(np.float32))

    def rotation(self) -> str:
        """Add an orthogonal matrix."""
        return self.constant(np.linalg.qr(self._random.standard_normal((WIDTH, WIDTH)))[0].astype(np.float32))

    def constant(self, array: np.ndarray) -> str:
        """Add a known array."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def linear(self, x: str, width: int = WIDTH) -> str:
        """A dense layer: MatMul and Add."""
        return self.op("Add", self.op("MatMul", x, self.weight(WIDTH, width)), self.weight(width))

    def model(self, outputs: list[str], inputs: dict[str, int]) -> onnx.ModelProto:
        """The model with inputs [batch, width]."""
        given = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", width]) for n, width in inputs.items()]
        told = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "large", given, told, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10)


def chain(size: int) -> onnx.ModelProto:
    """A chain of this many operators: MatMul, Add, Tanh, and again; turned only, so that slopes do not vanish."""
    writer, x = _Writer(), "x"
    for _ in range(size // 3):
        turned = writer.op("MatMul", x, writer.rotation())
        x = writer.op("Tanh", writer.op("Add", turned, writer.weight(WIDTH, scale=0.01)))
    return writer.model([x], {"x": WIDTH})


def pointwise(size: int) -> onnx.ModelProto:
    """A chain of this many functions of one value, which fuse into each other."""
    writer, x = _Writer(), "x"
    for i in range(size):
        x = writer.op(("Tanh", "Atan", "Sin")[i % 3], x)  # slopes of 1 at 0, which do not vanish
    return writer.model([x], {"x": WIDTH})


def residual(size: int) -> onnx.ModelProto:
    """This many residual blocks: x + W relu(V x) / 20."""
    writer, x = _Writer(), "x"
    small = writer.constant(np.full((), 0.05, np.float32))  # so that a thousand of them do not overflow
    for _ in range(size):
        x = writer.op("Add", x, writer.op("Mul", small, writer.linear(writer.op("Relu", writer.linear(x)))))
    return writer.model([writer.linear(x, 4)], {"x": WIDTH})


def _parts(writer: _Writer, size: int) -> list[str]:
    """Values that differ: the input times constants of their own, rectified."""
    return [writer.op("Relu", writer.op("Mul", "x", writer.weight(WIDTH))) for _ in range(size)]


def concat(size: int) -> onnx.ModelProto:
    """A Concat of this many values."""
    writer = _Writer()
    joined = writer.op("Concat", *_parts(writer, size), axis=1)
    return writer.model([writer.op("MatMul", joined, writer.weight(size * WIDTH, 4))], {"x": WIDTH})


def concat_same(size: int) -> onnx.ModelProto:
    """A Concat of one value this many times."""
    writer = _Writer()
    joined = writer.op("Concat", *[writer.op("Tanh", "x")] * size, axis=1)
    return writer.model([writer.op("MatMul", joined, writer.weight(size * WIDTH, 4))], {"x": WIDTH})


def sum_of(size: int) -> onnx.ModelProto:
    """A Sum of this many values."""
    writer = _Writer()
    return writer.model([writer.linear(writer.op("Sum", *_parts(writer, size)), 4)], {"x": WIDTH})


def sum_same(size: int) -> onnx.ModelProto:
    """A Sum of one value this many times."""
    writer = _Writer()
    return writer.model([writer.linear(writer.op("Sum", *[writer.op("Tanh", "x")] * size), 4)], {"x": WIDTH})


def consumers(size: int) -> onnx.ModelProto:
    """One value with this many consumers, whose results are added up one after the other."""
    writer = _Writer()
    value = writer.op("Tanh", "x")
    total, *others = [writer.op("Relu", writer.op("Mul", value, writer.weight(WIDTH))) for _ in range(size)]
    for each in others:
        total = writer.op("Add", total, each)
    return writer.model([writer.linear(total, 4)], {"x": WIDTH})


def inputs(size: int) -> onnx.ModelProto:
    """This many inputs, each with a layer of its own."""
    writer = _Writer()
    names = [f"x{i}" for i in range(size)]
    joined = writer.op("Sum", *(writer.linear(name) for name in names))
    return writer.model([writer.linear(joined, 4)], dict.fromkeys(names, WIDTH))


def outputs(size: int) -> onnx.ModelProto:
    """This many outputs of one layer."""
    writer = _Writer()
    value = writer.linear("x")
    return writer.model([writer.op("Mul", value, writer.weight(WIDTH)) for _ in range(size)], {"x": WIDTH})


def doubling(size: int) -> onnx.ModelProto:
    """x + x, this many times: a walk path by path would take 2 ** size steps."""
    writer, x = _Writer(), "x"
    for _ in range(size):
        x = writer.op("Add", x, x)
    return writer.model([writer.op("Mul", x, writer.constant(np.array(2.0**-size, np.float32)))], {"x": WIDTH})


def diamonds(size: int) -> onnx.ModelProto:
    """This many diamonds, one after the other: two branches of each value that meet again."""
    writer, x = _Writer(), "x"
    for _ in range(size):
        x = writer.op("Mul", writer.op("Tanh", writer.linear(x)), writer.op("Sigmoid", writer.linear(x)))
    return writer.model([x], {"x": WIDTH})


MODELS: dict[str, Callable[[int], onnx.ModelProto]] = {
    "chain": chain,
    "pointwise": pointwise,
    "residual": residual,
    "concat": concat,
    "concat_same": concat_same,
    "sum": sum_of,
    "sum_same": sum_same,
    "consumers": consumers,
    "inputs": inputs,
    "outputs": outputs,
    "doubling": doubling,
    "diamonds": diamonds,
}
