"""Normalisations by statistics of the operand itself, and softmax."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .linear import same_rank
from .registry import NORM, SOFTMAX, register


def layer_norm(x: Array, *affine: Array, axes: Sequence[int], epsilon: float) -> Array:
    """Zero mean and unit variance over axes, then an optional scale and shift."""
    mean = jnp.mean(x, tuple(axes), keepdims=True)
    variance = jnp.mean(jnp.square(x - mean), tuple(axes), keepdims=True)
    return _affine((x - mean) * lax.rsqrt(variance + epsilon), *affine)


def rms_norm(x: Array, *affine: Array, axes: Sequence[int], epsilon: float) -> Array:
    """Unit mean square over axes, then an optional scale."""
    return _affine(x * lax.rsqrt(jnp.mean(jnp.square(x), tuple(axes), keepdims=True) + epsilon), *affine)


def group_norm(x: Array, *affine: Array, groups: int, epsilon: float) -> Array:
    """Layer normalisation within groups of channels: x [N, C, *spatial], scale and shift [C, 1, ...]."""
    grouped = x.reshape(x.shape[0], groups, -1)
    return _affine(layer_norm(grouped, axes=(2,), epsilon=epsilon).reshape(x.shape), *affine)


def lp_norm(x: Array, *, axis: int, p: int) -> Array:
    """x divided by its p-norm along an axis; 0 where the norm is 0."""
    size = jnp.linalg.norm(x, ord=p, axis=axis, keepdims=True)
    return jnp.where(size == 0, jnp.zeros_like(x), x / jnp.where(size == 0, jnp.ones_like(size), size))


def local_response_norm(x: Array, *, size: int, alpha: float, beta: float, bias: float) -> Array:
    """x [N, C, *spatial] divided by a power of the mean square of neighbouring channels."""
    before = (size - 1) // 2
    spatial = x.ndim - 2
    squares = lax.reduce_window(
        jnp.square(x),
        np.zeros((), x.dtype),
        lax.add,
        (1, size) + (1,) * spatial,
        (1,) * x.ndim,
        ((0, 0), (before, size - 1 - before)) + ((0, 0),) * spatial,
    )
    return x / jnp.power(squares * (alpha / size) + bias, beta)


def _affine(x: Array, *affine: Array) -> Array:
    for combine, operand in zip((jnp.multiply, jnp.add), affine, strict=False):
        x = combine(*same_rank(x, operand))
    return x


register(
    NORM,
    {
        "layer_norm": layer_norm,
        "rms_norm": rms_norm,
        "group_norm": group_norm,
        "lp_norm": lp_norm,
        "local_response_norm": local_response_norm,
    },
    carriers=(0,),
)
register(SOFTMAX, {"softmax": jax.nn.softmax, "log_softmax": jax.nn.log_softmax})
