"""Checks a parsed model before anything is made of it: names that are names, sizes that are sizes, depth and number.

A protobuf message may parse and still hold bytes that are no text, sizes below zero, attributes of two types at once,
two values of one name, or a million nested graphs. Nothing here recurses, and nothing is allocated in proportion to
what the message claims. What each operator makes of its attributes is looked at when its node is lowered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import onnx

from backtrace_jax.errors import ModelError
from backtrace_jax.errors.texts import printable

MOST_NODES = 50_000
"""Nodes of a model, its functions and sub-graphs: a few times those of the largest exported networks."""

MOST_OPERANDS = 2**13
"""Operands, and results, of one node: hundreds in the largest exported networks; adjustable."""

MOST_AXES = 32
"""Axes of a value: what NumPy and XLA both handle."""

DEEPEST_GRAPH = 32
"""Sub-graphs inside one another."""

DYNAMIC = -1
"""What some converters write as a size that is not fixed."""

_LONGEST_TEXT = 200  # characters of the model's own text in a message


def shortened(text: Any) -> str:
    """Text of an untrusted model for a message: its beginning, control characters spelled out."""
    plain = printable((text if isinstance(text, str) else repr(text))[: _LONGEST_TEXT + 1])
    return plain if len(plain) <= _LONGEST_TEXT else plain[:_LONGEST_TEXT] + "..."


def verify(proto: onnx.ModelProto, name: str) -> None:
    """Refuse a model that is malformed in a way that nothing after can be expected to survive.

    Raises:
        ModelError: Naming the first thing that is wrong.
    """
    try:
        _check_imports(proto.opset_import)
        for function in proto.functions:
            _check_function(function)
        functions = [f"{each.domain}::{each.name}:{each.overload}".rstrip(":") for each in proto.functions]
        _check_unique("function", functions)
        _check_graphs(proto)
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from None


def check_version(proto: onnx.ModelProto, name: str) -> None:
    """Refuse a model of a version of the format that does not exist, or that the installed onnx does not know.

    Raises:
        ModelError: Naming the version.
    """
    if not 1 <= proto.ir_version <= onnx.IR_VERSION:
        known = f"the installed onnx {onnx.__version__} knows 1 to {onnx.IR_VERSION}"
        raise ModelError(f"{name}: ir_version is {proto.ir_version}; {known}")


def _check_imports(imports: Iterable[onnx.OperatorSetIdProto]) -> None:
    """Each domain at one version, which exists where ONNX knows the domain."""
    found: dict[str, int] = {}
    for entry in imports:
        _check_name(entry.domain)
        domain = entry.domain or "ai.onnx"
        newest = _NEWEST_OPSETS.get(domain, _INT32)
        if not 1 <= entry.version <= newest:
            known = f"; the installed onnx {onnx.__version__} knows 1 to {newest}" if newest < _INT32 else ""
            raise ModelError(f"opset {entry.version} of {shortened(domain)!r} does not exist{known}")
        if found.setdefault(domain, entry.version) != entry.version:
            versions = f"{found[domain]} and {entry.version}"
            raise ModelError(f"the operators of {shortened(domain)!r} are imported at two versions, {versions}")


_INT32 = 2**31 - 1
_NEWEST_OPSETS = {"ai.onnx": onnx.defs.onnx_opset_version(), "ai.onnx.ml": onnx.defs.onnx_ml_opset_version()}


def _check_function(function: onnx.FunctionProto) -> None:
    _check_names([function.name, function.domain, *function.input, *function.output, *function.attribute])
    _check_imports(function.opset_import)
    _check_unique("result", function.output)


def _check_graphs(proto: onnx.ModelProto) -> None:
    """Graphs and function bodies, those nested in them included."""
    bodies = [(each, 0, _attributes_of(each)) for each in proto.functions]
    waiting: list[tuple[Any, int, frozenset[str]]] = [(proto.graph, 0, frozenset()), *bodies]
    _check_unique("output", [info.name for info in proto.graph.output])
    count = 0
    while waiting:
        graph, depth, attributes = waiting.pop()
        count += len(graph.node)
        if count > MOST_NODES:
            raise ModelError(f"the model has more than {MOST_NODES} nodes; refused")
        if depth > DEEPEST_GRAPH:
            raise ModelError(f"sub-graphs are nested more than {DEEPEST_GRAPH} deep; refused")
        if isinstance(graph, onnx.GraphProto):
            _check_values(graph)
        for node in graph.node:
            _check_node(node, attributes)
            waiting += [(each, depth + 1, attributes) for held in node.attribute for each in graphs_of(held)]
        _check_unique("value", _defined(graph))


def _attributes_of(function: onnx.FunctionProto) -> frozenset[str]:
    """Names of the attributes that the nodes of a function may refer to."""
    return frozenset((*function.attribute, *(each.name for each in function.attribute_proto)))


def _defined(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[str]:
    """Every name that a graph or a function body gives a value; an input that is initialised counts once."""
    if isinstance(graph, onnx.GraphProto):
        initialised = {tensor.name for tensor in graph.initializer}
        yield from (info.name for info in graph.input if info.name not in initialised)
        yield from (tensor.name for tensor in graph.initializer)
    else:
        yield from graph.input
    yield from (name for node in graph.node for name in node.output if name)


def _check_unique(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ModelError(f"{what} {shortened(name)!r} is there twice; the file is not valid ONNX")
        seen.add(name)


def graphs_of(attribute: onnx.AttributeProto) -> Iterator[onnx.GraphProto]:
    """The sub-graphs that an attribute holds."""
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def _check_values(graph: onnx.GraphProto) -> None:
    for info in (*graph.input, *graph.output):
        _check_name(info.name)
        if not info.name:
            raise ModelError("an input or output of a graph has no name")
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
    held = [name for name in _DATA if len(getattr(tensor, name))] + ["raw_data"] * tensor.HasField("raw_data")
    outside = tensor.data_location == onnx.TensorProto.EXTERNAL
    if len(held) + outside > 1:
        places = [*held, "external_data"] if outside else held
        raise ModelError(f"tensor {shortened(tensor.name)!r} holds data in {' and '.join(places)}; one must go")


_DATA = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")


def _check_node(node: onnx.NodeProto, attributes: frozenset[str]) -> None:
    _check_names([node.name, node.op_type, node.domain, *node.input, *node.output])
    if not node.op_type:
        raise ModelError(f"node {shortened(node.name or ', '.join(node.output))!r} names no operator")
    if (count := max(len(node.input), len(node.output))) > MOST_OPERANDS:
        called = shortened(node.name or next(iter(node.output), ""))
        raise ModelError(
            f"node {called!r} ({shortened(node.op_type)}) has {count} operands or results, more than the "
            f"{MOST_OPERANDS} that are allowed; split it, or raise backtrace_jax.importers.onnx.verify.MOST_OPERANDS"
        )
    names = [attribute.name for attribute in node.attribute]
    _check_names(names)
    if len(set(names)) < len(names):
        raise ModelError(f"node {shortened(node.name)!r} ({shortened(node.op_type)}) has two attributes of one name")
    for attribute in node.attribute:
        where = f"attribute {shortened(attribute.name)!r} of node {shortened(node.name)!r} ({shortened(node.op_type)})"
        _check_attribute(attribute, where)
        referred = attribute.ref_attr_name
        if referred and referred not in attributes:
            raise ModelError(f"{where} refers to {shortened(referred)!r}, which no function around it has")


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


def _check_attribute(attribute: onnx.AttributeProto, where: str) -> None:
    """The type and what is there must agree."""
    _check_name(attribute.ref_attr_name)
    field = _FIELDS.get(attribute.type)
    held = [name for name in _FIELDS.values() if _holds(attribute, name)]
    if not attribute.ref_attr_name and (field is None or any(name != field for name in held)):
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
