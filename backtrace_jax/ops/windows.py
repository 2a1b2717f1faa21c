"""Windows that slide over the spatial axes of [N, C, *spatial], or with channels last [N, *spatial, C]."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import jax.numpy as jnp
from jax import Array, lax

Sizes: TypeAlias = tuple[int, ...]
Padding: TypeAlias = tuple[tuple[int, int], ...]


def around(spatial: Sequence[Any], edge: Any, channels_last: bool) -> tuple[Any, ...]:
    """One entry per axis: these for the spatial axes, `edge` for batch and channels."""
    return (edge, *spatial, edge) if channels_last else (edge, edge, *spatial)


def spatial_sizes(x: Array, channels_last: bool) -> Sizes:
    """Sizes along the spatial axes."""
    return x.shape[1:-1] if channels_last else x.shape[2:]


def offsets(window: Sizes, dilation: Sizes) -> list[Sizes]:
    """Where the entries of a window lie, from its first one on."""
    return list(itertools.product(*(range(0, n * step, step) for n, step in zip(window, dilation, strict=True))))


def entries(
    x: Array,
    fill: Any,
    counts: Sequence[int],
    *,
    window: Sizes,
    strides: Sizes,
    padding: Padding,
    dilation: Sizes,
    channels_last: bool = False,
) -> list[Array]:
    """For each offset within a window, the entry of x that every window has there: strided slices of x.

    Args:
        x: The array.
        fill: What lies in the padding.
        counts: Number of windows along each spatial axis.
        window: Its size along each spatial axis.
        strides: From one window to the next.
        padding: Entries before and after the array.
        dilation: From one entry of a window to the next.
        channels_last: Where the channels are.
    """
    borders = [(low, high, 0) for low, high in padding]
    padded = lax.pad(x, jnp.asarray(fill, x.dtype), around(borders, (0, 0, 0), channels_last))
    spans = [(count - 1) * stride + 1 for count, stride in zip(counts, strides, strict=True)]
    return [cut(padded, at, spans, strides, channels_last) for at in offsets(window, dilation)]


def cut(x: Array, start: Sequence[int], spans: Sequence[int], strides: Sequence[int], channels_last: bool) -> Array:
    """Every `stride`-th entry along the spatial axes of a part of x."""
    first, every = around(start, 0, channels_last), around(strides, 1, channels_last)
    widths = around(spans, 0, channels_last)  # 0: all of the batch and of the channels
    limit = [low + width if width else size for low, width, size in zip(first, widths, x.shape, strict=True)]
    return lax.slice(x, first, limit, every)


def holders(window: Sizes, strides: Sizes, padding: Padding, dilation: Sizes) -> dict[Sizes, list[Sizes]]:
    """Which windows hold an entry, by its phase: its place modulo the strides; phases in no window are left out.

    The entry at place p · strides + phase lies in the windows p + shift, for each of the shifts, as far as there are
    such windows.
    """
    axes = [
        _shifts([n * step - low for n in range(size)], stride)
        for size, stride, (low, _), step in zip(window, strides, padding, dilation, strict=True)
    ]
    return {
        phase: list(itertools.product(*(axis[i] for axis, i in zip(axes, phase, strict=True))))
        for phase in itertools.product(*axes)
    }


def _shifts(places: Sequence[int], stride: int) -> dict[int, list[int]]:
    """Along one axis: the shifts by phase, for the places of the first window's entries."""
    found: dict[int, list[int]] = {}
    for place in places:
        found.setdefault(place % stride, []).append(-(place // stride))
    return found


def interleaved(phases: Mapping[Sizes, Array], strides: Sizes, channels_last: bool) -> Array:
    """The array of which these are every `strides`-th entries, by the phase they begin at; 0 at phases left out."""

    def joined(before: Sizes) -> Array:
        axis = len(before)
        if axis == len(strides):
            return phases[before]
        along = axis + (2 if channels_last else 3)
        found = sorted({at[axis] for at in phases})
        ends = zip(found, [*found[1:], strides[axis]], [found[0], *[0] * len(found)], strict=False)
        parts = [_within(joined((*before, phase)), along, gap, end - phase - 1) for phase, end, gap in ends]
        whole = lax.concatenate(parts, along)
        return whole.reshape(*whole.shape[: along - 1], -1, *whole.shape[along + 1 :])

    return joined(())


def _within(x: Array, axis: int, before: int, after: int) -> Array:
    """The array as one slice along a new axis, with that many slices of zeros before and after it."""
    borders = [(before, after, 0) if i == axis else (0, 0, 0) for i in range(x.ndim + 1)]
    return lax.pad(jnp.expand_dims(x, axis), jnp.zeros((), x.dtype), borders)
