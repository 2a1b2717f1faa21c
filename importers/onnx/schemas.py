"""What ONNX itself knows of its operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
import onnx
from onnx import numpy_helper, shape_inference

from backtrace_jax.ir import Var

NEWEST = 2**31 - 1  # opset that stands for all newer ones
_READABLE = 256  # entries of a known operand that shape inference gets to see


def schema_of(domain: str, name: str, opset: int | None) -> Any:
    """ONNX's definition of an operator at an opset, an `OpSchema` (whose stubs lack functions); None: it has none."""
    domain = "" if domain == "ai.onnx" else domain
    opset = min(opset or 0, NEWEST)
    known = opset > 0 and onnx.defs.has(name, opset, domain)
    return onnx.defs.get_schema(name, opset, domain) if known else None


def infer_results(
    schema: Any, node: onnx.NodeProto, operands: Sequence[Any], opset: int | None
) -> Mapping[str, onnx.TypeProto]:
    """Types of a node's results by ONNX's own shape inference, at the types and small values of its operands.

    Raises:
        Exception: Of onnx, when the node does not fit its definition.
    """
    named = zip(node.input, operands, strict=False)
    given = {name: value for name, value in named if isinstance(value, np.ndarray | Var)}
    types = {name: _type(value) for name, value in given.items()}
    data = {name: numpy_helper.from_array(value) for name, value in given.items() if _is_readable(value)}
    imports = [onnx.helper.make_opsetid(schema.domain, min(opset or 0, NEWEST))]
    return shape_inference.infer_node_outputs(schema, node, types, data, opset_imports=imports)


def _type(value: np.ndarray | Var) -> onnx.TypeProto:
    return onnx.helper.make_tensor_type_proto(onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)


def _is_readable(value: np.ndarray | Var) -> TypeGuard[np.ndarray]:
    return isinstance(value, np.ndarray) and value.size <= _READABLE and value.dtype.isbuiltin == 1
