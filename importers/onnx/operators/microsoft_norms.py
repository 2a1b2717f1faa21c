"""Sums and normalisations that onnxruntime fuses, in the domain com.microsoft."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from backtrace_jax.errors import ModelError
from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from .microsoft import MICROSOFT
from .normalisation import last_axes, rms_normalization, stashed, statistics
from .registry import operator


@operator("BiasAdd", domain=MICROSOFT)
def bias_add(lowering: Lowering, X: Value, bias: Value, skip: Value) -> Value:
    """A sum of three."""
    return _sum(lowering, X, skip, bias)


@operator("SkipLayerNormalization", domain=MICROSOFT)
def skip_layer_normalization(
    lowering: Lowering,
    input: Value,
    skip: Value,
    gamma: Value,
    beta: Value | None = None,
    bias: Value | None = None,
    *,
    epsilon: float = 1e-12,
) -> tuple[Value, ...]:
    """Layer normalisation of a sum; returns mean, inverse deviation and the sum besides."""
    total = _sum(lowering, input, skip, bias)
    axes = last_axes(total, -1)
    affine = [gamma] if beta is None else [gamma, beta]
    result = stashed(lowering, "layer_norm", total, affine, 1, axes=axes, epsilon=epsilon)
    return result, *_if_asked(lowering, total, epsilon)


def _if_asked(lowering: Lowering, total: Value, epsilon: float) -> tuple[Value, ...]:
    """Mean, inverse deviation and the sum itself, where the node has more results than one."""
    if lowering.result_count == 1:
        return ()
    return *statistics(lowering, total, last_axes(total, -1), epsilon, 1), total


@operator("SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_simplified_layer_normalization(
    lowering: Lowering, input: Value, skip: Value, gamma: Value, bias: Value | None = None, *, epsilon: float = 1e-12
) -> tuple[Value, ...]:
    """Normalisation of a sum by its root mean square; returns the sum as the last result."""
    total = _sum(lowering, input, skip, bias)
    result = rms_normalization(lowering, total, gamma, epsilon=epsilon)
    if lowering.result_count == 1:
        return (result,)
    inverse = _inverse_root_mean_square(lowering, total, last_axes(total, -1), epsilon)
    return result, np.zeros(inverse.shape, np.float32), inverse, total


def _sum(lowering: Lowering, input: Value, skip: Value, bias: Value | None) -> Value:
    """What is skipped added to the input, whose own bias comes first: that is what the optimiser fuses."""
    own = input if bias is None else lowering.emit("add", input, bias)
    return lowering.emit("add", own, skip)


def _inverse_root_mean_square(lowering: Lowering, X: Value, axes: Sequence[int], epsilon: float) -> Value:
    wide = lowering.cast(X, np.dtype(np.float32))
    squares = lowering.emit("reduce_mean", lowering.emit("mul", wide, wide), axes=tuple(axes), keepdims=True)
    return lowering.emit("rsqrt", lowering.emit("add", squares, np.asarray(epsilon, np.float32)))


@operator("SimplifiedLayerNormalization")
@operator("SimplifiedLayerNormalization", domain=MICROSOFT)
def simplified_layer_normalization(
    lowering: Lowering, X: Value, scale: Value, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> tuple[Value, ...]:
    """Division by the root mean square over the last axes, from `axis` on; and its inverse where it is asked for."""
    result = rms_normalization(lowering, X, scale, axis=axis, epsilon=epsilon, stash_type=stash_type)
    if lowering.result_count == 1:
        return (result,)
    return result, _inverse_root_mean_square(lowering, X, last_axes(X, axis), epsilon)


@operator("GroupNorm", domain=MICROSOFT)
def group_norm(
    lowering: Lowering,
    X: Value,
    gamma: Value,
    beta: Value,
    *,
    activation: int,
    channels_last: int = 1,
    epsilon: float = 1e-5,
    groups: int,
) -> Value:
    """Groups of channels normalised together, and the SiLU of that if `activation` is 1."""
    rank = len(X.shape)
    channels_first = (0, rank - 1, *range(1, rank - 1))
    value = lowering.transpose(X, channels_first) if channels_last else X
    affine = [lowering.along_channels(operand, rank) for operand in (gamma, beta)]
    value = stashed(lowering, "group_norm", value, affine, 1, groups=groups, epsilon=epsilon)
    value = lowering.transpose(value, (0, *range(2, rank), 1)) if channels_last else value
    return lowering.emit("silu", value) if activation else value


@operator("SkipGroupNorm", domain=MICROSOFT)
def skip_group_norm(
    lowering: Lowering, X: Value, gamma: Value, beta: Value, skip: Value, bias: Value | None = None, **settings: Any
) -> tuple[Value, Value]:
    """Group normalisation of a sum, and the sum itself; what is skipped may lack the spatial axes."""
    if len(skip.shape) == 2:
        skip = lowering.reshape(skip, (skip.shape[0], *(1 for _ in X.shape[2:]), skip.shape[1]))
    total = _sum(lowering, X, skip, bias)
    return group_norm(lowering, total, gamma, beta, **settings), total


@operator("BranchwiseRMSNorm", domain=MICROSOFT)
def branchwise_rms_norm(
    lowering: Lowering, X: Value, scale: Value | None = None, *, epsilon: float = 1e-5, num_branches: int = 0
) -> Value:
    """Division by the root mean square of each branch, [..., branch, width], which may come side by side."""
    *before, last = X.shape
    branches = lowering.reshape(X, (*before, num_branches, last // num_branches)) if num_branches else X
    count, width = branches.shape[-2:]
    gamma = np.ones(width, np.float32) if scale is None else scale
    gamma = lowering.reshape(gamma, (count, width)) if gamma.shape == (count * width,) else gamma
    wide = lowering.cast(branches, np.dtype(np.float32))
    normal = lowering.emit(
        "rms_norm", wide, lowering.cast(gamma, np.dtype(np.float32)), axes=(len(branches.shape) - 1,), epsilon=epsilon
    )
    return lowering.reshape(lowering.cast(normal, np.dtype(X.dtype)), X.shape)


@operator("GatedRMSNorm", domain=MICROSOFT)
def gated_rms_norm(
    lowering: Lowering, X: Value, scale: Value, gate: Value, *, activation: str = "silu", epsilon: float = 1e-5
) -> Value:
    """Division by the root mean square of groups as long as the scale, times an activation of a gate."""
    if activation not in ("silu", "swish", "sigmoid"):
        raise ModelError(f"activation should be silu, swish or sigmoid; found {activation!r}")
    width = scale.shape[0]
    groups = lowering.reshape(X, (*X.shape[:-1], X.shape[-1] // width, width))
    normal = lowering.reshape(branchwise_rms_norm(lowering, groups, scale, epsilon=epsilon), X.shape)
    return lowering.emit("mul", normal, lowering.emit("sigmoid" if activation == "sigmoid" else "silu", gate))
