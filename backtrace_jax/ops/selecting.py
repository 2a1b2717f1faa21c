"""Operations that select: the result is the winner of a comparison between entries of the operands."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .linear import Padding, Sizes, same_rank
from .registry import SELECT, register


def lowest(dtype: np.dtype) -> np.ndarray:
    """The value that loses against every other of its type."""
    if np.issubdtype(dtype, np.integer):
        return np.array(np.iinfo(dtype).min, dtype)
    return np.array(-np.inf, dtype)


def max_pool(x: Array, *, window: Sizes, strides: Sizes, padding: Padding, dilation: Sizes) -> Array:
    """Largest entry of each window: x [N, C, *spatial]."""
    ones = (1, 1)
    return lax.reduce_window(
        x,
        lowest(x.dtype),
        lax.max,
        ones + window,
        ones + strides,
        ((0, 0), (0, 0), *padding),
        window_dilation=ones + dilation,
    )


def reduce_max(x: Array, *, axes: Sequence[int], keepdims: bool) -> Array:
    """Largest entry over axes."""
    return jnp.max(x, axis=tuple(axes), keepdims=keepdims)


def reduce_min(x: Array, *, axes: Sequence[int], keepdims: bool) -> Array:
    """Smallest entry over axes."""
    return jnp.min(x, axis=tuple(axes), keepdims=keepdims)


def _fold(choose: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    def apply(*arrays: Array) -> Array:
        first, *others = same_rank(*arrays)
        for other in others:
            first = choose(first, other)
        return first

    return apply


register(SELECT, {"max_pool": max_pool, "reduce_max": reduce_max, "reduce_min": reduce_min})
register(SELECT, {"maximum": _fold(jnp.maximum), "minimum": _fold(jnp.minimum)})
