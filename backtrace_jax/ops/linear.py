"""Linear operations: products of two operands (linear in each), fixed-weight linear maps, sums.

A product becomes a linear map as soon as only one of its factors bears relevance: the other one is then its weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .convolving import conv, conv_back
from .registry import LINEAR, PRODUCT, QUOTIENT, SUM, register
from .transposed import conv_transpose, conv_transpose_back
from .windows import Padding, Sizes, around


def same_rank(*arrays: Array) -> list[Array]:
    """Give all arrays the rank of the largest by leading axes of size 1, as NumPy's broadcasting does."""
    rank = max(array.ndim for array in arrays)
    return [jnp.expand_dims(array, tuple(range(rank - array.ndim))) for array in arrays]


def add(*arrays: Array) -> Array:
    """Sum of any number of operands, broadcast against each other."""
    first, *others = same_rank(*arrays)
    for other in others:
        first = first + other
    return first


def sub(a: Array, b: Array) -> Array:
    """Difference, broadcast."""
    a, b = same_rank(a, b)
    return a - b


def mul(a: Array, b: Array) -> Array:
    """Product entry by entry, broadcast."""
    a, b = same_rank(a, b)
    return a * b


def div(a: Array, b: Array) -> Array:
    """Quotient entry by entry, broadcast; integers truncate towards zero."""
    a, b = same_rank(a, b)
    return lax.div(*jnp.broadcast_arrays(a, b))


def einsum(a: Array, b: Array, *, equation: str) -> Array:
    """Einstein summation of two operands."""
    return jnp.einsum(equation, a, b)


def avg_pool(
    x: Array,
    *,
    window: Sizes,
    strides: Sizes,
    padding: Padding,
    dilation: Sizes,
    counted: Padding,
    channels_last: bool = False,
) -> Array:
    """Mean over windows: x [N, C, *spatial]; `counted` is the part of the padding that counts as entries."""
    total = lax.reduce_window(
        x,
        np.zeros((), x.dtype),
        lax.add,
        around(window, 1, channels_last),
        around(strides, 1, channels_last),
        around(padding, (0, 0), channels_last),
        window_dilation=around(dilation, 1, channels_last),
    )
    sizes, first = np.ones((), x.dtype), 1 if channels_last else 2
    spatial = x.shape[first:][: len(window)]
    for axis, counts in enumerate(map(_entries, spatial, window, strides, padding, dilation, counted)):
        sizes = sizes * np.expand_dims(counts.astype(x.dtype), [a for a in range(x.ndim) if a != axis + first])
    return total / sizes


def _entries(
    size: int, window: int, stride: int, padding: tuple[int, int], dilation: int, counted: tuple[int, int]
) -> np.ndarray:
    """How many entries each window of one axis counts."""
    span = dilation * (window - 1) + 1
    starts = np.arange(0, sum(padding) + size - span + 1, stride) - padding[0]
    before, within = (-((starts - edge) // dilation) for edge in (-counted[0], size + counted[1]))  # positions below it
    return np.clip(within, 0, window) - np.clip(before, 0, window)


def reduce_sum(x: Array, *, axes: Sequence[int], keepdims: bool) -> Array:
    """Sum over axes."""
    return jnp.sum(x, axis=tuple(axes), keepdims=keepdims, dtype=x.dtype)


def reduce_mean(x: Array, *, axes: Sequence[int], keepdims: bool) -> Array:
    """Mean over axes."""
    count = int(np.prod([x.shape[axis] for axis in axes], dtype=np.int64))
    return lax.div(reduce_sum(x, axes=axes, keepdims=keepdims), jnp.asarray(count, x.dtype))


def cumsum(x: Array, *, axis: int, exclusive: bool, reverse: bool) -> Array:
    """Running sum along an axis."""
    if exclusive:  # shifted by one entry, so that no sum has to be taken back
        shift = (-1, 1, 0) if reverse else (1, -1, 0)
        borders = [shift if position == axis else (0, 0, 0) for position in range(x.ndim)]
        x = lax.pad(x, jnp.zeros((), x.dtype), borders)
    return lax.cumsum(x, axis=axis, reverse=reverse)


register(
    PRODUCT,
    {"mul": mul, "matmul": jnp.matmul, "einsum": einsum},
)
register(PRODUCT, {"conv": conv}, back=conv_back)
register(PRODUCT, {"conv_transpose": conv_transpose}, back=conv_transpose_back)
register(QUOTIENT, {"div": div})
register(LINEAR, {"avg_pool": avg_pool, "reduce_sum": reduce_sum, "reduce_mean": reduce_mean, "cumsum": cumsum})
register(SUM, {"add": add})
register(SUM, {"sub": sub}, signs=(1, -1))
