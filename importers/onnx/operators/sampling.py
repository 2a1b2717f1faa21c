"""Operators that read between entries: GridSample, AffineGrid, RoiAlign, DeformConv.

What is read carries relevance; where it is read (grids, regions, offsets) does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from backtrace_jax.errors import ModelError
from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from .registry import operator
from .windows import pairs, per_axis, window_places

_MODES = {"bilinear": "linear", "linear": "linear", "nearest": "nearest", "bicubic": "cubic", "cubic": "cubic"}


@operator("GridSample", since=16)
def grid_sample(
    lowering: Lowering,
    X: Value,
    grid: Value,
    *,
    align_corners: int = 0,
    mode: str = "linear",
    padding_mode: str = "zeros",
) -> Value:
    """X [N, C, *sizes] read at the positions of a grid [N, *result, axes] that runs from -1 to 1."""
    batch, *places, axes = grid.shape
    settings = {"align_corners": bool(align_corners), "padding": padding_mode}
    kernel = _MODES[mode]
    sizes = tuple(X.shape[2:])
    moved = {**settings, "padding": "zeros"} if kernel == "cubic" else settings  # whose entries are padded one by one
    points = lowering.emit("grid_points", lowering.cast(grid, X.dtype), sizes=sizes, **moved)
    flat = lowering.reshape(points, (batch, math.prod(places), axes))
    read = lowering.emit("sample", X, flat, kernel=kernel, signed=kernel == "cubic", **settings)
    return lowering.reshape(read, (*X.shape[:2], *places))


@operator("AffineGrid", since=20)
def affine_grid(lowering: Lowering, theta: Value, size: Value, *, align_corners: int = 0) -> Value:
    """Positions of a result of this size under affine maps theta [N, axes, axes + 1], for GridSample."""
    batch, _, *sizes = lowering.integers(size, "the size of AffineGrid")
    lines = [_line(count, bool(align_corners)) for count in reversed(sizes)]
    mesh = np.meshgrid(*reversed(lines), indexing="ij")[::-1]
    points = np.stack([axis.reshape(-1) for axis in (*mesh, np.ones(sizes))], axis=-1).astype(theta.dtype)
    placed = lowering.emit("matmul", points, lowering.transpose(theta, (0, 2, 1)))
    return lowering.reshape(placed, (batch, *sizes, len(sizes)))


def _line(count: int, align_corners: bool) -> np.ndarray:
    if align_corners:
        return np.linspace(-1, 1, count) if count > 1 else np.zeros(1)
    return (2 * np.arange(count) + 1) / count - 1


@operator("RoiAlign", since=10)
def roi_align_10(lowering: Lowering, X: Value, rois: Value, batch_indices: Value, **attributes: object) -> Value:
    """Before opset 16 regions are not moved by half an entry."""
    return roi_align(lowering, X, rois, batch_indices, coordinate_transformation_mode="output_half_pixel", **attributes)


@operator("RoiAlign", since=16)
def roi_align(
    lowering: Lowering,
    X: Value,
    rois: Value,
    batch_indices: Value,
    *,
    coordinate_transformation_mode: str = "half_pixel",
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> Value:
    """Regions of X [N, C, height, width] at one size: mean, or largest weighted entry, of samples in each cell."""
    half = coordinate_transformation_mode == "half_pixel"
    regions = lowering.known(rois, "the regions of RoiAlign").astype(np.float64) * spatial_scale - (0.5 if half else 0)
    cells = (output_height, output_width)
    rows = lowering.integers(batch_indices, "the examples of RoiAlign")
    pooled = [
        _pooled_region(lowering, X, region, row, cells, sampling_ratio, mode, half)
        for row, region in zip(rows, regions, strict=True)
    ]
    return pooled[0] if len(pooled) == 1 else lowering.emit("concat", *pooled, axis=0)


def _pooled_region(
    lowering: Lowering,
    X: Value,
    region: np.ndarray,
    row: int,
    cells: tuple[int, int],
    ratio: int,
    mode: str,
    half: bool,
) -> Value:
    corner, far = region[[1, 0]], region[[3, 2]]
    size = far - corner if half else np.maximum(far - corner, 1)
    step = size / cells
    samples = [ratio or max(math.ceil(extent), 1) for extent in step]
    lowering.limits.check_known((4, math.prod(cells), math.prod(samples)), np.float64)
    lines = [
        start + (np.arange(count * each) + 0.5) * width / each
        for start, count, width, each in zip(corner, cells, step, samples, strict=True)
    ]
    example = lowering.emit("gather", X, np.asarray([row]), axis=0)
    sizes = X.shape[2:]
    if mode == "avg":
        for line, extent in zip(lines, sizes, strict=True):
            lowering.limits.check_known((2, len(line), extent), np.float64)
        weights = [_means(*each).astype(X.dtype) for each in zip(lines, sizes, cells, strict=True)]
        return lowering.emit("interpolate", example, *weights, axes=(2, 3), signed=False)
    points, inside = (
        np.stack(np.meshgrid(*each, indexing="ij"), -1).reshape(1, -1, 2) for each in (lines, _inside(lines, sizes))
    )
    place = np.clip(points, 0, np.array(sizes) - 1).astype(X.dtype)
    read = lowering.emit("sample", example, place, kernel="linear", padding="border", summed=False)
    kept = inside.all(-1).astype(X.dtype).reshape(1, 1, -1, 1)
    read = read if kept.all() else lowering.emit("mul", read, kept)
    split = lowering.reshape(read, (1, X.shape[1], cells[0], samples[0], cells[1], samples[1], 4))
    return lowering.emit("reduce_max", split, axes=(3, 5, 6), keepdims=False)


def _inside(lines: Sequence[np.ndarray], sizes: Sequence[int]) -> list[np.ndarray]:
    """Along each axis, whether a sample lies less than one entry beyond the ends; others count as zero."""
    return [(line >= -1) & (line <= size) for line, size in zip(lines, sizes, strict=True)]


def _means(line: np.ndarray, size: int, cells: int) -> np.ndarray:
    """Weights [cells, entries] of one axis: the mean of the samples of each cell, read between entries."""
    distance = np.abs(np.clip(line, 0, size - 1)[:, None] - np.arange(size))
    weights = np.maximum(1 - distance, 0) * _inside([line], [size])[0][:, None]
    return weights.reshape(cells, -1, size).mean(1)


@operator("DeformConv", since=19)
def deform_conv(
    lowering: Lowering,
    X: Value,
    W: Value,
    offset: Value,
    B: Value | None = None,
    mask: Value | None = None,
    *,
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    offset_group: int = 1,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Value:
    """Convolution of X [N, C, height, width] whose windows read at places moved by offsets, weighed by a mask."""
    rank, window = len(X.shape) - 2, tuple(W.shape[2:])
    if kernel_shape and tuple(kernel_shape) != window:
        raise ModelError(f"kernel_shape {tuple(kernel_shape)} does not fit the weights' window {window}")
    batch, channels, *sizes = X.shape
    places = tuple(offset.shape[2:])
    base = window_places(places, window, per_axis(strides, rank), per_axis(dilations, rank), pairs(pads, rank))
    taps, count = math.prod(window), math.prod(places)
    moved = lowering.reshape(offset, (batch * offset_group, taps, rank, count))
    points = lowering.emit("add", lowering.transpose(moved, (0, 1, 3, 2)), base.astype(X.dtype))
    points = lowering.reshape(points, (batch * offset_group, taps * count, rank))
    parts = lowering.reshape(X, (batch * offset_group, channels // offset_group, *sizes))
    read = lowering.emit("sample", parts, points, kernel="linear", padding="zeros")
    if mask is not None:
        read = lowering.emit("mul", read, lowering.reshape(mask, (batch * offset_group, 1, taps * count)))
    patches = lowering.reshape(read, (batch, group, channels // group * taps, count))
    kernel = lowering.reshape(W, (group, W.shape[0] // group, channels // group * taps))
    result = lowering.reshape(lowering.emit("matmul", kernel, patches), (batch, W.shape[0], *places))
    return result if B is None else lowering.emit("add", result, lowering.along_channels(B, rank + 2))
