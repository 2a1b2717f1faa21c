"""Operators that onnxruntime's optimiser and its exporters write, in the domain com.microsoft: fused standard ones.

Each is lowered to what it was fused from, so that an optimised model is explained as the original is. Here are products
and activations; the modules named `microsoft_...` have the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from backtrace_jax.errors import UnsupportedError
from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from .activations import swish
from .contractions import conv, gemm
from .registry import operator

MICROSOFT = "com.microsoft"

_ACTIVATIONS: dict[str, tuple[str, dict[str, float]]] = {  # the operation, and its settings with their default values
    "Clip": ("clip", {"low": -float("inf"), "high": float("inf")}),
    "Elu": ("elu", {"alpha": 1.0}),
    "HardSigmoid": ("hard_sigmoid", {"alpha": 0.2, "beta": 0.5}),
    "LeakyRelu": ("leaky_relu", {"alpha": 0.01}),
    "Relu": ("relu", {}),
    "Selu": ("selu", {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875}),
    "Sigmoid": ("sigmoid", {}),
    "Softplus": ("softplus", {}),
    "Softsign": ("softsign", {}),
    "Tanh": ("tanh", {}),
    "ThresholdedRelu": ("thresholded_relu", {"alpha": 1.0}),
}


def activated(lowering: Lowering, value: Value, name: str, given: Sequence[float | None]) -> Value:
    """The activation of this name, its settings given in order; none if the name is empty."""
    if not name:
        return value
    if name not in _ACTIVATIONS:
        raise UnsupportedError(f"activation {name!r}; there are {', '.join(_ACTIVATIONS)}")
    op, settings = _ACTIVATIONS[name]
    numbers = [number for number in given if number is not None]
    return lowering.emit(op, value, **(settings | dict(zip(settings, numbers, strict=False))))


@operator("FusedMatMul", "TransposeMatMul", domain=MICROSOFT)
def fused_matmul(
    lowering: Lowering,
    A: Value,
    B: Value,
    *,
    alpha: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    transBatchA: int = 0,
    transBatchB: int = 0,
) -> Value:
    """alpha A B, with the last axes swapped, or the first axis behind those of the batch, on demand."""
    A = _transposed(lowering, A, transA, transBatchA)
    B = _transposed(lowering, B, transB, transBatchB)
    known_first = isinstance(A, np.ndarray)  # scaling a known factor costs nothing at run time
    A, B = (lowering.scale(A, alpha), B) if known_first else (A, lowering.scale(B, alpha))
    return lowering.emit("matmul", A, B)


def _transposed(lowering: Lowering, X: Value, swapped: int, batch_behind: int) -> Value:
    """A factor of a product as [batch, row, column]."""
    order = list(range(len(X.shape)))
    if len(order) > 1 and batch_behind:
        order = [*order[1:-1], 0, order[-1]]
    if len(order) > 1 and swapped:
        order[-2:] = order[:-3:-1]
    return lowering.transpose(X, order)


@operator("FusedMatMulActivation", domain=MICROSOFT)
def fused_matmul_activation(
    lowering: Lowering,
    A: Value,
    B: Value,
    *,
    activation: str = "",
    activation_alpha: float | None = None,
    activation_axis: int = 0,
    activation_beta: float | None = None,
    activation_gamma: float | None = None,
    **settings: Any,
) -> Value:
    """An activation of alpha A B."""
    result = fused_matmul(lowering, A, B, **settings)
    return activated(lowering, result, activation, (activation_alpha, activation_beta, activation_gamma))


@operator("FusedGemm", domain=MICROSOFT)
def fused_gemm(
    lowering: Lowering,
    A: Value,
    B: Value,
    C: Value | None = None,
    *,
    activation: str = "",
    activation_alpha: float | None = None,
    activation_beta: float | None = None,
    activation_gamma: float | None = None,
    **settings: Any,
) -> Value:
    """An activation of alpha A B + beta C."""
    result = gemm(lowering, A, B, C, **settings)
    return activated(lowering, result, activation, (activation_alpha, activation_beta, activation_gamma))


@operator("FusedConv", domain=MICROSOFT)
def fused_conv(
    lowering: Lowering,
    X: Value,
    W: Value,
    B: Value | None = None,
    Z: Value | None = None,
    *,
    activation: str = "",
    activation_params: Sequence[float] = (),
    **settings: Any,
) -> Value:
    """An activation of a convolution, to which Z is added before."""
    result = conv(lowering, X, W, B, **settings)
    result = result if Z is None else lowering.emit("add", result, Z)
    return activated(lowering, result, activation, activation_params)


@operator("Gelu", domain=MICROSOFT)
def gelu(lowering: Lowering, X: Value) -> Value:
    """Gaussian error linear unit."""
    return lowering.emit("gelu", X, approximate=False)


@operator("BiasGelu", domain=MICROSOFT)
def bias_gelu(lowering: Lowering, A: Value, B: Value) -> Value:
    """Gaussian error linear unit of a sum."""
    return gelu(lowering, lowering.emit("add", A, B))


@operator("FastGelu", domain=MICROSOFT)
def fast_gelu(lowering: Lowering, X: Value, bias: Value | None = None) -> Value:
    """Gaussian error linear unit by tanh, of a sum if there is a bias."""
    total = X if bias is None else lowering.emit("add", X, bias)
    return lowering.emit("gelu", total, approximate=True)


@operator("GemmFastGelu", domain=MICROSOFT)
def gemm_fast_gelu(lowering: Lowering, X: Value, W: Value, bias: Value | None = None) -> Value:
    """Gaussian error linear unit by tanh of a product."""
    return fast_gelu(lowering, lowering.emit("matmul", X, W), bias)


@operator("QuickGelu", domain=MICROSOFT)
def quick_gelu(lowering: Lowering, X: Value, *, alpha: float = 1.702) -> Value:
    """x times the sigmoid of alpha x."""
    return swish(lowering, X, alpha=alpha)


@operator("BiasSplitGelu", domain=MICROSOFT)
def bias_split_gelu(lowering: Lowering, X: Value, bias: Value) -> Value:
    """Of a sum, the first half of the last axis times the Gaussian error linear unit of the second half."""
    total = lowering.emit("add", X, bias)
    half = total.shape[-1] // 2
    first, second = (lowering.part(total, -1, at, at + half) for at in (0, half))
    return lowering.emit("mul", first, gelu(lowering, second))


@operator("ScaledSiLU", domain=MICROSOFT)
def scaled_silu(lowering: Lowering, X: Value, scale: Value | None = None, *, alpha: float = 1.0) -> Value:
    """SiLU of a value times a number."""
    if scale is None:
        return lowering.emit("silu", lowering.scale(X, alpha))
    return lowering.emit("silu", lowering.emit("mul", X, lowering.cast(lowering.reshape(scale, ()), X.dtype)))


@operator("GatedAdd", domain=MICROSOFT)
def gated_add(lowering: Lowering, X: Value, Y: Value, gate: Value) -> Value:
    """A sum whose second operand passes through a gate, one number for each row."""
    return lowering.emit("add", X, lowering.emit("mul", Y, gate))
