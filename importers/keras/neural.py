"""Operations of keras.ops.nn: convolutions, pools, norms, attention and losses, whose weights are operands."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from backtrace_jax.errors import UnsupportedError

from .activations import ACTIVATIONS
from .attention import causal
from .convolution import ends
from .reductions import listed
from .registry import OPERATIONS, operation
from .spatial import tuple_of
from .tensor import Operand, Tensor
from .terms import Term, as_float, common, term
from .writer import Writer

_AUTO = {"same": "SAME_UPPER", "valid": "VALID"}
_EPSILON = 1e-7


def is_last(layer: Any) -> bool:
    """Whether the channels are the last axis."""
    given = layer.data_format or importlib.import_module("keras").config.image_data_format()
    return given == "channels_last"


def to_first(value: Term, rank: int, last: bool) -> Term:
    """Channels as ONNX has them."""
    return value.transposed((0, rank - 1, *range(1, rank - 1))) if last else value


def from_first(value: Term, rank: int, last: bool) -> Term:
    """Channels as they were."""
    return value.transposed((0, *range(2, rank), 1)) if last else value


def _convolved(layer: Any, value: Term, kernel: Term, rank: int, groups: int = 1) -> Term:
    """A convolution by a kernel [out, in, *space] of a value with channels first."""
    if layer.padding not in _AUTO:
        raise UnsupportedError(f"pads a convolution by {layer.padding!r}; use same or valid")
    strides, dilations = (tuple_of(each, rank - 2) for each in (layer.strides, layer.dilation_rate))
    settings = {"strides": strides, "dilations": dilations, "group": groups, "auto_pad": _AUTO[layer.padding]}
    return value.node("Conv", kernel, **settings)


def _kernel_first(kernel: Term, rank: int) -> Term:
    """[*space, in, out] as [out, in, *space]."""
    return kernel.transposed((rank - 1, rank - 2, *range(rank - 2)))


def _in_groups(kernel: Term, shape: Sequence[int]) -> Term:
    """[*space, channels, multiplier] as [channels x multiplier, 1, *space]."""
    rank = len(shape)
    turned = kernel.transposed((rank - 2, rank - 1, *range(rank - 2)))
    return turned.reshaped(shape[-2] * shape[-1], 1, *shape[:-2])


@operation("Conv")
def convolution(writer: Writer, layer: Any, inputs: Tensor, kernel: Any) -> Operand:
    """A convolution, in as many groups as the kernel leaves."""
    value, weights = common(writer, inputs, kernel)
    last, rank = is_last(layer), inputs.rank
    channels = inputs.shape[-1 if last else 1]
    if channels is None:
        raise UnsupportedError("convolves channels whose number is not fixed; fix it")
    groups = channels // kernel.shape[-2]
    result = _convolved(layer, to_first(value, rank, last), _kernel_first(weights, rank), rank, groups)
    return from_first(result, rank, last).name


@operation("DepthwiseConv")
def depthwise(writer: Writer, layer: Any, inputs: Tensor, kernel: Any) -> Operand:
    """A convolution of every channel on its own."""
    value, weights = common(writer, inputs, kernel)
    last, rank = is_last(layer), inputs.rank
    own = _in_groups(weights, kernel.shape)
    return from_first(_convolved(layer, to_first(value, rank, last), own, rank, kernel.shape[-2]), rank, last).name


@operation("SeparableConv")
def separable(writer: Writer, layer: Any, inputs: Tensor, depthwise_kernel: Any, pointwise_kernel: Any) -> Operand:
    """Every channel on its own, then all channels at every place."""
    value, weights, points = common(writer, inputs, depthwise_kernel, pointwise_kernel)
    last, rank = is_last(layer), inputs.rank
    own = _in_groups(weights, depthwise_kernel.shape)
    apart = _convolved(layer, to_first(value, rank, last), own, rank, depthwise_kernel.shape[-2])
    return from_first(apart.node("Conv", _kernel_first(points, rank)), rank, last).name


@operation("ConvTranspose")
def transposed(writer: Writer, layer: Any, inputs: Tensor, kernel: Any) -> Operand:
    """A transposed convolution, padded as Keras pads it."""
    value, weights = common(writer, inputs, kernel)
    last, rank = is_last(layer), inputs.rank
    settings = ends(layer, kernel.shape[:-2], rank - 2)
    turned = weights.transposed((rank - 1, rank - 2, *range(rank - 2)))
    return from_first(to_first(value, rank, last).node("ConvTranspose", turned, **settings), rank, last).name


@operation("MaxPool", "AveragePool")
def pool(writer: Writer, layer: Any, inputs: Tensor) -> Operand:
    """The largest or the mean of each window; padding does not count."""
    last, rank = is_last(layer), inputs.rank
    window = tuple_of(layer.pool_size, rank - 2)
    strides = window if layer.strides is None else tuple_of(layer.strides, rank - 2)
    settings = {"kernel_shape": window, "strides": strides, "auto_pad": _AUTO[layer.padding]}
    return from_first(
        to_first(term(writer, inputs), rank, last).node(type(layer).__name__, **settings), rank, last
    ).name


@operation("AdaptiveAveragePool", "AdaptiveMaxPool")
def adaptive_pool(writer: Writer, layer: Any, inputs: Tensor) -> Operand:
    """The mean or the largest of windows whose sizes follow from that of the result, axis by axis."""
    value, mean = term(writer, inputs), type(layer).__name__ == "AdaptiveAveragePool"
    axes = range(1, inputs.rank - 1) if is_last(layer) else range(2, inputs.rank)
    for axis, count in zip(axes, tuple_of(layer.output_size, len(axes)), strict=True):
        size = inputs.shape[axis]
        if size is None:
            raise UnsupportedError(f"pools axis {axis}, which has no fixed size; fix it")
        starts = np.arange(count) * size // count
        stops = -(-np.arange(1, count + 1) * size // count)
        value = _windows(value, axis, inputs.rank - 1 - axis, starts, stops, mean)
    return value.name


def _windows(value: Term, axis: int, behind: int, starts: np.ndarray, stops: np.ndarray, mean: bool) -> Term:
    """Of each window along an axis, with so many behind it, the mean or the largest.

    Shorter windows repeat their last entry, at no weight.
    """
    offsets = np.arange((stops - starts).max())
    places = np.minimum(starts[:, None] + offsets, stops[:, None] - 1)
    parts = value.gathered(places, axis)
    if not mean:
        return parts.reduced("ReduceMax", [axis + 1])
    sizes = (stops - starts)[:, None]
    weights = parts.number(np.where(offsets < sizes, 1 / sizes, 0).reshape(*places.shape, *(1,) * behind))
    return (parts * weights).reduced("ReduceSum", [axis + 1])


@operation("LayerNorm", "RMSNorm")
def norm(writer: Writer, layer: Any, x: Tensor, gamma: Any = None, beta: Any = None, scale: Any = None) -> Operand:
    """Standardised, or divided by the root of the mean square, over axes; then scaled and shifted."""
    if getattr(layer, "rms_scaling", False):
        raise UnsupportedError("rms_scaling is deprecated in Keras and has no ONNX form; use rms_normalization")
    places = sorted(listed(layer.axis, x.rank))
    front = [axis for axis in range(x.rank) if axis not in places]
    sizes = [x.shape[axis] for axis in places]
    value = as_float(writer, x)
    if None in sizes:
        raise UnsupportedError("an axis normalised over has no fixed size")
    weights = [gamma if scale is None else scale, beta]
    shape = [int(size) for size in sizes if size is not None]
    ones, given = np.ones(shape), [each for each in weights[1:] if each is not None]
    affine = [term(writer, each, value.dtype) for each in (ones if weights[0] is None else weights[0], *given)]
    op_type = "LayerNormalization" if type(layer).__name__ == "LayerNorm" else "RMSNormalization"
    settings = {"axis": len(front) - x.rank, "epsilon": _EPSILON if layer.epsilon is None else float(layer.epsilon)}
    result = value.transposed([*front, *places]).node(op_type, *affine, **settings)
    return result.transposed(np.argsort([*front, *places]).tolist()).name


@operation("BatchNorm")
def batch_norm(
    writer: Writer, layer: Any, x: Tensor, mean: Any, variance: Any, offset: Any = None, scale: Any = None
) -> Operand:
    """A scale and a shift for each channel, from given statistics."""
    value = as_float(writer, x)
    shape = [-1 if axis == layer.axis % x.rank else 1 for axis in range(x.rank)]
    centre, spread = (term(writer, each, value.dtype).reshaped(*shape) for each in (mean, variance))
    factor = 1 / (spread + float(layer.epsilon)).node("Sqrt")
    if scale is not None:
        factor = factor * term(writer, scale, value.dtype).reshaped(*shape)
    moved = -(centre * factor)
    if offset is not None:
        moved = moved + term(writer, offset, value.dtype).reshaped(*shape)
    return (value * factor + moved).name


@operation("DotProductAttention")
def attention(
    writer: Writer,
    layer: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Any = None,
    mask: Any = None,
    scale: int | float | None = None,
) -> Operand:
    """Attention of [batch, time, heads, size]; heads of keys may serve several heads of queries."""
    if layer.attn_logits_soft_cap:
        raise UnsupportedError("bends its scores (attn_logits_soft_cap); leave it out")
    Q, K, V = (as_float(writer, each).transposed((0, 2, 1, 3)) for each in (query, key, value))
    heads, own, size = query.shape[2], key.shape[2], query.shape[3]
    if None in (heads, own, size) or heads != own:
        raise UnsupportedError("has fewer heads of keys than of queries; repeat the keys and values")
    scores = Q.node("MatMul", K.transposed((0, 1, 3, 2))) * float(1 / math.sqrt(size or 1) if scale is None else scale)
    if bias is not None:
        scores = scores + term(writer, bias, scores.dtype)
    seen = None if mask is None else term(writer, mask, "bool")
    if layer.is_causal:
        before = Term(writer, causal(writer, query, key), "bool")
        seen = before if seen is None else seen & before
    if seen is not None:
        scores = scores.where(seen, float(np.finfo(np.float32).min * 0.7))
    return scores.node("Softmax", axis=3).node("MatMul", V).transposed((0, 2, 1, 3)).name


def _activation(name: str, **attributes: str) -> Any:
    """An activation, with settings of the operation."""

    def write(writer: Writer, layer: Any, x: Tensor) -> Operand:
        settings = {ours: getattr(layer, theirs) for ours, theirs in attributes.items()}
        return ACTIVATIONS[name](writer, x, x, **settings)

    return write


OPERATIONS["SparseSigmoid"] = _activation("sparse_sigmoid")
OPERATIONS["Squareplus"] = _activation("squareplus", b="b")


@operation("Celu")
def celu(writer: Writer, layer: Any, x: Tensor) -> Operand:
    """Continuously differentiable exponential linear unit."""
    return writer.emit("Celu", x, alpha=float(layer.alpha))


@operation("SoftShrink", "HardShrink")
def shrink(writer: Writer, layer: Any, x: Tensor) -> Operand:
    """0 within a threshold; beyond it the value, or what lies beyond."""
    limit = float(layer.threshold)
    bias = limit if type(layer).__name__ == "SoftShrink" else 0.0
    return writer.emit("Shrink", x, bias=bias, lambd=limit)
