"""Col2Im, MaxUnpool, CenterCropPad, NonMaxSuppression and Det."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from backtrace_jax.errors import ModelError
from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from .axes import each_from_front
from .registry import operator
from .windows import pairs, per_axis, span, window_places


@operator("Col2Im", since=18)
def col2im(
    lowering: Lowering,
    input: Value,
    image_shape: Value,
    block_shape: Value,
    *,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Value:
    """Blocks [N, C x block, count] added up where they overlap in an image."""
    image = lowering.integers(image_shape, "the image shape of Col2Im")
    block = lowering.integers(block_shape, "the block shape of Col2Im")
    rank, size = len(image), math.prod(block)
    steps, spread, padding = per_axis(strides, rank), per_axis(dilations, rank), pairs(pads, rank)
    reaches = [span(*each) for each in zip(block, spread, strict=True)]
    sums = [n + low + high for n, (low, high) in zip(image, padding, strict=True)]
    counts = tuple((total - reach) // step + 1 for total, reach, step in zip(sums, reaches, steps, strict=True))
    if input.shape[1] % size or input.shape[2] != math.prod(counts):
        raise ModelError(f"blocks {tuple(input.shape)} do not make up an image {image} of blocks {block}")
    batch, channels = input.shape[0], input.shape[1] // size
    lowering.limits.check_known((2 * rank, size, math.prod(counts)), np.int64)
    places = window_places(counts, block, steps, spread, padding).reshape(-1, rank)
    inside = ((places >= 0) & (places < image)).all(-1)
    cells = np.where(inside, np.ravel_multi_index(tuple(places.T), image, mode="clip"), math.prod(image))
    entries = lowering.reshape(input, (batch, channels, size * math.prod(counts)))
    added = lowering.emit("scatter_add", lowering.transpose(entries, (2, 0, 1)), cells, count=math.prod(image))
    return lowering.reshape(lowering.transpose(added, (1, 2, 0)), (batch, channels, *image))


@operator("MaxUnpool", since=9)
def max_unpool(
    lowering: Lowering,
    X: Value,
    I: Value,  # noqa: E741 - ONNX's name
    output_shape: Value | None = None,
    *,
    kernel_shape: Sequence[int],
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Value:
    """Entries put back where max pooling found them, by their places in the flattened result; zeros elsewhere."""
    rank = len(X.shape) - 2
    steps, padding = per_axis(strides, rank), pairs(pads, rank)
    pooled = zip(X.shape[2:], steps, kernel_shape, padding, strict=True)
    natural = (*X.shape[:2], *((n - 1) * s + k - low - high for n, s, k, (low, high) in pooled))
    shape = natural if output_shape is None else lowering.integers(output_shape, "the shape of MaxUnpool")
    count, total = math.prod(X.shape), math.prod(shape)
    cells = lowering.reshape(_replaced(lowering, I, natural, shape), (count,))
    placed = lowering.emit("scatter_add", lowering.reshape(X, (count,)), cells, count=total)
    return lowering.reshape(placed, shape)


def _replaced(lowering: Lowering, places: Value, natural: Sequence[int], shape: Sequence[int]) -> Value:
    """Places counted in the natural shape, counted in the shape that is asked for."""
    if tuple(natural) == tuple(shape):
        return places
    table = np.zeros(natural, np.int64)
    grid = np.indices(natural)
    inside = np.all([axis < size for axis, size in zip(grid, shape, strict=True)], axis=0)
    table[inside] = np.ravel_multi_index([axis[inside] for axis in grid], shape)
    return lowering.emit("gather", table.reshape(-1), places, axis=0)


@operator("CenterCropPad", since=18)
def center_crop_pad(lowering: Lowering, input_data: Value, shape: Value, *, axes: Sequence[int] | None = None) -> Value:
    """The middle of a value, or the value in the middle of zeros, axis by axis."""
    rank = len(input_data.shape)
    chosen = each_from_front(axes, rank) if axes is not None else range(rank)
    wanted = dict(zip(chosen, lowering.integers(shape, "the shape of CenterCropPad"), strict=True))
    missing = [wanted.get(axis, size) - size for axis, size in enumerate(input_data.shape)]
    low = tuple(m // 2 if m > 0 else -(-m // 2) for m in missing)
    high = tuple(m - before for m, before in zip(missing, low, strict=True))
    if not any((*low, *high)):
        return input_data
    return lowering.emit("pad", input_data, np.zeros((), input_data.dtype), low=low, high=high)


@operator("Det", since=11)
def determinant(lowering: Lowering, X: Value) -> Value:
    """Determinants of square matrices; they carry no relevance."""
    return lowering.emit("determinant", X)


@operator("NonMaxSuppression", since=10)
def non_max_suppression(
    lowering: Lowering,
    boxes: Value,
    scores: Value,
    max_output_boxes_per_class: Value | None = None,
    iou_threshold: Value | None = None,
    score_threshold: Value | None = None,
    *,
    center_point_box: int = 0,
) -> Value:
    """Which boxes stay, best first, when those that overlap a better one are left out: (example, class, box)."""
    what = "which boxes are suppressed"
    most = 0 if max_output_boxes_per_class is None else int(lowering.known(max_output_boxes_per_class, what).item())
    overlap = 0.0 if iou_threshold is None else float(lowering.known(iou_threshold, what).item())
    least = -math.inf if score_threshold is None else float(lowering.known(score_threshold, what).item())
    corners = _corners(lowering.known(boxes, what).astype(np.float64), bool(center_point_box))
    rated = lowering.known(scores, what)
    found = [
        (example, label, box)
        for example in range(rated.shape[0])
        for label in range(rated.shape[1])
        for box in _kept(corners[example], rated[example, label], most, overlap, least)
    ]
    return np.asarray(found, np.int64).reshape(-1, 3)


def _corners(boxes: np.ndarray, centred: bool) -> np.ndarray:
    """Boxes as lowest and highest corner, [..., 2, 2]."""
    first, second = boxes[..., :2], boxes[..., 2:]
    if centred:
        first, second = first - second / 2, first + second / 2
    return np.stack([np.minimum(first, second), np.maximum(first, second)], axis=-2)


def _kept(boxes: np.ndarray, scores: np.ndarray, most: int, overlap: float, least: float) -> list[int]:
    left = [int(i) for i in np.argsort(-scores, kind="stable") if scores[i] > least]
    kept: list[int] = []
    while left and len(kept) < most:
        best, others = left[0], np.asarray(left[1:], np.int64)
        kept.append(best)
        left = others[_overlap(boxes[best], boxes[others]) <= overlap].tolist()
    return kept


def _overlap(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union."""
    shared = np.minimum(box[1], others[:, 1]) - np.maximum(box[0], others[:, 0])
    both = np.prod(np.maximum(shared, 0), axis=-1)
    areas = np.prod(box[1] - box[0]) + np.prod(others[:, 1] - others[:, 0], axis=-1) - both
    return np.divide(both, areas, out=np.zeros_like(both), where=areas > 0)
