"""Lowers an ONNX graph by partial evaluation at one example's shapes.

Every value is either a known array or a typed variable of the graph. Each node is handed to the operator function for
the model's opset; what that computes from known operands is computed at once, so shape arithmetic, masks built from
constants and position tables never reach the graph. Operators that have no function here are no obstacle while all
their operands are known: ONNX's own reference implementation computes them.
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
    if graph.sparse_initializer:
        raise UnsupportedError("the model holds sparse tensors; store them as dense ones")
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
    lowering.result_count = max((count for count, name in enumerate(node.output, 1) if name), default=0)
    try:
        results = _results(lowering, node, operands)
    except BacktraceError as error:
        error.args = (f"{where}: {error}",)
        raise
    except Exception as error:
        raise ModelError(f"{where}: cannot be computed: {error}") from error
    if any(node.output[len(results) :]):
        raise UnsupportedError(f"{where}: of its {len(node.output)} results only {len(results)} can be computed")
    for name, value in zip(node.output, results, strict=False):
        lowering.define(name, value)


def _results(lowering: Lowering, node: onnx.NodeProto, operands: Sequence[Value | None]) -> Sequence[Value]:
    version = lowering.opsets.get(node.domain or "ai.onnx")
    if version is None:
        raise UnsupportedError(f"operator domain {node.domain!r} is not imported by the model")
    try:
        function = find_operator(node.domain, node.op_type, version)
    except UnsupportedError:
        if not _is_static(node, operands):
            raise
        return _evaluate(lowering, node, operands)
    attributes = {attribute.name: attribute_value(lowering.model, attribute) for attribute in node.attribute}
    try:
        inspect.signature(function).bind(lowering, *operands, **attributes)
    except TypeError as error:
        raise UnsupportedError(f"its operands or attributes do not fit: {error}") from error
    results = function(lowering, *operands, **attributes)
    return results if isinstance(results, tuple | list) else (results,)


def _is_static(node: onnx.NodeProto, operands: Sequence[Value | None]) -> bool:
    """Whether ONNX's own reference implementation can compute the node now."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    if is_random(node.op_type) or not onnx.defs.has(node.op_type, domain):
        return False
    if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
        return False
    return all(operand is None or isinstance(operand, np.ndarray) for operand in operands)


def _evaluate(lowering: Lowering, node: onnx.NodeProto, operands: Sequence[Value | None]) -> Sequence[Value]:
    feeds = {name: value for name, value in zip(node.input, operands, strict=True) if name}
    opsets = lowering.model.proto.opset_import  # a node alone would be read as one of the newest opset
    outputs = [name for name in node.output if name]
    alone = onnx.helper.make_function("known", "node", list(feeds), outputs, [node], opsets)
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
