"""Lowers an ONNX graph by partial evaluation at one example's shapes.

Every value is either a known array or a typed variable of the graph. Each node is handed to the operator function for
the model's opset; what that computes from known operands is computed at once, so shape arithmetic, masks built from
constants and position tables never reach the graph. An operator that has no function here may be a function of the
model's own, may be computed by ONNX's reference implementation while all its operands are known, or is expanded where
ONNX itself defines it by other operators.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from backtrace_jax.errors import BacktraceError, ModelError, UnsupportedError
from backtrace_jax.ir import Program, Source
from backtrace_jax.passes.build import Value
from backtrace_jax.passes.check import check

from .definitions import check_node
from .functions import expand, standard_function
from .limits import check_loops, check_reference
from .load import OnnxModel
from .lowering import Lowering
from .modules import calls_around, module_of
from .operators import find_operator, is_random
from .scope import ABSENT, Absent, Held, TensorSequence, Text
from .signature import input_types
from .text import is_text, on_text
from .verify import shortened

Shape: TypeAlias = tuple[int, ...]
Shapes: TypeAlias = "Shape | list[Shapes] | None"
"""Shape of a tensor, of each entry of a sequence, or None for an optional that is absent."""


def lower(
    model: OnnxModel,
    shapes: Mapping[str, Shapes],
    *,
    known: Mapping[str, np.ndarray] | None = None,
    examples: int = 1,
) -> Program:
    """Lower a model at these input shapes.

    Args:
        model: A loaded model.
        shapes: Full shape of every input, by name. The entries of a sequence become inputs `name[0]`, `name[1]`, ...
            of the graph, as those of outputs do.
        known: Values of inputs (or entries) to specialise the graph to; they are no inputs of it any more.
        examples: How many examples these shapes hold; bounds on sizes are for each of them.

    Raises:
        UnsupportedError: Naming the node, operator and opset that has no implementation.
        ModelError: When the graph is inconsistent.
    """
    lowering = Lowering(model, lower_node, examples=examples)
    graph = model.proto.graph
    for declared in input_types(model):
        name = declared.name
        lowering.define(name, _given(lowering, name, shapes[name], declared.dtype, known or {}))
    if graph.sparse_initializer:
        raise UnsupportedError("the model holds sparse tensors; store them as dense ones")
    for tensor in graph.initializer:
        lowering.define(tensor.name, model.array(tensor))
    names = [info.name for info in graph.output]
    results = lowering.lower_nodes(graph.node, names)
    outputs = [item for name, result in zip(names, results, strict=True) for item in _flat(name, result)]
    if not outputs and any(map(is_text, results)):
        raise UnsupportedError("all outputs of the model are text; give it an output of scores as well")
    program = lowering.finish(dict(outputs))
    check(program.graph)
    check_loops(program.graph)
    return program


def _given(lowering: Lowering, name: str, shape: Shapes, dtype: np.dtype, known: Mapping[str, np.ndarray]) -> Held:
    """An input of the graph, or its known value; a sequence entry by entry."""
    if shape is None:
        return ABSENT
    if isinstance(shape, list):
        return TensorSequence(
            tuple(_given(lowering, f"{name}[{i}]", each, dtype, known) for i, each in enumerate(shape))
        )
    return known[name] if name in known else lowering.input(name, tuple(shape), dtype)


def _flat(name: str, result: Held) -> list[tuple[str, Value]]:
    """An output by name; the entries of a sequence have names of their own. Text and absent optionals are left out."""
    if isinstance(result, TensorSequence):
        return [item for i, each in enumerate(result.items) for item in _flat(f"{name}[{i}]", each)]
    return [] if isinstance(result, Absent | Text) or is_text(result) else [(name, result)]


def lower_node(lowering: Lowering, node: onnx.NodeProto) -> None:
    """Compute or emit one node and bind its results; every error names the node."""
    where = _describe(lowering, node)
    try:
        operands = [lowering.scope.find(name) if name else None for name in node.input]
        lowering.source = Source(
            node.name,
            f"{node.domain or 'ai.onnx'}.{node.op_type}",
            module_of(node, lowering.model.scopes),
            calls_around(node),
        )
        lowering.result_count = max((count for count, name in enumerate(node.output, 1) if name), default=0)
        _check(lowering, node, operands)
        lowering.limits.begin(node, operands, lowering.opsets.get(node.domain or "ai.onnx"))
        with np.errstate(
            all="ignore"
        ):  # known values that overflow are Inf, as on a device, and told by what reads them
            results = _results(lowering, node, operands)
        if any(node.output[len(results) :]):
            raise UnsupportedError(f"of its {len(node.output)} results only {len(results)} can be computed")
        for name, value in zip(node.output, results, strict=False):
            lowering.define(name, value)
    except BacktraceError as error:
        error.args = (f"{where}: {error}",)
        raise
    except Exception as error:
        raise ModelError(f"{where}: cannot be computed: {error}") from error


def _check(lowering: Lowering, node: onnx.NodeProto, operands: Sequence[Held | None]) -> None:
    """Hold a node against its operator's definition; calls of the model's own functions are held against their own."""
    if (node.domain, node.op_type, node.overload) not in lowering.functions:
        check_node(_resolved(lowering, node), operands, lowering.opsets.get(node.domain or "ai.onnx"))


def _resolved(lowering: Lowering, node: onnx.NodeProto) -> onnx.NodeProto:
    """The node with the attributes of the function around in place of references to them."""
    if not any(attribute.ref_attr_name for attribute in node.attribute):
        return node
    found = onnx.NodeProto()
    found.CopyFrom(node)
    found.ClearField("attribute")
    for attribute in node.attribute:
        if _is_given(lowering, attribute):
            found.attribute.add().CopyFrom(lowering.scope.attributes.get(attribute.ref_attr_name, attribute))
            found.attribute[-1].name = attribute.name
    return found


def _results(lowering: Lowering, node: onnx.NodeProto, operands: Sequence[Held | None]) -> Sequence[Held]:
    own = lowering.functions.get((node.domain, node.op_type, node.overload))
    if own is not None:
        return expand(lowering, own, node, operands)
    version = lowering.opsets.get(node.domain or "ai.onnx")
    if version is None:
        raise UnsupportedError(f"operator domain {shortened(node.domain)!r} is not imported by the model")
    try:
        function = find_operator(node.domain, node.op_type, version)
    except UnsupportedError:
        if _is_static(node, operands):
            return _evaluate(lowering, node, operands)
        standard = standard_function(node, version, operands)
        if standard is None:
            raise
        return expand(lowering, standard, node, operands)
    return _call(lowering, function, node, operands)


def _call(lowering: Lowering, function: Any, node: onnx.NodeProto, operands: Sequence[Held | None]) -> Sequence[Held]:
    attributes = {each.name: attribute_value(lowering, each) for each in node.attribute if _is_given(lowering, each)}
    try:
        inspect.signature(function).bind(lowering, *operands, **attributes)
    except TypeError as error:
        raise UnsupportedError(f"its operands or attributes do not fit: {error}") from error
    if any(isinstance(operand, Text) for operand in operands):
        return on_text(partial(function, lowering, **attributes), node.op_type, operands, attributes)
    results = function(lowering, *operands, **attributes)
    return results if isinstance(results, tuple | list) else (results,)


def _is_static(node: onnx.NodeProto, operands: Sequence[Held | None]) -> bool:
    """Whether ONNX's own reference implementation can compute the node now."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    if is_random(node.op_type) or not onnx.defs.has(node.op_type, domain):
        return False
    if any(each.HasField("g") or each.graphs or each.ref_attr_name for each in node.attribute):
        return False
    return all(operand is None or isinstance(operand, np.ndarray) for operand in operands)


def _evaluate(lowering: Lowering, node: onnx.NodeProto, operands: Sequence[Any]) -> Sequence[Value]:
    check_reference(node, operands, lowering.opsets.get(node.domain or "ai.onnx"))
    feeds = {name: value for name, value in zip(node.input, operands, strict=True) if name}
    opsets = [  # a node alone would be read as one of the newest opset
        onnx.helper.make_operatorsetid("" if domain == "ai.onnx" else domain, version)
        for domain, version in lowering.opsets.items()
    ]
    outputs = [name for name in node.output if name]
    alone = onnx.helper.make_function("known", "node", list(feeds), outputs, [node], opsets)
    with np.errstate(all="ignore"):
        results = iter(ReferenceEvaluator(alone).run(None, feeds, attributes={}))
    return [np.asarray(next(results)) if name else np.zeros(0) for name in node.output]


def _is_given(lowering: Lowering, attribute: onnx.AttributeProto) -> bool:
    return not attribute.ref_attr_name or attribute.ref_attr_name in lowering.scope.attributes


def attribute_value(lowering: Lowering, attribute: onnx.AttributeProto) -> Any:
    """An attribute as Python or NumPy data: text as str, lists as tuples, tensors as arrays, graphs as they are."""
    attribute = lowering.scope.attributes[attribute.ref_attr_name] if attribute.ref_attr_name else attribute
    if attribute.type == onnx.AttributeProto.TENSOR:
        return lowering.model.array(attribute.t)
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(item.decode() if isinstance(item, bytes) else item for item in value)
    return value


def _describe(lowering: Lowering, node: onnx.NodeProto) -> str:
    domain = node.domain or "ai.onnx"
    label = shortened(node.name or (node.output[0] if node.output else "?"))
    return f"node {label!r} ({shortened(domain)}.{shortened(node.op_type)}, opset {lowering.opsets.get(domain, '?')})"
