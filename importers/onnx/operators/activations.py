"""Activation functions that have settings, or whose form changed between opsets."""

from __future__ import annotations

from typing import Any

import numpy as np

from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from .axes import from_front
from .registry import operator

_SETTINGS: dict[str, tuple[str, dict[str, float]]] = {  # the operation, and its settings with their default values
    "Celu": ("celu", {"alpha": 1.0}),
    "Elu": ("elu", {"alpha": 1.0}),
    "HardSigmoid": ("hard_sigmoid", {"alpha": 0.2, "beta": 0.5}),
    "LeakyRelu": ("leaky_relu", {"alpha": 0.01}),
    "Selu": ("selu", {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875}),
    "Shrink": ("shrink", {"bias": 0.0, "lambd": 0.5}),
    "ThresholdedRelu": ("thresholded_relu", {"alpha": 1.0}),
}


def _register(name: str, op: str, defaults: dict[str, float]) -> None:
    @operator(name)
    def activation(lowering: Lowering, X: Value, *, consumed_inputs: Any = None, **settings: float) -> Value:
        return lowering.emit(op, X, **(defaults | settings))


for _name, (_op, _defaults) in _SETTINGS.items():
    _register(_name, _op, _defaults)


@operator("PRelu", since=7)
def prelu(lowering: Lowering, X: Value, slope: Value) -> Value:
    """Leaky rectifier with a slope that broadcasts against X."""
    return lowering.emit("prelu", X, slope)


@operator("PRelu", since=1)
def prelu_1(lowering: Lowering, X: Value, slope: Value, *, consumed_inputs: Any = None) -> Value:
    """Before opset 7 there is one slope, or one per channel."""
    shared = slope.shape in ((), (1,))
    return prelu(lowering, X, slope if shared else lowering.along_channels(slope, len(X.shape)))


@operator("Gelu", since=20)
def gelu(lowering: Lowering, X: Value, *, approximate: str = "none") -> Value:
    """Gaussian error linear unit, exact or by tanh."""
    return lowering.emit("gelu", X, approximate=approximate == "tanh")


@operator("Swish", since=24)
def swish(lowering: Lowering, X: Value, *, alpha: float = 1.0) -> Value:
    """x times the sigmoid of alpha x."""
    if alpha == 1:
        return lowering.emit("silu", X)
    return lowering.emit("mul", X, lowering.emit("sigmoid", lowering.scale(X, alpha)))


@operator("SwiGLU", since=28)
def swiglu(lowering: Lowering, A: Value, B: Value, *, alpha: float = 1.0) -> Value:
    """B gated by the swish of A."""
    return lowering.emit("mul", swish(lowering, A, alpha=alpha), B)


@operator("Hardmax", since=13)
def hardmax(lowering: Lowering, input: Value, *, axis: int = -1) -> Value:
    """1 at the first largest entry along an axis, 0 elsewhere."""
    axis = from_front(axis, len(input.shape))
    winner = lowering.emit("argmax", input, axis=axis, keepdims=True, last=False)
    places = np.arange(input.shape[axis]).reshape((-1,) + (1,) * (len(input.shape) - 1 - axis))
    return lowering.cast(lowering.emit("equal", winner, places), np.dtype(input.dtype))
