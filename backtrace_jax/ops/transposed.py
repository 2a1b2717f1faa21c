"""Transposed convolutions; with channels last they are what takes a convolution back, and are made of its pieces."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from .convolving import conv, conv_back
from .windows import Padding, Sizes


def conv_transpose(
    x: Array,
    K: Array,
    *,
    strides: Sizes,
    padding: Padding,
    dilation: Sizes,
    groups: int,
    channels_last: bool = False,
) -> Array:
    """Transposed convolution of any rank: x [N, C, *spatial], K [C, O/groups, *window].

    `padding` is what is cut off (or, where negative, added to) the full result on either side. With channels last x is
    [N, *spatial, C] and K [*window, O/groups, C].
    """
    settings: Any = {"strides": strides, "padding": padding, "dilation": dilation, "groups": groups}
    if not channels_last:
        return _transposed(x, K, **settings)
    axes = zip(x.shape[1:], K.shape, strides, dilation, padding, strict=False)
    sizes = [stride * (n - 1) + step * (k - 1) + 1 - sum(cut) for n, k, stride, step, cut in axes]
    return conv_back(x, K, (x.shape[0], *sizes, groups * K.shape[-2]), channels_last=True, **settings)


def conv_transpose_back(R: Array, K: Array, shape: Sizes, *, channels_last: bool = False, **settings: Any) -> Array:
    """Linear transpose of `conv_transpose` in its first operand, which has this shape."""
    if channels_last:
        return conv(R, K, channels_last=True, **settings)
    (back,) = jax.linear_transpose(lambda x: _transposed(x, K, **settings), jax.ShapeDtypeStruct(shape, R.dtype))(R)
    return back


def _transposed(x: Array, K: Array, strides: Sizes, padding: Padding, dilation: Sizes, groups: int) -> Array:
    """Transposed convolution with channels after the batch, as a convolution of x with its entries brought apart."""
    window = K.shape[2:]
    grouped = K.reshape(groups, K.shape[0] // groups, *K.shape[1:])
    kernel = jnp.flip(jnp.swapaxes(grouped, 1, 2), tuple(range(3, grouped.ndim)))
    kernel = kernel.reshape(K.shape[1] * groups, K.shape[0] // groups, *window)
    reach = [d * (k - 1) for d, k in zip(dilation, window, strict=True)]
    pads = [(r - low, r - high) for r, (low, high) in zip(reach, padding, strict=True)]
    ones = (1,) * len(window)
    return lax.conv_general_dilated(x, kernel, ones, pads, strides, dilation, feature_group_count=groups)
