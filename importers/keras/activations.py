"""Activations, by the name of the function or as layers.

What ONNX has as an operator is that operator; the rest is written with a few of them, by the definition that Keras
computes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from backtrace_jax.errors import UnsupportedError

from .registry import layer, operation
from .tensor import Operand, Tensor, as_array
from .writer import Writer

_LARGE_NEGATIVE = {"float16": -3e4}
_MASKED = -1e9


def activate(writer: Writer, function: Any, value: Operand, like: Tensor) -> Operand:
    """Apply an activation, as layers hold it: a function of Keras, None, or a layer.

    Args:
        writer: The graph.
        function: The activation.
        value: What it is applied to.
        like: A tensor of the value's type and rank.

    Raises:
        UnsupportedError: For a function of the user's own.
    """
    if function is None:
        return value
    if hasattr(function, "compute_output_spec"):  # a layer used as an activation
        from .graph import call

        result = call(writer, function, (Tensor(_named(value), like.shape, like.dtype),), {})
        return result.name
    name = getattr(function, "__name__", type(function).__name__)
    module = getattr(function, "__module__", "")
    if not module.startswith("keras.src.") or name not in ACTIVATIONS:
        raise UnsupportedError(
            f"activation {module}.{name} has no ONNX form here; use one of {', '.join(ACTIVATIONS)}, or write it as "
            "operations of keras.ops in a functional model"
        )
    if module.startswith("keras.src.ops.") and name == "gelu":
        return ACTIVATIONS[name](writer, value, like, approximate=True)
    return ACTIVATIONS[name](writer, value, like)


def _named(value: Operand) -> str:
    return value if isinstance(value, str) else value.name


def _node(op_type: str, **attributes: Any) -> Callable[..., str]:
    """An activation that is one operator."""

    def write(writer: Writer, value: Operand, like: Tensor) -> str:
        return writer.emit(op_type, value, **attributes)

    return write


def _clip(writer: Writer, value: Operand, like: Tensor, low: float | int, high: float | int) -> str:
    return writer.emit("Clip", value, writer.number(low, like), writer.number(high, like))


def _softmax(writer: Writer, value: Operand, like: Tensor, axis: Any = -1) -> str:
    axes = [axis] if isinstance(axis, int) else list(axis)
    if len(axes) == 1:
        return writer.emit("Softmax", value, axis=axes[0])
    total = writer.emit("ReduceLogSumExp", value, writer.integers(*axes), keepdims=1)
    return writer.emit("Exp", writer.emit("Sub", value, total))


def _silu(writer: Writer, value: Operand, like: Tensor) -> str:
    return writer.emit("Mul", value, writer.emit("Sigmoid", value))


def _gelu(writer: Writer, value: Operand, like: Tensor, approximate: bool = False) -> str:
    return writer.emit("Gelu", value, approximate="tanh" if approximate else "none")


def _glu(writer: Writer, value: Operand, like: Tensor, axis: int = -1) -> str:
    content, gate = writer.emit_all("Split", value, results=2, axis=axis, num_outputs=2)
    return writer.emit("Mul", content, writer.emit("Sigmoid", gate))


def _tanh_shrink(writer: Writer, value: Operand, like: Tensor) -> str:
    return writer.emit("Sub", value, writer.emit("Tanh", value))


def _log_sigmoid(writer: Writer, value: Operand, like: Tensor) -> str:
    return writer.emit("Neg", writer.emit("Softplus", writer.emit("Neg", value)))


def _squareplus(writer: Writer, value: Operand, like: Tensor, b: int | float = 4) -> str:
    """(x + sqrt(x^2 + b)) / 2."""
    square = writer.emit("Mul", value, value)
    root = writer.emit("Sqrt", writer.emit("Add", square, writer.number(b, like)))
    return writer.emit("Mul", writer.emit("Add", value, root), writer.number(0.5, like))


def _sparse_plus(writer: Writer, value: Operand, like: Tensor) -> str:
    """0 below -1, (x + 1)^2 / 4 between, x above 1."""
    bent = writer.emit("Add", _clip(writer, value, like, -1, 1), writer.number(1, like))
    middle = writer.emit("Mul", writer.emit("Mul", bent, bent), writer.number(0.25, like))
    above = writer.emit("Relu", writer.emit("Sub", value, writer.number(1, like)))
    return writer.emit("Add", middle, above)


def _relu6(writer: Writer, value: Operand, like: Tensor) -> str:
    return _clip(writer, value, like, 0, 6)


def _hard_tanh(writer: Writer, value: Operand, like: Tensor) -> str:
    return _clip(writer, value, like, -1, 1)


def _linear(writer: Writer, value: Operand, like: Tensor) -> Operand:
    return value


ACTIVATIONS: dict[str, Callable[..., Operand]] = {
    "celu": _node("Celu", alpha=1.0),
    "elu": _node("Elu", alpha=1.0),
    "exponential": _node("Exp"),
    "gelu": _gelu,
    "glu": _glu,
    "hard_shrink": _node("Shrink", bias=0.0, lambd=0.5),
    "hard_sigmoid": _node("HardSigmoid", alpha=1 / 6, beta=0.5),
    "hard_silu": _node("HardSwish"),
    "hard_tanh": _hard_tanh,
    "leaky_relu": _node("LeakyRelu", alpha=0.2),
    "linear": _linear,
    "log_sigmoid": _log_sigmoid,
    "log_softmax": _node("LogSoftmax", axis=-1),
    "mish": _node("Mish"),
    "relu": _node("Relu"),
    "relu6": _relu6,
    "selu": _node("Selu"),
    "sigmoid": _node("Sigmoid"),
    "silu": _silu,
    "soft_shrink": _node("Shrink", bias=0.5, lambd=0.5),
    "softmax": _softmax,
    "softplus": _node("Softplus"),
    "softsign": _node("Softsign"),
    "sparse_plus": _sparse_plus,
    "sparse_sigmoid": _node("HardSigmoid", alpha=0.5, beta=0.5),
    "squareplus": _squareplus,
    "tanh": _node("Tanh"),
    "tanh_shrink": _tanh_shrink,
}
"""Function of keras.activations -> how it is written."""


@layer("Activation")
def activation(writer: Writer, layer: Any, inputs: Tensor) -> Operand:
    """An activation on its own."""
    return activate(writer, layer.activation, inputs, inputs)


@layer("ELU")
@operation("Elu")
def elu(writer: Writer, layer: Any, inputs: Tensor) -> str:
    """ELU with its slope."""
    return writer.emit("Elu", inputs, alpha=float(layer.alpha))


@layer("LeakyReLU")
@operation("LeakyRelu")
def leaky_relu(writer: Writer, layer: Any, inputs: Tensor) -> str:
    """ReLU with a slope below zero."""
    return writer.emit("LeakyRelu", inputs, alpha=float(layer.negative_slope))


@layer("PReLU")
def prelu(writer: Writer, layer: Any, inputs: Tensor) -> str:
    """ReLU with a learnt slope below zero."""
    return writer.emit("PRelu", inputs, writer.weight(layer, "alpha"))


@layer("Softmax")
def softmax(writer: Writer, layer: Any, inputs: Tensor, mask: Tensor | None = None) -> str:
    """Softmax over one or more axes; what is masked has no part in it."""
    if mask is None:
        return _softmax(writer, inputs, inputs, layer.axis)
    kept = writer.cast(mask, "bool")
    low = writer.number(_LARGE_NEGATIVE.get(inputs.dtype, _MASKED), inputs)
    shares = _softmax(writer, writer.emit("Where", kept, inputs, low), inputs, layer.axis)
    return writer.emit("Where", kept, shares, writer.number(0, inputs))


@layer("ReLU")
def relu(writer: Writer, layer: Any, inputs: Tensor) -> str:
    """ReLU with a slope below the threshold, and a largest value."""
    slope, threshold = float(as_array(layer.negative_slope)), float(as_array(layer.threshold))
    if slope and layer.max_value is None and not threshold:
        return writer.emit("LeakyRelu", inputs, alpha=slope)
    kept = writer.emit("ThresholdedRelu", inputs, alpha=threshold) if threshold else writer.emit("Relu", inputs)
    if layer.max_value is not None:
        largest = float(as_array(layer.max_value))
        kept = _clip(writer, kept if threshold else inputs, inputs, 0, largest)
    if not slope:
        return kept
    below = writer.emit("Sub", writer.number(threshold, inputs), inputs) if threshold else writer.emit("Neg", inputs)
    lost = writer.emit("Mul", writer.emit("Relu", below), writer.number(np.float32(slope).item(), inputs))
    return writer.emit("Sub", kept, lost)
