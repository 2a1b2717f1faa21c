"""Geometry of sliding windows: how ONNX spells strides, padding and the number of windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from backtrace_jax.errors import ModelError

Sizes: TypeAlias = tuple[int, ...]
Padding: TypeAlias = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Windows:
    """Windows over the spatial axes of a value.

    Attributes:
        shape: Size of a window along each axis.
        strides: Step from one window to the next.
        dilation: Step from one entry of a window to the next.
        padding: Border before and after, as the model declares it.
        ceil: Whether a last window may reach beyond the padding.
    """

    shape: Sizes
    strides: Sizes
    dilation: Sizes
    padding: Padding
    ceil: bool = False

    def reaching(self, sizes: Sizes) -> Padding:
        """The padding with which exactly the windows that ONNX counts fit."""
        spans = map(span, self.shape, self.dilation)
        return tuple(map(self._reach, sizes, spans, self.strides, self.padding))

    def _reach(self, size: int, span: int, stride: int, padding: tuple[int, int]) -> tuple[int, int]:
        low, high = padding
        steps = (size + low + high - span) / stride
        count = (math.ceil(steps) if self.ceil else math.floor(steps)) + 1
        if self.ceil and (count - 1) * stride >= size + low:  # it would start in the padding after the end
            count -= 1
        return low, max((count - 1) * stride + span - size - low, 0)

    def covers(self, sizes: Sizes) -> bool:
        """Whether there is one window and it is the whole value."""
        bare = not any(map(any, self.padding))
        return bare and self.shape == sizes and self.dilation == per_axis(None, len(sizes))


def span(window: int, dilation: int) -> int:
    """How far a dilated window reaches."""
    return dilation * (window - 1) + 1


def per_axis(values: Sequence[int] | None, rank: int, default: int = 1) -> Sizes:
    """One number per spatial axis.

    Raises:
        ModelError: When the model gives another number of them.
    """
    values = tuple(values) if values else (default,) * rank
    if len(values) != rank:
        raise ModelError(f"expected one number for each of the {rank} spatial axes, found {values}")
    return values


def pairs(pads: Sequence[int] | None, rank: int) -> Padding:
    """ONNX lists all starts and then all ends; here they go in pairs, axis by axis."""
    pads = per_axis(pads, 2 * rank, default=0)
    return tuple(zip(pads[:rank], pads[rank:], strict=True))


def in_halves(total: int, auto_pad: str) -> tuple[int, int]:
    """Padding shared between both sides; an odd one goes to the end with SAME_UPPER and to the start otherwise.

    A negative total, of a transposed convolution that is to give more than it has, is all at the end.
    """
    if total < 0:
        return 0, total
    small = total // 2
    return (small, total - small) if auto_pad == "SAME_UPPER" else (total - small, small)


def windows(
    sizes: Sizes,
    shape: Sizes,
    *,
    auto_pad: str,
    dilations: Sequence[int] | None,
    pads: Sequence[int] | None,
    strides: Sequence[int] | None,
    ceil: bool = False,
) -> Windows:
    """Windows of a convolution or a pool from its ONNX attributes."""
    rank = len(sizes)
    if len(shape) != rank:
        raise ModelError(f"a window {shape} does not fit {rank} spatial axes")
    steps, dilation = per_axis(strides, rank), per_axis(dilations, rank)
    if auto_pad == "NOTSET":
        return Windows(shape, steps, dilation, pairs(pads, rank), ceil)
    totals = [0] * rank if auto_pad == "VALID" else map(_same, sizes, shape, steps, dilation)
    return Windows(shape, steps, dilation, tuple(in_halves(total, auto_pad) for total in totals))


def _same(size: int, window: int, stride: int, dilation: int) -> int:
    """Padding that gives one window for every stride begun."""
    return max((math.ceil(size / stride) - 1) * stride + span(window, dilation) - size, 0)


def window_places(
    places: Sequence[int], window: Sequence[int], strides: Sequence[int], dilation: Sequence[int], padding: Sequence
) -> np.ndarray:
    """Where each entry of each window lies, [entries, windows, axes]; `places` are the counts of windows."""
    lines = [
        np.arange(entries)[:, None] * d + np.arange(count)[None] * s - low
        for entries, count, s, d, (low, _) in zip(window, places, strides, dilation, padding, strict=True)
    ]
    rank = len(lines)
    grids = []
    for axis, line in enumerate(lines):
        shape = [1] * (2 * rank)
        shape[axis], shape[rank + axis] = line.shape
        grids.append(np.broadcast_to(line.reshape(shape), (*window, *places)))
    return np.stack(grids, axis=-1).reshape(math.prod(window), math.prod(places), rank)
