"""Holds a node against ONNX's own definition of its operator, before anything is made of the node.

ONNX knows of each of its operators how many operands it takes and of which types, which attributes it has and which it
needs; its shape inference knows much of what they may be. What it leaves open (modes that do not exist, flags that are
neither 0 nor 1, groups of no channels) stands in `attributes`. Operators of other domains are held against that alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import shape_inference

from backtrace_jax.errors import ModelError
from backtrace_jax.ir import Var

from .attributes import check_values
from .schemas import infer_results, schema_of
from .scope import Absent, Held, TensorSequence, Text
from .verify import shortened

_LARGEST_NODE = 2**16  # bytes of a node (the tensors in its attributes) that shape inference gets to see
_LISTED = 12  # types named in a message
_LENIENT = {  # where files in daily use say what the definition does not allow, and what they mean is clear
    "Einsum",  # ellipses of different ranks, which are broadcast
    "Range",  # bounds of shape [1] rather than []
    "Transpose",  # an order that counts from the end, as torch's older exporter writes it
}


def check_node(node: onnx.NodeProto, operands: Sequence[Held | None], opset: int | None) -> None:
    """Refuse a node that cannot be one of its operator.

    Args:
        node: The node, its references to attributes of a function resolved.
        operands: Its operands; None where one is left out.
        opset: Opset of its domain.

    Raises:
        ModelError: Naming the attribute or operand, and what it may be.
    """
    node = _without_empty_ends(node)
    check_values(node)
    schema = schema_of(node.domain, node.op_type, opset)
    if schema is None:
        return
    _check_attributes(node, schema)
    _check_count(node, schema)
    _check_types(operands, _parameters(node, schema), schema)
    if node.op_type not in _LENIENT:
        _infer(node, operands, opset, schema)


def _without_empty_ends(node: onnx.NodeProto) -> onnx.NodeProto:
    """The node without the operands and results that are left out at its end."""
    if not any(names and not names[-1] for names in (node.input, node.output)):
        return node
    found = onnx.NodeProto()
    found.CopyFrom(node)
    for names in (found.input, found.output):
        while names and not names[-1]:
            names.pop()
    return found


def _check_attributes(node: onnx.NodeProto, schema: Any) -> None:
    known = schema.attributes
    for attribute in node.attribute:
        if attribute.name not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise ModelError(f"it has no attribute {shortened(attribute.name)!r}; there is: {listed}")
        wanted = known[attribute.name].type.name
        found = onnx.AttributeProto.AttributeType.Name(attribute.type)
        if found != wanted:
            raise ModelError(f"attribute {attribute.name!r} must be {_kind(wanted)}, found {_kind(found)}")
    given = {attribute.name for attribute in node.attribute}
    missing = sorted(name for name, attribute in known.items() if attribute.required and name not in given)
    if missing:
        raise ModelError(f"attribute {missing[0]!r} is missing, which {node.op_type} needs")


def _kind(name: str) -> str:
    return f"of type {name.lower()}"


def _check_count(node: onnx.NodeProto, schema: Any) -> None:
    for what, count, least, most in (
        ("operands", len(node.input), schema.min_input, schema.max_input),
        ("results", len(node.output), schema.min_output, schema.max_output),
    ):
        if not least <= count <= most:
            bounds = f"{least}" if least == most else f"from {least} to {most}" if most < 1000 else f"at least {least}"
            raise ModelError(f"{node.op_type} has {bounds} {what}, found {count}")
    parts = next((each.i for each in node.attribute if each.name == "num_outputs"), len(node.output))
    if not len(node.output) <= parts <= _LARGEST_NODE:  # onnx's inference ends the process on that
        raise ModelError(f"attribute 'num_outputs' is {parts}, and the node has {len(node.output)} results")


def _parameters(node: onnx.NodeProto, schema: Any) -> list[Any]:
    """The formal parameter that each operand stands for; the last one may stand for many."""
    formal = list(schema.inputs)
    variadic = onnx.defs.OpSchema.FormalParameterOption.Variadic
    if formal and formal[-1].option == variadic:
        formal += formal[-1:] * (len(node.input) - len(formal))
    return formal


def _check_types(operands: Sequence[Held | None], parameters: Sequence[Any], schema: Any) -> None:
    """Operands are there, of allowed types, and of one type where the definition names one for several."""
    single = onnx.defs.OpSchema.FormalParameterOption.Single
    allowed, bound = _allowed(schema.domain, schema.name, schema.since_version), {}
    for operand, formal in zip(operands, parameters, strict=False):
        if operand is None and formal.option == single:
            raise ModelError(f"operand {formal.name!r} is missing")
        found = type_name(operand)
        if not found:
            continue
        types = allowed.get(formal.type_str, (formal.type_str,))
        if found not in types and f"optional({found})" not in types:
            raise ModelError(f"operand {formal.name!r} must be {_listed(types)}, found {_plain(found)}")
        if formal.is_homogeneous and bound.setdefault(formal.type_str, found) != found:
            other = _plain(bound[formal.type_str])
            raise ModelError(f"operand {formal.name!r} must be {other} as those before it are, found {_plain(found)}")


@cache
def _allowed(domain: str, name: str, version: int) -> dict[str, tuple[str, ...]]:
    """The types that each of a definition's type variables may stand for."""
    schema = onnx.defs.get_schema(name, version, domain)
    return {each.type_param_str: tuple(each.allowed_type_strs) for each in schema.type_constraints}


def type_name(value: Held | None) -> str:
    """What ONNX's definitions call the type of a value; empty where a value does not tell it."""
    if isinstance(value, Text):
        return "tensor(string)"
    if isinstance(value, TensorSequence):
        inner = type_name(value.items[0]) if value.items else ""
        return f"seq({inner})" if inner else ""
    return _tensor_name(np.dtype(value.dtype)) if isinstance(value, np.ndarray | Var) else ""


@cache
def _tensor_name(dtype: np.dtype) -> str:
    if dtype.kind in "OSU":
        return "tensor(string)"
    code = onnx.helper.np_dtype_to_tensor_dtype(dtype)
    return f"tensor({onnx.TensorProto.DataType.Name(code).lower()})"


def _plain(name: str) -> str:
    return name.removeprefix("tensor(").removesuffix(")") if name.startswith("tensor(") else name


def _listed(types: Sequence[str]) -> str:
    names = sorted(map(_plain, types))
    return names[0] if len(names) == 1 else f"one of {', '.join(names[:_LISTED])}{', ...' * (len(names) > _LISTED)}"


def _infer(node: onnx.NodeProto, operands: Sequence[Held | None], opset: int | None, schema: Any) -> None:
    """Let ONNX's shape inference look for what does not fit."""
    if not schema.has_type_and_shape_inference_function or node.ByteSize() > _LARGEST_NODE or any(_graphs(node)):
        return
    if any(isinstance(operand, TensorSequence | Text | Absent) for operand in operands):
        return
    try:
        infer_results(schema, node, operands, opset)
    except (shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        raise ModelError(f"it is not valid: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """What shape inference says, without its own labels."""
    text = str(error).partition("\n")[0]
    return shortened(text.rpartition("Error] ")[2])


def _graphs(node: onnx.NodeProto) -> Iterator[bool]:
    for attribute in node.attribute:
        yield attribute.HasField("g") or bool(attribute.graphs)
