"""Windows over values with channels last, as onnxruntime's layout optimiser writes them (com.microsoft)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from .contractions import conv
from .microsoft import MICROSOFT, fused_conv
from .pooling import max_pool
from .registry import operator


def channels_first(lowering: Lowering, X: Value) -> Value:
    """[N, *spatial, C] as [N, C, *spatial]."""
    rank = len(X.shape)
    return lowering.transpose(X, (0, rank - 1, *range(1, rank - 1)))


def channels_last(lowering: Lowering, X: Value) -> Value:
    """[N, C, *spatial] as [N, *spatial, C]."""
    return lowering.transpose(X, (0, *range(2, len(X.shape)), 1))


def in_layout(lowering: Lowering, X: Value, last: int, compute: Callable[[Value], Value]) -> Value:
    """What an operator with channels first makes of a value, whose channels may come last as those of its result."""
    return channels_last(lowering, compute(channels_first(lowering, X))) if last else compute(X)


@operator("NhwcConv", domain=MICROSOFT)
def nhwc_conv(lowering: Lowering, X: Value, W: Value, B: Value | None = None, **settings: Any) -> Value:
    """Convolution of [N, *spatial, C] with weights [M, *window, C]."""
    kernel = channels_first(lowering, W)
    return in_layout(lowering, X, 1, lambda value: conv(lowering, value, kernel, B, **settings))


@operator("NhwcFusedConv", domain=MICROSOFT)
def nhwc_fused_conv(
    lowering: Lowering, X: Value, W: Value, B: Value | None = None, Z: Value | None = None, **settings: Any
) -> Value:
    """An activation of a convolution of [N, *spatial, C] with weights [M, C, *window], to which Z is added before."""
    added = None if Z is None else channels_first(lowering, Z)
    return in_layout(lowering, X, 1, lambda value: fused_conv(lowering, value, W, B, added, **settings))


@operator("NhwcMaxPool", domain=MICROSOFT)
def nhwc_max_pool(lowering: Lowering, x: Value, **settings: Any) -> Value:
    """Largest entry of each window of [N, *spatial, C]."""

    def pooled(value: Value) -> Value:
        result = max_pool(lowering, value, **settings)
        return result[0] if isinstance(result, tuple) else result

    return in_layout(lowering, x, 1, pooled)
