"""Writes ONNX graphs node by node, and takes them apart to write them anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

OPSET = 20
FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64


class Nodes:
    """Nodes one after the other: `nodes.Relu(x)` adds one and gives the name of its result.

    Operands are names, None where one is left out, or arrays, which become initialisers.
    """

    def __init__(self, prefix: str = "") -> None:
        self.written: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.prefix = prefix

    def __getattr__(self, op: str) -> Callable[..., Any]:
        if op.startswith("_"):
            raise AttributeError(op)

        def write(*operands: Any, results: int = 1, domain: str = "", **attributes: Any) -> Any:
            inputs = [self.name_of(operand) for operand in operands]
            names = [f"{self.prefix}{op.lower()}{len(self.written)}{'abcdef'[i] if i else ''}" for i in range(results)]
            self.written.append(helper.make_node(op, inputs, names, names[0], domain=domain, **attributes))
            return names[0] if results == 1 else names

        return write

    def name_of(self, operand: Any) -> str:
        if operand is None or isinstance(operand, str):
            return operand or ""
        array = np.asarray(operand)
        array = array.astype(np.float32) if array.dtype.kind == "f" else array
        name = f"{self.prefix}constant{len(self.constants)}"
        self.constants[name] = array
        return name


class Net(Nodes):
    """A network being written, and the numbers for its weights."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.generator = np.random.default_rng(seed)
        self.inputs: list[onnx.ValueInfoProto] = []

    def input(self, *shape: int, name: str = "x", dtype: int = FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def weight(self, *shape: int, fan: int | None = None) -> np.ndarray:
        """Numbers of both signs, of the size that keeps signals about as large as they are."""
        count = np.prod(shape[1:]) if fan is None else fan
        return (self.generator.normal(size=shape) / np.sqrt(max(count, 1))).astype(np.float32)

    def vector(self, size: int) -> np.ndarray:
        return (0.5 * self.generator.normal(size=size)).astype(np.float32)

    def scales(self, size: int) -> np.ndarray:
        return self.generator.uniform(0.5, 1.5, size).astype(np.float32)

    def dense(self, x: str, inputs: int, units: int, bias: bool = True) -> str:
        """x W + b on the last axis."""
        product = self.MatMul(x, self.weight(inputs, units, fan=inputs))
        return self.Add(product, self.vector(units)) if bias else product

    def conv(self, x: str, channels: int, filters: int, *window: int, group: int = 1, **attributes: Any) -> str:
        K = self.weight(filters, channels // group, *window)
        return self.Conv(x, K, self.vector(filters), group=group, **attributes)

    def finish(self, *outputs: str, opset: int = OPSET) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.written,
            "network",
            self.inputs,
            [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        domains = {node.domain for node in self.written} - {""}
        opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in sorted(domains))]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        return shape_inference.infer_shapes(model)


@dataclass
class Sheet:
    """A model taken apart, to be written anew node by node.

    Attributes:
        model: As it was.
        constants: Known arrays by name, those of Constant nodes included.
        shapes: Shapes by name, as far as inference knows them.
        types: Element types by name.
        readers: The nodes that read each value.
        writers: The node that writes each value.
    """

    model: onnx.ModelProto
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    readers: dict[str, list[onnx.NodeProto]] = field(default_factory=dict)
    writers: dict[str, onnx.NodeProto] = field(default_factory=dict)
    changed: int = 0

    def __post_init__(self) -> None:
        graph = shape_inference.infer_shapes(self.model).graph
        for tensor in graph.initializer:
            self.constants[tensor.name] = numpy_helper.to_array(tensor)
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
            self.writers.update((name, node) for name in node.output)
        for name, array in self.constants.items():
            self.shapes[name], self.types[name] = array.shape, helper.np_dtype_to_tensor_dtype(array.dtype)
        for info in (*graph.input, *graph.value_info, *graph.output):
            tensor = info.type.tensor_type
            self.types[info.name] = tensor.elem_type
            if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
                self.shapes[info.name] = tuple(dim.dim_value for dim in tensor.shape.dim)

    @property
    def outputs(self) -> set[str]:
        return {info.name for info in self.model.graph.output}

    def prefix(self, node: onnx.NodeProto) -> str:
        """What names of new values and constants begin with, which none that there are does."""
        prefix = f"{node.output[0]}.{self.changed}."
        while any(name.startswith(prefix) for name in (*self.writers, *self.constants)):
            prefix = f"{prefix}again."
        return prefix

    def alone(self, name: str) -> bool:
        """Whether one node reads a value, and nothing else."""
        return len(self.readers.get(name, ())) == 1 and name not in self.outputs

    def known(self, name: str) -> bool:
        return name in self.constants

    def is_float(self, name: str) -> bool:
        return self.types.get(name) == FLOAT


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """Attributes of a node as Python data."""
    values = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


class Draft(Nodes):
    """What is written in place of one node (or a few that end in it)."""

    def __init__(self, sheet: Sheet, node: onnx.NodeProto) -> None:
        super().__init__(sheet.prefix(node))
        self.sheet, self.node = sheet, node

    def again(self, node: onnx.NodeProto, *operands: Any, drop: Sequence[str] = (), **changed: Any) -> Any:
        """The same operator on other operands."""
        settings = {**attributes_of(node), **changed}
        for name in drop:
            settings.pop(name, None)
        write = getattr(self, node.op_type)
        return write(*(operands or node.input), results=len(node.output), domain=node.domain, **settings)


Step = Callable[[Sheet, onnx.NodeProto, Draft], Any]


def rewrite(model: onnx.ModelProto, step: Step) -> tuple[onnx.ModelProto, int]:
    """The model with every node replaced that `step` has a result for, and how many there were.

    `step` gives the names that stand for the node's results, or None where it has nothing to say. Nodes that nothing
    reads any more are dropped.
    """
    sheet = Sheet(model)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    written: list[onnx.NodeProto] = []
    for node in model.graph.node:
        draft = Draft(sheet, node)
        found = step(sheet, node, draft)
        if found is None:
            written.append(node)
            continue
        sheet.changed += 1
        constants.update(draft.constants)
        written += _renamed(draft.written, [found] if isinstance(found, str) else found, node.output)
    if not sheet.changed:
        return model, 0
    return _assembled(model, _needed(written, sheet.outputs), constants), sheet.changed


def _renamed(nodes: list[onnx.NodeProto], found: Sequence[str], wanted: Sequence[str]) -> list[onnx.NodeProto]:
    """The nodes with their results under the names that others read; what is no result of theirs is handed on."""
    names = dict(zip(found, wanted, strict=False))
    own = {name for node in nodes for name in node.output}
    for node in nodes:
        node.input[:] = [names.get(name, name) if name in own else name for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    handed = [(name, as_) for name, as_ in names.items() if name not in own]
    return [*nodes, *(helper.make_node("Identity", [name], [as_], f"{as_}.handed") for name, as_ in handed)]


def _needed(nodes: Sequence[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    needed, kept = set(outputs), []
    for node in reversed(nodes):
        if needed & set(node.output):
            needed.update(node.input)
            kept.append(node)
    return kept[::-1]


def _assembled(
    model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], constants: Mapping[str, np.ndarray]
) -> onnx.ModelProto:
    read = {name for node in nodes for name in node.input}
    new = onnx.ModelProto()
    new.CopyFrom(model)
    del new.graph.node[:], new.graph.initializer[:], new.graph.value_info[:]
    new.graph.node.extend(nodes)
    new.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in constants.items() if name in read)
    missing = {node.domain for node in nodes} - {each.domain for each in model.opset_import}
    new.opset_import.extend(helper.make_opsetid(domain, 1) for domain in sorted(missing))
    return shape_inference.infer_shapes(new)


def in_doubles(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model in float64."""
    new = onnx.ModelProto()
    new.CopyFrom(model)
    for info in (*new.graph.input, *new.graph.output, *new.graph.value_info):
        if info.type.tensor_type.elem_type == FLOAT:
            info.type.tensor_type.elem_type = TensorProto.DOUBLE
    for tensor in new.graph.initializer:
        tensor.CopyFrom(_double(tensor))
    for node in new.graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == FLOAT:
                attribute.i = TensorProto.DOUBLE
            if attribute.HasField("t"):
                attribute.t.CopyFrom(_double(attribute.t))
    return new


def _double(tensor: onnx.TensorProto) -> onnx.TensorProto:
    array = numpy_helper.to_array(tensor)
    return tensor if array.dtype != np.float32 else numpy_helper.from_array(array.astype(np.float64), tensor.name)
