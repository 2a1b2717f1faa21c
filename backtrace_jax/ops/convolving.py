"""Convolutions, and what makes them fast, and the same on any number of threads, on CPUs with channels last.

XLA's CPU backend has two implementations. YNNPACK's takes images of more than 16 channels (before or after), shares out
outputs, and adds up each of them alike however many threads there are. Eigen's takes all others, and splits sums by the
threads; so every convolution is written in a form that YNNPACK, or a matrix product, takes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .windows import Padding, Sizes, around, entries

_TILE = 64  # columns, and output channels, that XLA's CPU convolution gives to one thread
_TILES = 2  # that it takes to keep two threads busy
_LANES = 16  # channels that a vector register holds, and up to which YNNPACK leaves convolutions to Eigen
_DEEP = 64  # channels to sum over, from which a product beside its summands is worth writing and reading them
_NARROW = 8  # columns that leave most of a tile empty
_FEW = 9  # entries of a window that are cheap to copy side by side


def conv(
    x: Array,
    K: Array,
    *,
    strides: Sizes,
    padding: Padding,
    dilation: Sizes,
    groups: int,
    channels_last: bool = False,
) -> Array:
    """Convolution of any rank: x [N, C, *spatial], K [O, C/groups, *window].

    With channels last x is [N, *spatial, C] and K [*window, C/groups, O].
    """
    if not channels_last:
        return lax.conv_general_dilated(x, K, strides, padding, rhs_dilation=dilation, feature_group_count=groups)
    if groups > 1:
        return _convolved(x, K, strides, padding, dilation, groups)
    if _is_pointwise(K, padding):
        return jnp.matmul(lax.slice(x, (0,) * x.ndim, x.shape, (1, *strides, 1)), K.reshape(K.shape[-2:]))
    if _is_patchwise(x.shape, K, strides, padding, dilation):
        return jnp.matmul(_patches(x, strides), K.reshape(-1, K.shape[-1]))
    return _tiled(x, K, strides, padding, dilation)


def conv_back(
    R: Array,
    K: Array,
    shape: Sizes,
    *,
    strides: Sizes,
    padding: Padding,
    dilation: Sizes,
    groups: int,
    channels_last: bool = False,
) -> Array:
    """Linear transpose of `conv` in its first operand, which has this shape.

    With channels last the turned kernel is an array of its own, so that it can be made once per model.
    """
    if not channels_last:
        settings = {"strides": strides, "padding": padding, "dilation": dilation, "groups": groups}
        (back,) = jax.linear_transpose(lambda x: conv(x, K, **settings), jax.ShapeDtypeStruct(shape, R.dtype))(R)
        return back
    ones, turned = (1,) * len(strides), _turned(K, groups)
    reach = [step * (size - 1) for size, step in zip(K.shape, dilation, strict=False)]
    low = [r - before for r, (before, _) in zip(reach, padding, strict=True)]
    sizes = zip(shape[1:-1], R.shape[1:-1], strides, reach, low, strict=True)
    pads = tuple((before, size - (count - 1) * s - 1 + r - before) for size, count, s, r, before in sizes)
    if groups > 1:
        spread = lax.pad(R, jnp.zeros((), R.dtype), around([(0, 0, s - 1) for s in strides], (0, 0, 0), True))
        return _convolved(spread, turned, ones, pads, dilation, groups)
    if _is_pointwise(K, padding):
        spread = zip(shape[1:-1], R.shape[1:-1], strides, strict=True)
        borders = [(0, size - (count - 1) * stride - 1, stride - 1) for size, count, stride in spread]
        back = jnp.einsum("...o,io->...i", R, K.reshape(K.shape[-2:]))
        return lax.pad(back, jnp.zeros((), R.dtype), around(borders, (0, 0, 0), True))
    if _is_patchwise(shape, K, strides, padding, dilation):
        pushed = jnp.einsum("...o,io->...i", R, K.reshape(-1, K.shape[-1]))
        return _image(pushed, shape, strides)
    narrow = _is_narrow(shape[1:-1], K) and K.shape[-2] < K.shape[-1]
    if narrow or (strides != ones and (dilation != ones or K.shape[-1] >= _DEEP)):
        # products first: there is less to copy than all channels of R
        settings = R.shape[1:-1], strides, padding, dilation
        (back,) = jax.linear_transpose(lambda x: _gathered(x, K, *settings), jax.ShapeDtypeStruct(shape, R.dtype))(R)
        return back
    return _tiled(R, turned, ones, pads, dilation) if strides == ones else _in_phases(R, turned, shape, strides, low)


def _turned(K: Array, groups: int) -> Array:
    """The kernel of the transpose: entries of the window in reverse order, channels before and after exchanged."""
    *window, before, after = K.shape
    parted = K.reshape(*window, before, groups, after // groups)
    rank = len(window)
    turned = jnp.flip(parted, tuple(range(rank))).transpose(*range(rank), rank + 2, rank + 1, rank)
    return turned.reshape(*window, after // groups, groups * before)


def _is_pointwise(K: Array, padding: Padding) -> bool:
    return K.size == K.shape[-1] * K.shape[-2] and not any(map(any, padding))


def _is_patchwise(shape: Sizes, K: Array, strides: Sizes, padding: Padding, dilation: Sizes) -> bool:
    """Whether every entry belongs to one window."""
    even = not any(size % stride for size, stride in zip(shape[1:-1], strides, strict=True))
    return even and K.shape[:-2] == strides and not any(map(any, padding)) and set(dilation) == {1}


def _is_narrow(counts: Sequence[int], K: Array) -> bool:
    """Whether so few columns are computed, of windows so small, that a matrix product is faster than a convolution."""
    return counts[-1] <= _NARROW and math.prod(K.shape[:-2]) <= _FEW


def _patches(x: Array, window: Sizes) -> Array:
    """x [N, *spatial, C] as [N, *windows, entries of a window]."""
    counts = [size // step for size, step in zip(x.shape[1:-1], window, strict=True)]
    parted = x.reshape(x.shape[0], *(size for pair in zip(counts, window, strict=True) for size in pair), x.shape[-1])
    order = _windows_first(len(window))
    return parted.transpose(order).reshape(x.shape[0], *counts, -1)


def _image(patches: Array, shape: Sizes, window: Sizes) -> Array:
    """The inverse of `_patches`."""
    parted = patches.reshape(*patches.shape[:-1], *window, shape[-1])
    order = _windows_first(len(window))
    return parted.transpose([order.index(axis) for axis in range(len(order))]).reshape(shape)


def _windows_first(rank: int) -> tuple[int, ...]:
    """Order of the axes (batch, count, size, count, size, ..., channels) in which counts come before sizes."""
    return (0, *range(1, 2 * rank, 2), *range(2, 2 * rank + 1, 2), 2 * rank + 1)


def _convolved(x: Array, K: Array, strides: Sizes, padding: Padding, dilation: Sizes, groups: int = 1) -> Array:
    """Convolution with channels last, as one of images with more than 16 channels or as a matrix product."""
    rank = x.ndim - 2
    if rank == 1:
        return _convolved(x[:, None], K[None], (1, *strides), ((0, 0), *padding), (1, *dilation), groups)[:, 0]
    if rank > 2:
        x, K, strides, padding, dilation = _unfolded(x, K, 0, strides, padding, dilation, groups)
        found = _convolved(x.reshape(-1, *x.shape[2:]), K[0], strides[1:], padding[1:], dilation[1:], groups)
        return found.reshape(*x.shape[:2], *found.shape[1:])
    if max(x.shape[-1], K.shape[-1]) > _LANES:
        return _on_images(x, K, strides, padding, dilation, groups)
    longest = int(np.argmax(K.shape[:2]))
    if K.shape[longest] * x.shape[-1] > _LANES:
        return _on_images(*_unfolded(x, K, longest, strides, padding, dilation, groups), groups)
    return _gathered(x, K, _counts(x.shape, K, strides, padding, dilation), strides, padding, dilation, groups)


def _on_images(x: Array, K: Array, strides: Sizes, padding: Padding, dilation: Sizes, groups: int) -> Array:
    """Convolution of images; YNNPACK leaves those with more padding than their windows reach to Eigen as well."""
    steps = zip(padding, K.shape, dilation, strict=False)
    beyond = [pads if sum(pads) > step * (size - 1) else (0, 0) for pads, size, step in steps]
    if any(map(any, beyond)):  # the barrier keeps XLA from making padding of it again
        borders = around([(*pads, 0) for pads in beyond], (0, 0, 0), True)
        x = lax.optimization_barrier(lax.pad(x, jnp.zeros((), x.dtype), borders))
        padding = tuple((0, 0) if any(away) else pads for away, pads in zip(beyond, padding, strict=True))
    numbers = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
    return lax.conv_general_dilated(
        x, K, strides, padding, None, dilation, dimension_numbers=numbers, feature_group_count=groups
    )


def _unfolded(
    x: Array, K: Array, axis: int, strides: Sizes, padding: Padding, dilation: Sizes, groups: int
) -> tuple[Array, Array, Sizes, Padding, Sizes]:
    """The same convolution with the window's entries along one axis side by side in the channels; it has one left."""

    def along(values: Any, others: Any) -> Any:
        return tuple(value if i == axis else other for i, (value, other) in enumerate(zip(values, others, strict=True)))

    ones, zeros = (1,) * len(strides), ((0, 0),) * len(strides)
    found = entries(
        x,
        0,
        along(_counts(x.shape, K, strides, padding, dilation), x.shape[1:-1]),
        window=along(K.shape[:-2], ones),
        strides=along(strides, ones),
        padding=along(padding, zeros),
        dilation=along(dilation, ones),
        channels_last=True,
    )
    kernel = jnp.moveaxis(K, axis, -3)
    kernel = jnp.expand_dims(kernel.reshape(*kernel.shape[:-3], -1, K.shape[-1]), axis)
    return _beside(found, groups), kernel, along(ones, strides), along(zeros, padding), along(ones, dilation)


def _beside(found: Sequence[Array], groups: int) -> Array:
    """Arrays side by side in the channels, within each group."""
    if groups == 1:
        return lax.concatenate(found, found[0].ndim - 1)
    parted = [each.reshape(*each.shape[:-1], groups, -1) for each in found]
    whole = lax.concatenate(parted, parted[0].ndim - 1)
    return whole.reshape(*whole.shape[:-2], -1)


def _counts(shape: Sizes, K: Array, strides: Sizes, padding: Padding, dilation: Sizes) -> list[int]:
    """Sizes of the result along the spatial axes."""
    axes = zip(shape[1:-1], padding, K.shape[:-2], dilation, strides, strict=True)
    return [(size + sum(pad) - step * (window - 1) - 1) // stride + 1 for size, pad, window, step, stride in axes]


def _in_phases(R: Array, K: Array, shape: Sizes, strides: Sizes, low: Sequence[int]) -> Array:
    """Convolution, to this shape, of R with its entries brought `strides` apart and `low` zeros before them.

    Entries of the result that lie equally far behind an entry of R are one phase; all phases come from one convolution
    of R itself, side by side in the channels. That pays where channels alone, an image's three, fill no register.
    """
    size, window, given = (np.array(sizes) for sizes in (shape[1:-1], K.shape[:-2], R.shape[1:-1]))
    stride, before, rank = np.array(strides), np.array(low), len(strides)
    first, last = -(before // stride), (stride + window - 2 - before) // stride  # entry of R that a phase reads
    span, count, skip = last - first + 1, -(-size // stride), stride - 1 - before - stride * first
    borders = [(ahead, behind, 0) for ahead, behind in _rows(skip, span * stride - window - skip)]
    parted = lax.pad(K, jnp.zeros((), K.dtype), [*borders, (0, 0, 0), (0, 0, 0)])
    parted = parted.reshape(*itertools.chain(*_rows(span, stride)), *K.shape[-2:])
    steps, phases = range(0, 2 * rank, 2), range(1, 2 * rank, 2)
    phased = jnp.flip(parted, phases).transpose(*steps, 2 * rank, *phases, 2 * rank + 1)
    padding = tuple((ahead, behind) for ahead, behind in _rows(-first, count + last - given))
    ones = (1,) * rank
    found = _convolved(R, phased.reshape(*span.tolist(), K.shape[-2], -1), ones, padding, ones)
    whole = _image(found, (shape[0], *(count * stride).tolist(), shape[-1]), strides)
    return lax.slice(whole, (0,) * len(shape), shape)


def _rows(*columns: np.ndarray) -> list[tuple[int, ...]]:
    """One entry per axis, of plain numbers."""
    return list(zip(*(column.tolist() for column in columns), strict=True))


def _tiled(x: Array, K: Array, strides: Sizes, padding: Padding, dilation: Sizes) -> Array:
    """Convolution of images in a form that fills the tiles of XLA's CPU convolution, and keeps two threads busy.

    It shares out columns and channels, but not rows: images with rows too narrow for that are cut into bands that are
    laid side by side, which changes no sum, and the narrowest become a matrix product.
    """
    reach = [step * (size - 1) for size, step in zip(K.shape, dilation, strict=False)]
    counts = _counts(x.shape, K, strides, padding, dilation)
    if _is_narrow(counts, K):
        return _gathered(x, K, counts, strides, padding, dilation)
    bands = _bands(counts, K.shape[-1])
    if bands == 1:
        return _convolved(x, K, strides, padding, dilation)
    (rows, columns), (down, across) = counts, strides
    width = x.shape[2] + sum(padding[1])
    spare = -width % across
    borders = [(0, 0, 0), (*padding[0], 0), (padding[1][0], padding[1][1] + spare, 0), (0, 0, 0)]
    padded = lax.pad(x, jnp.zeros((), x.dtype), borders)
    height = rows // bands
    span = (height - 1) * down + reach[0] + 1
    cut = [lax.slice_in_dim(padded, at * height * down, at * height * down + span, axis=1) for at in range(bands)]
    wide = _convolved(lax.concatenate(cut, 2), K, strides, ((0, 0), (0, reach[1] + 1 - across)), dilation)
    parted = wide.reshape(x.shape[0], height, bands, -1, K.shape[-1])[:, :, :, :columns]
    return jnp.swapaxes(parted, 1, 2).reshape(x.shape[0], rows, columns, K.shape[-1])


def _gathered(
    x: Array, K: Array, counts: Sequence[int], strides: Sizes, padding: Padding, dilation: Sizes, groups: int = 1
) -> Array:
    """Convolution as a matrix product, with the entries of each window side by side."""
    settings: Any = {"window": K.shape[:-2], "strides": strides, "padding": padding, "dilation": dilation}
    found = _beside(entries(x, 0, counts, channels_last=True, **settings), groups)
    if groups == 1:
        return jnp.matmul(found, K.reshape(-1, K.shape[-1]))
    parted = found.reshape(*found.shape[:-1], groups, -1)
    product = jnp.einsum("...gk,kgo->...go", parted, K.reshape(parted.shape[-1], groups, -1))
    return product.reshape(*found.shape[:-1], K.shape[-1])


def _bands(counts: Sequence[int], channels: int) -> int:
    """Into how many bands to cut: few, of equal height, and none where rows are wide or channels many enough."""
    if len(counts) != 2 or -(-counts[1] // _TILE) * -(-channels // _TILE) >= _TILES:
        return 1
    wanted = [b for b in range(2, counts[0] // 4 + 1) if counts[0] % b == 0 and b * counts[1] >= _TILES * _TILE]
    return wanted[0] if wanted else 1
