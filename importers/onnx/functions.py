"""Functions: operators that a model, or ONNX itself, defines by other operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from backtrace_jax.errors import UnsupportedError
from backtrace_jax.ir import Var

from .lowering import Lowering
from .schemas import schema_of
from .scope import Held, Scope, TensorSequence, opsets_of


def standard_function(node: onnx.NodeProto, opset: int, operands: Sequence[Held | None]) -> onnx.FunctionProto | None:
    """The body by which ONNX itself defines an operator, at the types of these operands; None: it has none."""
    schema = schema_of(node.domain, node.op_type, opset)
    if schema is None:
        return None
    body = b""
    if schema.has_function:
        body = schema.get_function_with_opset_version(opset)
    elif schema.has_context_dependent_function:
        types = [_type_of(operand).SerializeToString() for operand in operands]
        body = schema.get_context_dependent_function_with_opset_version(opset, node.SerializeToString(), types)
    return onnx.FunctionProto.FromString(body) if body else None


def _type_of(value: Held | None) -> onnx.TypeProto:
    if isinstance(value, TensorSequence) and value.items:
        return onnx.helper.make_sequence_type_proto(_type_of(value.items[0]))
    if isinstance(value, np.ndarray | Var):
        code = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(value.dtype))
        return onnx.helper.make_tensor_type_proto(code, value.shape)
    return onnx.TypeProto()


def expand(
    lowering: Lowering, function: onnx.FunctionProto, node: onnx.NodeProto, operands: Sequence[Held | None]
) -> list[Held]:
    """Lower a call of a function: its body sees nothing but its operands and attributes."""
    if len(operands) > len(function.input) or len(node.output) > len(function.output):
        raise UnsupportedError(
            f"the function takes {len(function.input)} operands and gives {len(function.output)} results; found "
            f"{len(operands)} and {len(node.output)}"
        )
    attributes = {**{each.name: each for each in function.attribute_proto}, **_passed(lowering, node)}
    scope = Scope(opsets_of(function.opset_import), attributes=attributes, depth=lowering.scope.depth + 1)
    with lowering.inside(scope):
        for number, name in enumerate(function.input):
            scope.define(name, operands[number] if number < len(operands) else None)
        return lowering.lower_nodes(function.node, function.output[: len(node.output)])


def _passed(lowering: Lowering, node: onnx.NodeProto) -> Mapping[str, onnx.AttributeProto]:
    """Attributes of a call; one that refers to the attribute of a function around is looked up."""
    around = lowering.scope.attributes
    found = {each.name: around.get(each.ref_attr_name) if each.ref_attr_name else each for each in node.attribute}
    return {name: attribute for name, attribute in found.items() if attribute is not None}
