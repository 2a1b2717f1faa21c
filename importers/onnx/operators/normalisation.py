"""Normalisations by given statistics (batch) and by those of the value itself (layer, group, ...), and softmax."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from backtrace_jax.errors import ModelError, UnsupportedError
from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from .axes import each_from_front, from_front
from .registry import operator


def _normalise(
    lowering: Lowering, X: Value, scale: Value, shift: Value, mean: Value, var: Value, epsilon: float
) -> Value:
    """Batch normalisation by given statistics: a product and a sum; the channels are the second axis."""
    rank = len(X.shape)
    factor, offset = _affine(lowering, X.dtype, scale, shift, mean, var, epsilon)
    scaled = lowering.emit("mul", X, lowering.along_channels(factor, rank))
    return lowering.emit("add", scaled, lowering.along_channels(offset, rank))


def _affine(
    lowering: Lowering, dtype: np.dtype, scale: Value, shift: Value, mean: Value, var: Value, epsilon: float
) -> tuple[Value, Value]:
    """What the normalisation multiplies by and adds; computed in float64 and rounded once where all is known."""
    statistics = [value.astype(np.float64) for value in (scale, shift, mean, var) if isinstance(value, np.ndarray)]
    if len(statistics) == 4:
        gamma, beta, centre, variance = statistics
        if (variance + epsilon <= 0).any():
            raise ModelError(f"a variance is {variance.min():.3g}; with epsilon={epsilon:.3g} it must be above 0")
        factor = gamma / np.sqrt(variance + epsilon)
        offset = beta - centre * factor
        return lowering.derived(scale, factor.astype(dtype)), lowering.derived(shift, offset.astype(dtype))
    spread = lowering.emit("sqrt", lowering.emit("add", var, np.asarray(epsilon).astype(var.dtype)))
    factor = lowering.cast(lowering.emit("div", scale, lowering.cast(spread, scale.dtype)), dtype)
    moved = lowering.emit("mul", lowering.cast(mean, dtype), factor)
    return factor, lowering.emit("sub", lowering.cast(shift, dtype), moved)


def _refuse_training(training: bool) -> None:
    if training:
        raise UnsupportedError("the node is in training mode; export the model in evaluation mode")


@operator("BatchNormalization", since=14)
def batch_normalization(
    lowering: Lowering,
    X: Value,
    scale: Value,
    B: Value,
    input_mean: Value,
    input_var: Value,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
) -> Value | tuple[Value, ...]:
    """Batch normalisation by given statistics; in training mode by those of X, and what they make of the given ones."""
    if not training_mode:
        return _normalise(lowering, X, scale, B, input_mean, input_var, epsilon)
    affine = [lowering.cast(lowering.along_channels(each, len(X.shape)), X.dtype) for each in (scale, B)]
    axes = (0, *range(2, len(X.shape)))
    result = stashed(lowering, "layer_norm", X, affine, 0, axes=axes, epsilon=epsilon)
    if lowering.result_count == 1:
        return result
    return result, *_running(lowering, X, input_mean, input_var, axes, momentum)


def _running(
    lowering: Lowering, X: Value, mean: Value, var: Value, axes: tuple[int, ...], momentum: float
) -> tuple[Value, ...]:
    """Running mean and variance, moved towards those of a batch."""
    wide = lowering.cast(X, np.dtype(mean.dtype))
    found = lowering.emit("reduce_mean", wide, axes=axes, keepdims=True)
    centred = lowering.emit("sub", wide, found)
    spread = lowering.emit("reduce_mean", lowering.emit("mul", centred, centred), axes=axes, keepdims=False)
    pairs = (mean, lowering.reshape(found, mean.shape)), (var, lowering.cast(spread, np.dtype(var.dtype)))
    parts = [(lowering.scale(old, momentum), lowering.scale(new, 1 - momentum)) for old, new in pairs]
    return tuple(lowering.emit("add", *each) for each in parts)


@operator("BatchNormalization", since=7)
def batch_normalization_7(
    lowering: Lowering,
    X: Value,
    scale: Value,
    B: Value,
    mean: Value,
    var: Value,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    spatial: int = 1,
) -> Value:
    """From opset 7 to 13 the mode follows from the number of results."""
    _refuse_training(lowering.result_count > 1)
    return _normalise(lowering, X, scale, B, mean, var, epsilon)


@operator("BatchNormalization", since=1)
def batch_normalization_1(
    lowering: Lowering,
    X: Value,
    scale: Value,
    B: Value,
    mean: Value,
    var: Value,
    *,
    consumed_inputs: Any = None,
    epsilon: float = 1e-5,
    is_test: int = 0,
    momentum: float = 0.9,
    spatial: int = 1,
) -> Value:
    """Before opset 7 the mode is an attribute."""
    _refuse_training(not is_test)
    return _normalise(lowering, X, scale, B, mean, var, epsilon)


@operator("MeanVarianceNormalization", since=9)
def mean_variance_normalization(lowering: Lowering, X: Value, *, axes: Sequence[int] = (0, 2, 3)) -> Value:
    """Zero mean and unit variance over axes; ONNX adds its tiny number to the deviation rather than the variance."""
    rank = len(X.shape)
    return lowering.emit("layer_norm", X, axes=tuple(sorted(each_from_front(axes, rank))), epsilon=1e-9**2)


@operator("InstanceNormalization")
def instance_normalization(
    lowering: Lowering,
    input: Value,
    scale: Value,
    B: Value,
    *,
    consumed_inputs: Any = None,
    epsilon: float = 1e-5,
) -> Value:
    """Each channel normalised over its spatial axes."""
    rank = len(input.shape)
    affine = [lowering.along_channels(operand, rank) for operand in (scale, B)]
    return stashed(lowering, "layer_norm", input, affine, 0, axes=tuple(range(2, rank)), epsilon=epsilon)


@operator("GroupNormalization", since=21)
def group_normalization(
    lowering: Lowering,
    X: Value,
    scale: Value,
    bias: Value,
    *,
    epsilon: float = 1e-5,
    num_groups: int,
    stash_type: int = 1,
) -> Value:
    """Groups of channels normalised together, then a scale and shift per channel."""
    affine = [lowering.along_channels(operand, len(X.shape)) for operand in (scale, bias)]
    return stashed(lowering, "group_norm", X, affine, stash_type, groups=num_groups, epsilon=epsilon)


@operator("GroupNormalization", since=18)
def group_normalization_18(
    lowering: Lowering, X: Value, scale: Value, bias: Value, *, epsilon: float = 1e-5, num_groups: int
) -> Value:
    """Before opset 21 there is one scale and shift per group."""
    repeats = X.shape[1] // num_groups
    scale, bias = (_repeated(lowering, operand, repeats) for operand in (scale, bias))
    return group_normalization(lowering, X, scale, bias, epsilon=epsilon, num_groups=num_groups, stash_type=0)


def _repeated(lowering: Lowering, value: Value, repeats: int) -> Value:
    """Each entry of a vector several times in a row."""
    if isinstance(value, np.ndarray):
        return lowering.derived(value, np.repeat(value, repeats))
    count = value.shape[0]
    column = lowering.emit("expand", lowering.reshape(value, (count, 1)), shape=(count, repeats))
    return lowering.reshape(column, (count * repeats,))


@operator("LayerNormalization")
def layer_normalization(
    lowering: Lowering,
    X: Value,
    Scale: Value,
    B: Value | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Value | tuple[Value, ...]:
    """Normalisation over the last axes, from `axis` on; mean and inverse deviation where they are asked for."""
    axes = last_axes(X, axis)
    affine = [Scale] if B is None else [Scale, B]
    result = stashed(lowering, "layer_norm", X, affine, stash_type, axes=axes, epsilon=epsilon)
    if lowering.result_count == 1:
        return result
    return result, *statistics(lowering, X, axes, epsilon, stash_type)


def statistics(
    lowering: Lowering, X: Value, axes: tuple[int, ...], epsilon: float, stash_type: int
) -> tuple[Value, Value]:
    """Mean and inverse deviation over axes."""
    wide = lowering.cast(X, np.dtype(np.float32)) if stash_type == 1 else X
    mean = lowering.emit("reduce_mean", wide, axes=axes, keepdims=True)
    centred = lowering.emit("sub", wide, mean)
    variance = lowering.emit("reduce_mean", lowering.emit("mul", centred, centred), axes=axes, keepdims=True)
    return mean, lowering.emit("rsqrt", lowering.emit("add", variance, np.asarray(epsilon).astype(wide.dtype)))


@operator("RMSNormalization", since=23)
def rms_normalization(
    lowering: Lowering,
    X: Value,
    scale: Value,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Value:
    """Division by the root mean square over the last axes, from `axis` on."""
    result = stashed(lowering, "rms_norm", X, [scale], stash_type, axes=last_axes(X, axis), epsilon=epsilon)
    return lowering.cast(result, np.dtype(scale.dtype))


def last_axes(X: Value, axis: int) -> tuple[int, ...]:
    """The axes from one on."""
    return tuple(range(from_front(axis, len(X.shape)), len(X.shape)))


def stashed(lowering: Lowering, op: str, X: Value, affine: Sequence[Value], stash_type: int, **params: Any) -> Value:
    """A normalisation whose statistics are taken in float32 where the value is narrower than that.

    A scale or shift that is computed is a factor or a summand like any other, and no setting of the normalisation.
    """
    wide = X if stash_type != 1 or X.dtype.itemsize >= 4 else lowering.cast(X, np.dtype(np.float32))
    if wide is X and all(isinstance(each, np.ndarray) for each in affine):
        return lowering.emit(op, X, *affine, **params)
    normal = lowering.emit(op, wide, **params)
    result = lowering.emit("mul", lowering.cast(normal, X.dtype), affine[0])
    return lowering.emit("add", result, affine[1]) if len(affine) > 1 else result


@operator("LRN")
def local_response_normalization(
    lowering: Lowering, X: Value, *, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0, size: int
) -> Value:
    """Division by a power of the mean square of neighbouring channels."""
    return lowering.emit("local_response_norm", X, size=size, alpha=alpha, beta=beta, bias=bias)


@operator("LpNormalization")
def lp_normalization(lowering: Lowering, input: Value, *, axis: int = -1, p: int = 2) -> Value:
    """Division by the p-norm along an axis."""
    return lowering.emit("lp_norm", input, axis=from_front(axis, len(input.shape)), p=p)


def _register_softmax(name: str, op: str) -> None:
    @operator(name, since=13)
    def along_axis(lowering: Lowering, input: Value, *, axis: int = -1) -> Value:
        """Softmax along one axis."""
        return lowering.emit(op, input, axis=from_front(axis, len(input.shape)))

    @operator(name, since=1)
    def coerced(lowering: Lowering, input: Value, *, axis: int = 1) -> Value:
        """Before opset 13: softmax over all axes from `axis` on, taken together."""
        first = from_front(axis, len(input.shape))
        merged = (*input.shape[:first], math.prod(input.shape[first:]))
        return lowering.reshape(lowering.emit(op, lowering.reshape(input, merged), axis=first), input.shape)


_register_softmax("Softmax", "softmax")
_register_softmax("LogSoftmax", "log_softmax")
