"""Surveys a model for nodes that cannot be lowered, without shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from backtrace_jax.errors import UnsupportedError

from .load import OnnxModel
from .operators import find_operator
from .ordering import in_order
from .schemas import schema_of
from .scope import opsets_of
from .signature import input_types
from .verify import graphs_of

_SHAPE_ONLY = {"Shape", "Size"}  # their results are known as soon as shapes are

Unsupported = tuple[str, str, str]


@dataclass(frozen=True)
class _Part:
    """Nodes to go through: those of the graph, of a sub-graph, or of a function.

    Attributes:
        nodes: The nodes.
        opsets: Opset of each imported domain.
        dynamic: Names of values that depend on the inputs; None: all of them may.
    """

    nodes: Sequence[onnx.NodeProto]
    opsets: dict[str, int]
    dynamic: set[str] | None = None


def unsupported_nodes(model: OnnxModel) -> list[Unsupported]:
    """(node, qualified operator, reason) of every node that depends on the inputs and has no implementation."""
    proto = model.proto
    functions = {(each.domain, each.name, each.overload): each for each in proto.functions}
    waiting = [_Part(proto.graph.node, opsets_of(proto.opset_import), {known.name for known in input_types(model)})]
    entered: set[tuple[str, str, str]] = set()
    found: list[Unsupported] = []
    while waiting:
        part = waiting.pop()
        for node in in_order(part.nodes):
            if not _depends(part, node):
                continue
            called = (node.domain, node.op_type, node.overload)
            if called not in functions:
                found += _reported(node, part.opsets)
            elif called not in entered:  # once, however often it is called, even by itself
                entered.add(called)
                waiting.append(_Part(functions[called].node, opsets_of(functions[called].opset_import)))
            waiting += [
                _Part(graph.node, part.opsets) for attribute in node.attribute for graph in graphs_of(attribute)
            ]
    return found


def _depends(part: _Part, node: onnx.NodeProto) -> bool:
    """Whether a node's results depend on the inputs; the names of those that do are noted."""
    if part.dynamic is None:
        return True
    held = any(attribute.HasField("g") for attribute in node.attribute)  # a sub-graph may read any name around it
    if not held and not part.dynamic.intersection(node.input):
        return False
    if node.op_type not in _SHAPE_ONLY:
        part.dynamic.update(node.output)
    return True


def _reported(node: onnx.NodeProto, opsets: dict[str, int]) -> list[Unsupported]:
    domain = node.domain or "ai.onnx"
    reason = _reason(node.domain, node.op_type, opsets.get(domain, 0))
    label = node.name or next(iter(node.output), "?")
    return [(label, f"{domain}.{node.op_type}", reason)] if reason else []


def _reason(domain: str, name: str, opset: int) -> str:
    try:
        find_operator(domain, name, opset)
    except UnsupportedError as error:
        return "" if _is_defined(domain, name, opset) else str(error)
    return ""


def _is_defined(domain: str, name: str, opset: int) -> bool:
    """Whether ONNX defines the operator by others."""
    schema = schema_of(domain, name, opset)
    return schema is not None and (schema.has_function or schema.has_context_dependent_function)
