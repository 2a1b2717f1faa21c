"""Operations of keras.ops on images and signals: patches, sizes, filters, Fourier transforms, writing to places."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from backtrace_jax.errors import UnsupportedError

from .neural import from_first, is_last, to_first
from .registry import operation
from .shape import interpolation
from .spatial import tuple_of
from .tensor import Operand, Tensor
from .terms import Term, as_float, term
from .windows import fixed, places_of
from .writer import Writer


@operation("Unfold")
def unfold(writer: Writer, layer: Any, x: Tensor) -> Operand:
    """Windows of [batch, channels, height, width] side by side: [batch, channels x window, windows]."""
    window, dilation, padding, stride = (
        tuple_of(each, 2) for each in (layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    )
    channels, *sizes = fixed(x, (1, 2, 3))
    value, pads = term(writer, x), [0, 0, *padding] * 2
    if any(padding):
        value = value.node("Pad", writer.integers(*pads))
    wide = [size + 2 * more for size, more in zip(sizes, padding, strict=True)]
    places, _ = places_of(wide, window, stride, dilation)
    rows = value.reshaped(writer.size(x, 0, 1), channels, math.prod(wide)).gathered(places.T, 2)
    return rows.reshaped(writer.size(x, 0, 1), channels * places.shape[1], places.shape[0]).name


@operation("Fold")
def fold(writer: Writer, layer: Any, x: Tensor) -> Operand:
    """Windows put together again, what overlaps added up."""
    window, dilation, padding, stride = (
        tuple_of(each, 2) for each in (layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    )
    shapes = [writer.integers(*tuple_of(each, 2)) for each in (layer.output_size, window)]
    settings = {"dilations": dilation, "pads": [*padding, *padding], "strides": stride}
    return term(writer, x).node("Col2Im", *shapes, **settings).name


@operation("ExtractPatches")
def extract_patches(writer: Writer, layer: Any, images: Tensor) -> Operand:
    """Patches of images, or of volumes, whose entries become the channels."""
    last, rank = is_last(layer), len(tuple_of(layer.size, 2))
    if images.rank != rank + 2:
        raise UnsupportedError("takes patches of a single image; give it a batch of one")
    axes = range(1, rank + 1) if last else range(2, rank + 2)
    window, dilation = tuple_of(layer.size, rank), tuple_of(layer.dilation_rate, rank)
    strides = tuple_of(layer.strides or layer.size, rank)
    value = term(writer, images) if last else from_first(term(writer, images), rank + 2, last=True)
    channels, sizes = fixed(images, [rank + 1 if last else 1])[0], fixed(images, list(axes))
    if layer.padding == "same":
        value, sizes = _same(value, sizes, window, strides, dilation)
    places, counts = places_of(sizes, window, strides, dilation)
    batch = writer.size(images, 0, 1)
    rows = value.reshaped(batch, math.prod(sizes), channels).gathered(places, 1)
    result = rows.reshaped(batch, *counts, places.shape[1] * channels)
    return (result if last else to_first(result, rank + 2, last=True)).name


def _same(
    value: Term, sizes: Sequence[int], window: Sequence[int], strides: Sequence[int], dilation: Sequence[int]
) -> tuple[Term, list[int]]:
    """Zeros around space, so that there is a window for every stride."""
    pads = []
    for size, taps, stride, step in zip(sizes, window, strides, dilation, strict=True):
        missing = max((-(-size // stride) - 1) * stride + step * (taps - 1) + 1 - size, 0)
        pads.append((missing // 2, missing - missing // 2))
    low, high = ([0, *each, 0] for each in zip(*pads, strict=True))
    wide = [size + sum(each) for size, each in zip(sizes, pads, strict=True)]
    return value.node("Pad", value.writer.integers(*low, *high)), wide


@operation("RGBToGrayscale")
def grayscale(writer: Writer, layer: Any, images: Tensor) -> Operand:
    """One channel out of three, weighted."""
    axis = images.rank - 1 if is_last(layer) else images.rank - 3
    if images.shape[axis] == 1:
        return images
    value = as_float(writer, images)
    weights = np.reshape([0.2989, 0.5870, 0.1140], (3, *(1,) * (images.rank - 1 - axis)))
    return (value * value.number(weights)).reduced("ReduceSum", [axis], keepdims=True).cast(images.dtype).name


@operation("Resize")
def resize(writer: Writer, layer: Any, images: Tensor) -> Operand:
    """Images of another size, resampled at the centres of pixels."""
    if layer.crop_to_aspect_ratio or layer.pad_to_aspect_ratio or images.rank != 4:
        raise UnsupportedError("crops, pads or takes a single image; crop or pad a batch by itself, then resize")
    last, rank = is_last(layer), images.rank
    value = to_first(as_float(writer, images), rank, last)
    settings = {**interpolation(layer.interpolation), "coordinate_transformation_mode": "half_pixel"}
    if layer.interpolation == "nearest":
        settings["nearest_mode"] = "round_prefer_ceil"
    elif layer.antialias:
        settings["antialias"] = 1
    sizes = writer.emit("Concat", writer.size(value.name, 0, 2), writer.integers(*map(int, layer.size)), axis=0)
    return from_first(value.node("Resize", None, None, sizes, **settings), rank, last).cast(images.dtype).name


def _borders(layer: Any, images: Tensor, names: Sequence[str], given: str) -> list[tuple[int, int, int]]:
    """(axis, begin, end) of height and width; what is left out follows from the target's size."""
    first = images.rank - 3 if is_last(layer) else images.rank - 2
    found = []
    for axis, low, high, target in ((first, *names[:2], "target_height"), (first + 1, *names[2:], "target_width")):
        begin, end, wanted = (getattr(layer, name) for name in (low, high, target))
        (size,) = fixed(images, [axis])
        rest = 0 if wanted is None else (wanted - size if given == "padding" else size - wanted)
        begin = rest - end if begin is None else begin
        found.append((axis, begin, rest - begin if end is None else end))
    return found


@operation("PadImages")
def pad_images(writer: Writer, layer: Any, images: Tensor) -> Operand:
    """Zeros around images."""
    names = ("top_padding", "bottom_padding", "left_padding", "right_padding")
    pads = np.zeros((2, images.rank), np.int64)
    for axis, begin, end in _borders(layer, images, names, "padding"):
        pads[:, axis] = begin, end
    return writer.emit("Pad", images, writer.constant(pads.reshape(-1)))


@operation("CropImages")
def crop_images(writer: Writer, layer: Any, images: Tensor) -> Operand:
    """Less of images."""
    value = term(writer, images)
    names = ("top_cropping", "bottom_cropping", "left_cropping", "right_cropping")
    for axis, begin, end in _borders(layer, images, names, "cropping"):
        value = value.sliced(axis, begin, -end if end else None)
    return value.name


def _filtered(value: Term, kernel: np.ndarray, channels: int) -> Term:
    """Every channel of [N, C, H, W] convolved with the same kernel [H, W]."""
    each = np.broadcast_to(kernel, (channels, 1, *kernel.shape))
    return value.node("Conv", value.number(each), group=channels, auto_pad="SAME_UPPER")


@operation("GaussianBlur")
def blur(writer: Writer, layer: Any, images: Tensor) -> Operand:
    """Images convolved with a bell."""
    if images.rank != 4:
        raise UnsupportedError("blurs a single image; give it a batch of one")
    last = is_last(layer)
    places = [np.arange(size) - (size - 1) / 2 for size in layer.kernel_size]
    bells = [np.exp(-0.5 * (place / sigma) ** 2) for place, sigma in zip(places, layer.sigma, strict=True)]
    across, down = (bell / bell.sum() for bell in bells)
    value = to_first(as_float(writer, images), 4, last)
    (channels,) = fixed(images, [3 if last else 1])
    return from_first(_filtered(value, np.outer(down, across), channels), 4, last).name


@operation("SobelEdges")
def sobel_edges(writer: Writer, layer: Any, images: Tensor) -> Operand:
    """Slopes of images, down and across, along a new last axis."""
    last = is_last(layer)
    value = to_first(as_float(writer, images), 4, last)
    (channels,) = fixed(images, [3 if last else 1])
    across = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    edges = [from_first(_filtered(value, kernel, channels), 4, last).unsqueezed(4) for kernel in (across.T, across)]
    return edges[0].node("Concat", edges[1], axis=4).name
