"""What a model's inputs and outputs are declared to be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx

from backtrace_jax.errors import ModelError, UnsupportedError
from backtrace_jax.ir.imported import InputType

from .load import OnnxModel
from .verify import DYNAMIC

_CONTAINERS = {"sequence_type": "sequence", "optional_type": "optional"}


def input_types(model: OnnxModel) -> tuple[InputType, ...]:
    """The inputs a user has to pass: declared inputs that are not initialisers.

    Raises:
        UnsupportedError: For inputs that hold no numbers.
    """
    initialised = {tensor.name for tensor in model.proto.graph.initializer}
    missing = any(map(_knows_missing, model.proto.graph.node))
    inputs = (_input_type(info) for info in model.proto.graph.input if info.name not in initialised)
    return tuple(replace(each, missing=missing and each.dtype.kind == "f") for each in inputs)


def _knows_missing(node: onnx.NodeProto) -> bool:
    """Whether a node replaces missing values, asks for them, or says which way they go in a tree."""
    ways = (each.ints for each in node.attribute if each.name == "nodes_missing_value_tracks_true")
    return node.op_type in ("Imputer", "IsNaN") or any(map(any, ways))


def _input_type(info: onnx.ValueInfoProto) -> InputType:
    if not info.name:
        raise ModelError("a graph input has no name")
    tensor, container = _unwrapped(info)
    dtype = _dtype(tensor.elem_type, info.name)
    if not tensor.HasField("shape"):
        return InputType(info.name, None, dtype, container)
    return InputType(info.name, tuple(map(_size, tensor.shape.dim)), dtype, container)


def _size(dim: onnx.TensorShapeProto.Dimension) -> int | None:
    fixed = dim.WhichOneof("value") == "dim_value" and dim.dim_value != DYNAMIC
    return dim.dim_value if fixed else None


def _unwrapped(info: onnx.ValueInfoProto) -> tuple[onnx.TypeProto.Tensor, tuple[str, ...]]:
    """Type of the tensors, and what holds them."""
    declared, container = info.type, []
    while (kind := declared.WhichOneof("value")) in _CONTAINERS:
        container.append(_CONTAINERS[kind])
        declared = getattr(declared, kind).elem_type
    if kind != "tensor_type":
        raise UnsupportedError(f"input {info.name!r} is no tensor, sequence or optional; give the model tensors")
    return declared.tensor_type, tuple(container)


def _dtype(element: int, name: str) -> np.dtype:
    numbers = set(onnx.TensorProto.DataType.values()) - {onnx.TensorProto.STRING, onnx.TensorProto.UNDEFINED}
    if element not in numbers:
        raise UnsupportedError(f"input {name!r} does not hold numbers; turn text into ids before the model")
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element))
