"""Lowers an ONNX graph by partial evaluation at one example's shapes.

Every value is either a known array or a typed variable of the graph. A node whose operands are all known is computed at
once by ONNX's own reference implementation; so shape arithmetic, masks built from constants, and position tables never
reach the graph. Every other node is handed to the operator function for the model's opset.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from backtrace_jax.errors import BacktraceError, ModelError, UnsupportedError
from backtrace_jax.ir import Program, Source, Value, check

from .load import OnnxModel
from .lowering import Lowering
from .operators import find_operator, is_random
from .signature import input_types


def lower(
    model: OnnxModel, shapes: Mapping[str, tuple[int, ...]], *, known: Mapping[str, np.ndarray] | None = None
) -> Program:
    """Lower a model at these input shapes.

    Args:
        model: A loaded model.
        shapes: Full shape of every input, by name.
        known: Values of inputs to specialise the graph to; they are no inputs of it any more.

    Raises:
        UnsupportedError: Naming the node, operator and opset that has no implementation.
        ModelError: When the graph is inconsistent.
    """
    lowering = Lowering(model)
    graph = model.proto.graph
    for declared in input_types(model):
        name = declared.name
        fixed = (known or {}).get(name)
        lowering.define(name, lowering.input(name, tuple(shapes[name]), declared.dtype) if fixed is None else fixed)
    for tensor in graph.initializer:
        lowering.define(tensor.name, model.array(tensor))
    for node in graph.node:
        lower_node(lowering, node)
    outputs = {info.name: _defined(lowering, info.name, "the graph's outputs") for info in graph.output}
    program = lowering.finish(outputs)
    check(program.graph)
    return program


def lower_node(lowering: Lowering, node: onnx.NodeProto) -> None:
    """Compute or emit one node and bind its results; every error names the node."""
    where = _describe(lowering, node)
    operands = [_defined(lowering, name, where) if name else None for name in node.input]
    lowering.source = Source(node.name, f"{node.domain or 'ai.onnx'}.{node.op_type}", _module(node))
    lowering.result_count = len(node.output)
    try:
        results = _results(lowering, node, operands)
    except BacktraceError as error:
        raise type(error)(f"{where}: {error}") from error
    except Exception as error:
        raise ModelError(f"{where}: cannot be computed: {error}") from error
    for name, value in zip(node.output, results, strict=False):
        lowering.define(name, value)


def _results(lowering: Lowering, node: onnx.NodeProto, operands: Sequence[Value | None]) -> Sequence[Value]:
    if _is_static(node, operands):
        return _evaluate(lowering, node, operands)
    version = lowering.opsets.get(node.domain or "ai.onnx")
    if version is None:
        raise UnsupportedError(f"operator domain {node.domain!r} is not imported by the model")
    function = find_operator(node.domain, node.op_type, version)
    attributes = {attribute.name: attribute_value(lowering.model, attribute) for attribute in node.attribute}
    try:
        inspect.signature(function).bind(lowering, *operands, **attributes)
    except TypeError as error:
        raise UnsupportedError(f"its operands or attributes do not fit: {error}") from error
    results = function(lowering, *operands, **attributes)
    return results if isinstance(results, tuple | list) else (results,)


def _is_static(node: onnx.NodeProto, operands: Sequence[Value | None]) -> bool:
    """Whether ONNX itself can compute the node now."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    if is_random(node.op_type) or not onnx.defs.has(node.op_type, domain):
        return False
    if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
        return False
    return all(operand is None or isinstance(operand, np.ndarray) for operand in operands)


def _evaluate(lowering: Lowering, node: onnx.NodeProto, operands: Sequence[Value | None]) -> Sequence[Value]:
    if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
        return [lowering.model.array(node.attribute[0].t)]
    feeds = {name: value for name, value in zip(node.input, operands, strict=True) if name}
    opsets = lowering.model.proto.opset_import  # a node alone would be read as one of the newest opset
    alone = onnx.helper.make_function("known", "node", feeds, [name for name in node.output if name], [node], opsets)
    with np.errstate(all="ignore"):
        results = iter(ReferenceEvaluator(alone).run(None, feeds, attributes={}))
    return [np.asarray(next(results)) if name else np.zeros(0) for name in node.output]


def attribute_value(model: OnnxModel, attribute: onnx.AttributeProto) -> Any:
    """An attribute as Python or NumPy data: text as str, lists as tuples, tensors as arrays, graphs as they are."""
    if attribute.type == onnx.AttributeProto.TENSOR:
        return model.array(attribute.t)
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(item.decode() if isinstance(item, bytes) else item for item in value)
    return value


def _defined(lowering: Lowering, name: str, where: str) -> Value:
    if name not in lowering.values:
        raise ModelError(f"{where}: value {name!r} is not computed before it is used; the graph is cyclic or cut")
    return lowering.values[name]


def _describe(lowering: Lowering, node: onnx.NodeProto) -> str:
    domain = node.domain or "ai.onnx"
    label = node.name or (node.output[0] if node.output else "?")
    return f"node {label!r} ({domain}.{node.op_type}, opset {lowering.opsets.get(domain, '?')})"


def _module(node: onnx.NodeProto) -> str:
    """Path of the framework's module, as torch's exporter leaves it: the innermost scope around the operator itself."""
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            try:
                scopes = ast.literal_eval(entry.value)
            except (ValueError, SyntaxError):
                return ""
            return str(scopes[-2]) if isinstance(scopes, list) and len(scopes) > 1 else ""
    return ""
