"""Convolutions, and what makes them fast on CPUs where channels are the last axis."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .windows import Padding, Sizes, around, entries

_TILE = 64  # columns, and output channels, that XLA's CPU convolution gives to one thread
_TILES = 2  # that it takes to keep two threads busy
_LANES = 16  # channels that a vector register holds
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
    if not channels_last or groups > 1:
        settings = {"strides": strides, "padding": padding, "dilation": dilation, "groups": groups}
        (back,) = jax.linear_transpose(
            lambda x: conv(x, K, **settings, channels_last=channels_last), jax.ShapeDtypeStruct(shape, R.dtype)
        )(R)
        return back
    if _is_pointwise(K, padding):
        spread = zip(shape[1:-1], R.shape[1:-1], strides, strict=True)
        borders = [(0, size - (count - 1) * stride - 1, stride - 1) for size, count, stride in spread]
        back = jnp.einsum("...o,io->...i", R, K.reshape(K.shape[-2:]))
        return lax.pad(back, jnp.zeros((), R.dtype), around(borders, (0, 0, 0), True))
    if _is_patchwise(shape, K, strides, padding, dilation):
        pushed = jnp.einsum("...o,io->...i", R, K.reshape(-1, K.shape[-1]))
        return _image(pushed, shape, strides)
    if _is_narrow(shape[1:-1], K) and K.shape[-2] < K.shape[-1]:  # products first: less to copy than all channels of R
        settings = R.shape[1:-1], strides, padding, dilation
        (back,) = jax.linear_transpose(lambda x: _gathered(x, K, *settings), jax.ShapeDtypeStruct(shape, R.dtype))(R)
        return back
    turned = jnp.swapaxes(jnp.flip(K, tuple(range(K.ndim - 2))), -1, -2)
    reach = [step * (size - 1) for size, step in zip(K.shape, dilation, strict=False)]
    low = [r - before for r, (before, _) in zip(reach, padding, strict=True)]
    sizes = zip(shape[1:-1], R.shape[1:-1], strides, reach, low, strict=True)
    pads = tuple((before, size - (count - 1) * s - 1 + r - before) for size, count, s, r, before in sizes)
    ones = (1,) * len(strides)
    if strides == ones:
        return _tiled(R, turned, ones, pads, dilation)
    if turned.shape[-1] < _LANES and dilation == ones:
        return _in_phases(R, turned, shape, strides, low)
    return _convolved(R, turned, ones, pads, dilation, spacing=strides)


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


def _convolved(
    x: Array, K: Array, strides: Sizes, padding: Padding, dilation: Sizes, groups: int = 1, spacing: Sizes | None = None
) -> Array:
    """Convolution with channels last; `spacing` is the distance that the entries of x are brought to beforehand."""
    last = x.ndim - 1
    numbers = lax.ConvDimensionNumbers(
        (0, last, *range(1, last)), (last, last - 1, *range(last - 1)), (0, last, *range(1, last))
    )
    return lax.conv_general_dilated(
        x, K, strides, padding, spacing, dilation, dimension_numbers=numbers, feature_group_count=groups
    )


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
    counts = [
        (size + sum(pad) - r - 1) // stride + 1
        for size, pad, r, stride in zip(x.shape[1:-1], padding, reach, strides, strict=True)
    ]
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


def _gathered(x: Array, K: Array, counts: Sequence[int], strides: Sizes, padding: Padding, dilation: Sizes) -> Array:
    """Convolution as a matrix product, with the entries of each window side by side."""
    found = entries(
        x,
        0,
        counts,
        window=K.shape[:-2],
        strides=strides,
        padding=padding,
        dilation=dilation,
        channels_last=True,
    )
    return jnp.matmul(lax.concatenate(found, x.ndim - 1), K.reshape(-1, K.shape[-1]))


def _bands(counts: Sequence[int], channels: int) -> int:
    """Into how many bands to cut: few, of equal height, and none where rows are wide or channels many enough."""
    if len(counts) != 2 or -(-counts[1] // _TILE) * -(-channels // _TILE) >= _TILES:
        return 1
    wanted = [b for b in range(2, counts[0] // 4 + 1) if counts[0] % b == 0 and b * counts[1] >= _TILES * _TILE]
    return wanted[0] if wanted else 1
