"""Convolutions: plain, depthwise, separable and transposed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from backtrace_jax.errors import UnsupportedError

from .activations import activate
from .registry import layer
from .spatial import as_keras, channels_first, tuple_of
from .tensor import Operand, Tensor, as_array
from .writer import Writer

_AUTO = {"same": "SAME_UPPER", "valid": "VALID"}


def kernel_first(kernel: np.ndarray) -> np.ndarray:
    """[*space, in, out] as ONNX has it, [out, in, *space]."""
    return np.moveaxis(kernel, (-1, -2), (0, 1))


def depthwise_first(kernel: np.ndarray) -> np.ndarray:
    """[*space, channels, multiplier] as a convolution in as many groups as there are channels."""
    flat = kernel.reshape(*kernel.shape[:-2], 1, -1)
    return np.moveaxis(flat, (-1, -2), (0, 1))


def mirrored_first(kernel: np.ndarray) -> np.ndarray:
    """[*space, out, in] of a transposed convolution as ONNX has it, [in, out, *space]."""
    return np.moveaxis(kernel, (-1, -2), (0, 1))


@layer("Conv1D", "Conv2D", "Conv3D")
def convolution(writer: Writer, layer: Any, inputs: Tensor) -> Operand:
    """A convolution, in groups or not."""
    kernel = writer.weight(layer, "kernel", kernel_first)
    value = channels_first(writer, layer, inputs, inputs.rank)
    result = _convolved(writer, layer, value, kernel, layer.groups, bias=True)
    return _finished(writer, layer, result, inputs)


@layer("DepthwiseConv1D", "DepthwiseConv2D")
def depthwise(writer: Writer, layer: Any, inputs: Tensor) -> Operand:
    """A convolution of every channel on its own."""
    channels = as_array(layer.kernel).shape[-2]
    kernel = writer.weight(layer, "kernel", depthwise_first)
    value = channels_first(writer, layer, inputs, inputs.rank)
    return _finished(writer, layer, _convolved(writer, layer, value, kernel, channels, bias=True), inputs)


@layer("SeparableConv1D", "SeparableConv2D")
def separable(writer: Writer, layer: Any, inputs: Tensor) -> Operand:
    """Every channel on its own, then all channels at every place."""
    channels = as_array(layer.depthwise_kernel).shape[-2]
    value = channels_first(writer, layer, inputs, inputs.rank)
    own = _convolved(writer, layer, value, writer.weight(layer, "depthwise_kernel", depthwise_first), channels)
    operands = [own, writer.weight(layer, "pointwise_kernel", kernel_first), *_bias(writer, layer)]
    return _finished(writer, layer, writer.emit("Conv", *operands), inputs)


def _convolved(writer: Writer, layer: Any, value: Operand, kernel: str, groups: int, bias: bool = False) -> str:
    strides, dilations = (tuple_of(each, layer.rank) for each in (layer.strides, layer.dilation_rate))
    pads = {"auto_pad": _AUTO.get(layer.padding, "NOTSET")}
    if layer.padding == "causal":  # the past alone
        pads = {"pads": [dilations[0] * (layer.kernel_size[0] - 1), 0]}
    return writer.emit(
        "Conv",
        value,
        kernel,
        *(_bias(writer, layer) if bias else ()),
        strides=strides,
        dilations=dilations,
        group=groups,
        **pads,
    )


def _bias(writer: Writer, layer: Any) -> list[str]:
    return [writer.weight(layer, "bias")] if layer.use_bias else []


def _finished(writer: Writer, layer: Any, value: Operand, inputs: Tensor) -> Operand:
    result = as_keras(writer, layer, value, inputs.rank)
    return activate(writer, layer.activation, result, inputs)


@layer("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")
def transposed(writer: Writer, layer: Any, inputs: Tensor) -> Operand:
    """A transposed convolution, padded as Keras pads it."""
    value = channels_first(writer, layer, inputs, inputs.rank)
    operands = [value, writer.weight(layer, "kernel", mirrored_first), *_bias(writer, layer)]
    settings = ends(layer, layer.kernel_size, inputs.rank - 2)
    return _finished(writer, layer, writer.emit("ConvTranspose", *operands, **settings), inputs)


def ends(layer: Any, window: Sequence[int], rank: int) -> dict[str, Any]:
    """The geometry of a transposed convolution by a window of this size, from a layer's or an operation's settings."""
    strides, dilations = (tuple_of(each, rank) for each in (layer.strides, layer.dilation_rate))
    extra = (None,) * rank if layer.output_padding is None else tuple_of(layer.output_padding, rank)
    spans = [(size - 1) * step + 1 for size, step in zip(window, dilations, strict=True)]
    cut = [_ends(layer.padding, *each) for each in zip(spans, strides, extra, strict=True)]
    pads = [begin for begin, _, _ in cut] + [end for _, end, _ in cut]
    more = [added for _, _, added in cut]
    return {"strides": strides, "dilations": dilations, "pads": pads, "output_padding": more}


def _ends(padding: str, window: int, stride: int, extra: int | None) -> tuple[int, int, int]:
    """What is cut off at the beginning and at the end, and what is added there.

    Keras' JAX backend pads the input spread out by its strides; ONNX cuts the full result, which is wider by
    `window - 1` on both sides.
    """
    if padding == "valid":
        added = max(window, stride) - window if extra is None else extra
        begin, end = window - 1, window - 1 + added
    elif padding == "same":
        total = stride + window - 2 if extra is None else window + window % 2 - 2 + extra
        begin = min(total // 2 + total % 2, window - 1)
        end = total - begin
    else:
        raise UnsupportedError(f"padding {padding!r} of a transposed convolution is unknown")
    return window - 1 - begin, max(window - 1 - end, 0), max(end - window + 1, 0)
