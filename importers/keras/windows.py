"""Where windows over space and time lie."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from backtrace_jax.errors import UnsupportedError

from .tensor import Tensor


def fixed(x: Tensor, axes: Sequence[int]) -> list[int]:
    """Sizes along axes, which must not be dynamic."""
    sizes = [x.shape[axis] for axis in axes]
    if None in sizes:
        raise UnsupportedError("takes windows along axes that have no fixed size; fix the sizes")
    return [int(size) for size in sizes if size is not None]


def places_of(
    sizes: Sequence[int], window: Sequence[int], strides: Sequence[int], dilation: Sequence[int]
) -> tuple[np.ndarray, list[int]]:
    """Positions in a row that each window reads, [windows, entries], and how many windows there are along each axis."""
    lines = []
    for size, taps, stride, step in zip(sizes, window, strides, dilation, strict=True):
        starts = np.arange(0, size - step * (taps - 1), stride)
        lines.append(starts[:, None] + np.arange(taps) * step)
    counts, rank = [line.shape[0] for line in lines], len(lines)
    total: np.ndarray = np.zeros((1,) * (2 * rank), np.int64)
    for axis, (line, size) in enumerate(zip(lines, sizes, strict=True)):
        shape = [1] * (2 * rank)
        shape[axis], shape[rank + axis] = line.shape
        total = total * size + line.reshape(shape)
    return np.broadcast_to(total, (*counts, *window)).reshape(math.prod(counts), -1), counts
