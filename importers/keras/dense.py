"""Dense layers and embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np

from .activations import activate
from .registry import layer, mask
from .tensor import Operand, Tensor, as_array, size_of
from .writer import Writer


@layer("Dense")
def dense(writer: Writer, layer: Any, inputs: Tensor) -> Operand:
    """A product with the kernel along the last axis, a bias, an activation."""
    result = writer.emit("MatMul", real(writer, layer, inputs), writer.weight(layer, "kernel"))
    return finished(writer, layer, result, inputs)


def finished(writer: Writer, layer: Any, value: str, inputs: Tensor) -> Operand:
    """Bias and activation of a layer whose features are last."""
    if layer.bias is not None:
        value = writer.emit("Add", value, writer.weight(layer, "bias"))
    return activate(writer, layer.activation, value, Tensor(value, inputs.shape, layer.compute_dtype))


def real(writer: Writer, layer: Any, value: Tensor) -> Operand:
    """The value in the type that the layer computes in."""
    return writer.cast(value, layer.compute_dtype)


@layer("EinsumDense")
def einsum_dense(writer: Writer, layer: Any, inputs: Tensor) -> Operand:
    """An einsum with the kernel, a bias, an activation; a plain product where the einsum says no more."""
    operands, result = layer.equation.replace(" ", "").split("->")
    data, kernel = operands.split(",")
    shared = _contracted(data, kernel, result)
    if shared:
        value = _product(writer, layer, inputs, shared)
    else:
        value = writer.emit("Einsum", inputs, writer.weight(layer, "kernel"), equation=layer.equation)
    return finished(writer, layer, value, inputs)


def _contracted(data: str, kernel: str, result: str) -> int:
    """Number of axes that end the data, begin the kernel, and are summed over; 0 where it is another sum."""
    for count in range(1, len(kernel) + 1):
        summed, free = kernel[:count], data[: len(data) - count]
        if data.endswith(summed) and result == free + kernel[count:] and not set(kernel[count:]) & set(data):
            return count
    return 0


def _product(writer: Writer, layer: Any, inputs: Tensor, shared: int) -> str:
    """MatMul by the kernel as a matrix."""
    shape = as_array(layer.kernel).shape
    features, results = size_of(shape[:shared]), shape[shared:]

    def matrix(kernel: np.ndarray) -> np.ndarray:
        return kernel.reshape(features, -1)

    free = inputs.rank - shared
    value: Operand = inputs if shared == 1 else writer.reshape(inputs, writer.size(inputs, 0, free), features)
    product = writer.emit("MatMul", value, writer.weight(layer, "kernel", matrix))
    return product if len(results) == 1 else writer.reshape(product, writer.size(product, 0, free), *results)


@layer("Embedding")
def embedding(writer: Writer, layer: Any, inputs: Tensor) -> str:
    """A row of the table for each id."""
    return writer.emit("Gather", writer.weight(layer, "embeddings"), ids(writer, inputs), axis=0)


def ids(writer: Writer, value: Tensor) -> Operand:
    """Token ids as integers; Keras declares them floats by default."""
    source = writer.source(value)
    return source if source.dtype in ("int32", "int64") else writer.recast(source, "int32")


@mask("Embedding")
def embedding_mask(writer: Writer, layer: Any, inputs: Tensor, previous: Any) -> Tensor | None:
    """Padding is id 0."""
    if not layer.mask_zero:
        return None
    tokens = ids(writer, inputs)
    dtype = tokens.dtype if isinstance(tokens, Tensor) else "int32"
    equal = writer.emit("Equal", tokens, writer.constant(np.array(0, dtype)))
    return Tensor(writer.emit("Not", equal), inputs.shape, "bool")


@layer("Masking")
def masking(writer: Writer, layer: Any, inputs: Tensor) -> list[Tensor]:
    """Zeros where all features of a time step have the masked value."""
    differs = writer.emit("Not", writer.emit("Equal", inputs, writer.number(layer.mask_value, inputs)))
    counted = writer.emit("ReduceMax", writer.recast(differs, "int32"), writer.integers(-1), keepdims=1)
    kept = writer.recast(counted, "bool")
    result = writer.emit("Where", kept, inputs, writer.number(0, inputs))
    flat = Tensor(writer.emit("Squeeze", kept, writer.integers(-1)), inputs.shape[:-1], "bool")
    return [Tensor(result, inputs.shape, inputs.dtype, flat)]


@layer(
    "ActivityRegularization",
    "AlphaDropout",
    "Dropout",
    "GaussianDropout",
    "GaussianNoise",
    "Identity",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
)
def identity(writer: Writer, layer: Any, inputs: Any) -> Any:
    """Layers that do something in training alone."""
    return inputs


@layer("Rescaling")
def rescaling(writer: Writer, layer: Any, inputs: Tensor) -> str:
    """A scale and an offset, which may differ by channel."""
    dtype = layer.compute_dtype
    scaled = writer.emit("Mul", real(writer, layer, inputs), writer.constant(as_array(layer.scale), dtype))
    return writer.emit("Add", scaled, writer.constant(as_array(layer.offset), dtype))


@layer("Normalization")
def normalization(writer: Writer, layer: Any, inputs: Tensor) -> str:
    """Standardised features, or back to what they were."""
    mean, variance = (as_array(each) for each in (layer.mean, layer.variance))
    deviation = np.maximum(np.sqrt(variance), np.float32(1e-7))
    value = real(writer, layer, inputs)
    if layer.invert:
        scaled = writer.emit("Mul", value, writer.constant(deviation))
        return writer.emit("Add", scaled, writer.constant(mean))
    return writer.emit("Div", writer.emit("Sub", value, writer.constant(mean)), writer.constant(deviation))
