"""Checks a parsed model before anything is made of it: names that are names, sizes that are sizes, depth and number.

A protobuf message may parse and still hold bytes that are no text, sizes below zero, attributes of two types at once,
or a million nested graphs. Nothing here recurses, and nothing is allocated in proportion to what the message claims.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import onnx

from backtrace_jax.errors import ModelError

MOST_NODES = 50_000
"""Nodes of a model, its functions and sub-graphs: a few times those of the largest exported networks."""

MOST_AXES = 32
"""Axes of a value: what NumPy and XLA both handle."""

DEEPEST_GRAPH = 32
"""Sub-graphs inside one another."""

DYNAMIC = -1
"""What some converters write as a size that is not fixed."""

_LONGEST_TEXT = 200  # characters of the model's own text in a message


def shortened(text: Any) -> str:
    """Text of an untrusted model for a message: its beginning, control characters spelled out."""
    plain = text if isinstance(text, str) else repr(text)
    plain = "".join(c if c.isprintable() else repr(c)[1:-1] for c in plain[: _LONGEST_TEXT + 1])
    return plain if len(plain) <= _LONGEST_TEXT else plain[:_LONGEST_TEXT] + "..."


def verify(proto: onnx.ModelProto, name: str) -> None:
    """Refuse a model that is malformed in a way that nothing after can be expected to survive.

    Raises:
        ModelError: Naming the first thing that is wrong.
    """
    try:
        for entry in proto.opset_import:
            _check_name(entry.domain)
        for function in proto.functions:
            _check_names([function.name, function.domain, *function.input, *function.output, *function.attribute])
            for entry in function.opset_import:
                _check_name(entry.domain)
        _check_graphs(proto)
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from None


def _check_graphs(proto: onnx.ModelProto) -> None:
    """Graphs and function bodies, those nested in them included."""
    waiting: list[tuple[Any, int]] = [(proto.graph, 0), *((function, 0) for function in proto.functions)]
    count = 0
    while waiting:
        graph, depth = waiting.pop()
        count += len(graph.node)
        if count > MOST_NODES:
            raise ModelError(f"the model has more than {MOST_NODES} nodes; refused")
        if depth > DEEPEST_GRAPH:
            raise ModelError(f"sub-graphs are nested more than {DEEPEST_GRAPH} deep; refused")
        if isinstance(graph, onnx.GraphProto):
            _check_values(graph)
        for node in graph.node:
            _check_node(node)
            waiting += [(inner, depth + 1) for attribute in node.attribute for inner in graphs_of(attribute)]


def graphs_of(attribute: onnx.AttributeProto) -> Iterator[onnx.GraphProto]:
    """The sub-graphs that an attribute holds."""
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def _check_values(graph: onnx.GraphProto) -> None:
    for info in (*graph.input, *graph.output):
        _check_name(info.name)
        dims = info.type.tensor_type.shape.dim
        sizes = [dim.dim_value for dim in dims if dim.HasField("dim_value") and dim.dim_value != DYNAMIC]
        _check_sizes(info.name, sizes, len(dims))
    for tensor in graph.initializer:
        check_tensor(tensor)


def check_tensor(tensor: onnx.TensorProto) -> None:
    """Refuse a tensor whose name or sizes cannot be.

    Raises:
        ModelError: Naming the tensor.
    """
    _check_name(tensor.name)
    _check_sizes(tensor.name, tensor.dims, len(tensor.dims))


def _check_node(node: onnx.NodeProto) -> None:
    _check_names([node.name, node.op_type, node.domain, *node.input, *node.output])
    names = [attribute.name for attribute in node.attribute]
    _check_names(names)
    if len(set(names)) < len(names):
        raise ModelError(f"node {shortened(node.name)!r} ({shortened(node.op_type)}) has two attributes of one name")
    for attribute in node.attribute:
        _check_attribute(node, attribute)


_FIELDS = {  # the field of the message that holds an attribute of each type
    onnx.AttributeProto.FLOAT: "f",
    onnx.AttributeProto.INT: "i",
    onnx.AttributeProto.STRING: "s",
    onnx.AttributeProto.TENSOR: "t",
    onnx.AttributeProto.GRAPH: "g",
    onnx.AttributeProto.SPARSE_TENSOR: "sparse_tensor",
    onnx.AttributeProto.TYPE_PROTO: "tp",
    onnx.AttributeProto.FLOATS: "floats",
    onnx.AttributeProto.INTS: "ints",
    onnx.AttributeProto.STRINGS: "strings",
    onnx.AttributeProto.TENSORS: "tensors",
    onnx.AttributeProto.GRAPHS: "graphs",
    onnx.AttributeProto.SPARSE_TENSORS: "sparse_tensors",
    onnx.AttributeProto.TYPE_PROTOS: "type_protos",
}


def _check_attribute(node: onnx.NodeProto, attribute: onnx.AttributeProto) -> None:
    """The type and what is there must agree."""
    _check_name(attribute.ref_attr_name)
    field = _FIELDS.get(attribute.type)
    held = [name for name in _FIELDS.values() if _holds(attribute, name)]
    if not attribute.ref_attr_name and (field is None or any(name != field for name in held)):
        where = f"attribute {shortened(attribute.name)!r} of node {shortened(node.name)!r} ({shortened(node.op_type)})"
        raise ModelError(f"{where} is said to be of type {attribute.type} and holds {', '.join(held) or 'nothing'}")
    for tensor in (attribute.t, *attribute.tensors):
        check_tensor(tensor)


def _holds(attribute: onnx.AttributeProto, field: str) -> bool:
    if field.endswith("s") and field != "s":
        return len(getattr(attribute, field)) > 0
    return attribute.HasField(field)


def _check_names(names: Iterable[Any]) -> None:
    for name in names:
        _check_name(name)


def _check_name(name: Any) -> None:
    """A name is text; the empty one stands for a value left out."""
    if not isinstance(name, str) or "\0" in name:
        raise ModelError(f"name {shortened(name)} is no text; the file is damaged")


def _check_sizes(name: str, sizes: Iterable[int], rank: int) -> None:
    if rank > MOST_AXES:
        raise ModelError(f"value {shortened(name)!r} has {rank} axes; at most {MOST_AXES} are possible")
    for size in sizes:
        if size < 0:
            raise ModelError(f"value {shortened(name)!r} has a size of {size}; sizes cannot be negative")
