"""Surveys a model for nodes that cannot be lowered, without shapes."""

from __future__ import annotations

from backtrace_jax.errors import UnsupportedError

from .load import OnnxModel
from .operators import find_operator
from .signature import input_types

_SHAPE_ONLY = {"Shape", "Size"}  # their results are known as soon as shapes are


def unsupported_nodes(model: OnnxModel) -> list[tuple[str, str, str]]:
    """(node, qualified operator, reason) of every node that depends on the inputs and has no implementation."""
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.proto.opset_import}
    dynamic = {known.name for known in input_types(model)}
    found = []
    for node in model.proto.graph.node:
        domain = node.domain or "ai.onnx"
        if not dynamic.intersection(node.input):
            continue
        if node.op_type not in _SHAPE_ONLY:
            dynamic.update(node.output)
        reason = _reason(node.domain, node.op_type, opsets.get(domain, 0))
        if reason:
            found.append((node.name or node.output[0], f"{domain}.{node.op_type}", reason))
    return found


def _reason(domain: str, name: str, opset: int) -> str:
    try:
        find_operator(domain, name, opset)
    except UnsupportedError as error:
        return str(error)
    return ""
