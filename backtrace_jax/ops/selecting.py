"""Operations that select: the result is the winner of a comparison between entries, or a smooth one of all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .linear import same_rank
from .registry import NONE, SELECT, register
from .windows import Padding, Sizes, around

_LONG = 16  # entries of a window along an axis, beyond which one operation for each is too many


def lowest(dtype: np.dtype) -> np.ndarray:
    """The value that loses against every other of its type."""
    if np.issubdtype(dtype, np.integer):
        return np.array(np.iinfo(dtype).min, dtype)
    return np.array(-np.inf, dtype)


def max_pool(
    x: Array, *, window: Sizes, strides: Sizes, padding: Padding, dilation: Sizes, channels_last: bool = False
) -> Array:
    """Largest entry of each window: x [N, C, *spatial], or with channels last [N, *spatial, C].

    Found axis by axis, entry by entry: XLA's own loop over windows takes several times as long on a CPU.
    """
    if max(window) > _LONG:
        return lax.reduce_window(
            x,
            lowest(x.dtype),
            lax.max,
            around(window, 1, channels_last),
            around(strides, 1, channels_last),
            around(padding, (0, 0), channels_last),
            window_dilation=around(dilation, 1, channels_last),
        )
    for axis, sizes in enumerate(zip(window, strides, padding, dilation, strict=True)):
        x = _largest_along(x, axis + (1 if channels_last else 2), *sizes)
    return x


def _largest_along(x: Array, axis: int, size: int, stride: int, padding: tuple[int, int], step: int) -> Array:
    """Largest entry of each window along one axis."""
    borders = [(*padding, 0) if i == axis else (0, 0, 0) for i in range(x.ndim)]
    padded = lax.pad(x, jnp.asarray(lowest(x.dtype)), borders)
    span = padded.shape[axis] - step * (size - 1)  # of the first entries of all windows
    found = [lax.slice_in_dim(padded, n * step, n * step + span, stride, axis) for n in range(size)]
    return reduce(jnp.maximum, found)


def max_positions(
    x: Array, *, window: Sizes, strides: Sizes, padding: Padding, dilation: Sizes, column_major: bool
) -> Array:
    """Where the largest entry of each window lies in the flattened x; with the last axes swapped if column-major."""
    rank, sizes = len(window), x.shape[2:]
    index, inside = np.zeros((1,) * (2 * rank), np.int64), np.ones((1,) * (2 * rank), np.bool_)
    place, order = 0, [*range(rank)][:: -1 if column_major else 1]
    steps = dict(zip(order, np.cumprod([1, *(sizes[i] for i in order[:0:-1])])[::-1], strict=True))
    for axis, (taps, stride, (low, high), spread) in enumerate(zip(window, strides, padding, dilation, strict=True)):
        count = (sizes[axis] + low + high - spread * (taps - 1) - 1) // stride + 1
        line = np.arange(count)[:, None] * stride - low + np.arange(taps)[None] * spread
        shape = [1] * (2 * rank)
        shape[axis], shape[rank + axis] = line.shape
        inside = inside & ((line >= 0) & (line < sizes[axis])).reshape(shape)
        held = np.clip(line, 0, sizes[axis] - 1).reshape(shape)
        index = index + held * int(np.prod(sizes[axis + 1 :], dtype=np.int64))
        place = place + held * int(steps[axis])
    counts = index.shape[:rank]
    read = jnp.take(x.reshape(*x.shape[:2], -1), index.reshape(*counts, -1), axis=2)
    best = jnp.argmax(jnp.where(inside.reshape(1, 1, *counts, -1), read, lowest(x.dtype)), axis=-1)
    places = jnp.take_along_axis(jnp.asarray(np.asarray(place).reshape(1, 1, *counts, -1)), best[..., None], axis=-1)
    image = np.arange(math.prod(x.shape[:2])).reshape(*x.shape[:2], *(1,) * rank) * math.prod(sizes)
    return (places[..., 0] + image).astype(jnp.int64)


def reduce_max(x: Array, *, axes: Sequence[int], keepdims: bool) -> Array:
    """Largest entry over axes."""
    return jnp.max(x, axis=tuple(axes), keepdims=keepdims)


def reduce_min(x: Array, *, axes: Sequence[int], keepdims: bool) -> Array:
    """Smallest entry over axes."""
    return jnp.min(x, axis=tuple(axes), keepdims=keepdims)


def log_sum_exp(x: Array, *, axes: Sequence[int], keepdims: bool) -> Array:
    """log Σ exp x over axes, the smooth maximum, whatever the size of the entries."""
    return jax.nn.logsumexp(x, axis=tuple(axes), keepdims=keepdims)


def _fold(choose: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    def apply(*arrays: Array) -> Array:
        first, *others = same_rank(*arrays)
        for other in others:
            first = choose(first, other)
        return first

    return apply


register(SELECT, {"max_pool": max_pool, "reduce_max": reduce_max, "reduce_min": reduce_min})
register(SELECT, {"log_sum_exp": log_sum_exp})
register(SELECT, {"maximum": _fold(jnp.maximum), "minimum": _fold(jnp.minimum)})
register(NONE, {"max_positions": max_positions})
