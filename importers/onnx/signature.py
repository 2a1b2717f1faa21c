"""What a model's inputs and outputs are declared to be."""

from __future__ import annotations

import numpy as np
import onnx

from backtrace_jax.errors import ModelError, UnsupportedError
from backtrace_jax.importers import InputType

from .load import OnnxModel


def input_types(model: OnnxModel) -> tuple[InputType, ...]:
    """The inputs a user has to pass: declared inputs that are not initialisers.

    Raises:
        UnsupportedError: For inputs that are not tensors of numbers.
    """
    initialised = {tensor.name for tensor in model.proto.graph.initializer}
    return tuple(_input_type(info) for info in model.proto.graph.input if info.name not in initialised)


def _input_type(info: onnx.ValueInfoProto) -> InputType:
    if not info.name:
        raise ModelError("a graph input has no name")
    if info.type.WhichOneof("value") != "tensor_type":
        raise UnsupportedError(
            f"input {info.name!r} is not a tensor; sequences, maps and optionals cannot be explained"
        )
    tensor = info.type.tensor_type
    dtype = _dtype(tensor.elem_type, info.name)
    if not tensor.HasField("shape"):
        return InputType(info.name, None, dtype)
    dims = tuple(d.dim_value if d.WhichOneof("value") == "dim_value" else None for d in tensor.shape.dim)
    return InputType(info.name, dims, dtype)


def _dtype(element: int, name: str) -> np.dtype:
    numbers = set(onnx.TensorProto.DataType.values()) - {onnx.TensorProto.STRING, onnx.TensorProto.UNDEFINED}
    if element not in numbers:
        raise UnsupportedError(f"input {name!r} does not hold numbers; turn text into ids before the model")
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element))
