"""Rules that most modes share: moved values, selections, pointwise functions, quotients, embeddings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ..ops.linear import same_rank
from ..ops.selecting import lowest
from .site import DEAD, Kept, Shares, Site, fit, spread


def move(site: Site, R: Array) -> tuple[Shares, Kept]:
    """Relevance follows the entries back: the linear transpose of the move (RULES 2)."""
    carriers = site.carriers
    types = [jax.ShapeDtypeStruct(site.operands[i].shape, R.dtype) for i in carriers]

    def moved(*values: Array) -> Array:
        return site.call(dict(zip(carriers, values, strict=True)))

    shares = jax.linear_transpose(moved, *types)(R)
    return {i: fit(share, site.operands[i]) for i, share in zip(carriers, shares, strict=True)}, {}


def select(site: Site, R: Array) -> tuple[Shares, Kept]:
    """The winner takes all, exact ties share equally (RULES 2).

    Winners are the entries equal to the result. Both are taken from one copy in memory: where XLA computes an operand
    anew in two places, it may round it in two ways, and there would be no winner.
    """
    site = replace(site, operands=lax.optimization_barrier(site.operands))
    return _WINNERS[site.op.name](replace(site, result=site.call({})), R)


def _among_operands(site: Site, R: Array) -> tuple[Shares, Kept]:
    won = [x == site.result for x in same_rank(*site.operands)]
    rate, dead = spread(R, _count(won, R.dtype))
    shares = [jnp.where(mask, rate, 0) for mask in won]
    return {i: fit(share, x) for i, (share, x) in enumerate(zip(shares, site.operands, strict=True))}, {DEAD: dead}


def _over_axes(site: Site, R: Array) -> tuple[Shares, Kept]:
    (x,), axes = site.operands, site.params["axes"]
    result, R = (a if site.params["keepdims"] else jnp.expand_dims(a, axes) for a in (site.result, R))
    won = x == result
    rate, dead = spread(R, jnp.sum(won, axes, keepdims=True, dtype=R.dtype))
    return {0: jnp.where(won, rate, 0)}, {DEAD: dead}


def _over_windows(site: Site, R: Array) -> tuple[Shares, Kept]:
    """Compares every entry of a window with its maximum, offset by offset; no scatter, so the order is fixed."""
    (x,) = site.operands
    won = [entries == site.result for entries in _windows(site, x, lowest(x.dtype))]
    rate, dead = spread(R, _count(won, R.dtype))
    back = jax.linear_transpose(lambda x: _windows(site, x, np.zeros((), x.dtype)), x)
    return {0: back([jnp.where(mask, rate, 0) for mask in won])[0]}, {DEAD: dead}


def _count(won: list[Array], dtype: np.dtype) -> Array:
    """How many operands, or entries of each window, share the win."""
    return sum((mask.astype(dtype) for mask in won), jnp.zeros((), dtype))


def _windows(site: Site, x: Array, fill: np.ndarray) -> list[Array]:
    """The entries of all pooling windows: one strided slice of x per offset within the window."""
    window, strides, padding, dilation = (site.params[k] for k in ("window", "strides", "padding", "dilation"))
    padded = lax.pad(x, jnp.asarray(fill), [(0, 0, 0), (0, 0, 0), *((low, high, 0) for low, high in padding)])
    spans = [(count - 1) * stride + 1 for count, stride in zip(site.result.shape[2:], strides, strict=True)]
    offsets = product(*(range(0, size * step, step) for size, step in zip(window, dilation, strict=True)))
    return [
        lax.slice(padded, (0, 0, *at), (*x.shape[:2], *np.add(at, spans).tolist()), (1, 1, *strides)) for at in offsets
    ]


_WINNERS: dict[str, Callable[[Site, Array], tuple[Shares, Kept]]] = {
    "max_pool": _over_windows,
    "reduce_max": _over_axes,
    "reduce_min": _over_axes,
    "maximum": _among_operands,
    "minimum": _among_operands,
}


def identity(site: Site, R: Array) -> tuple[Shares, Kept]:
    """The operand that bears relevance takes all of it (RULES 4 for quotients, 5, 6, 7)."""
    return {site.bearer: fit(R, site.operands[site.bearer])}, {}


def embedding(site: Site, R: Array) -> tuple[Shares, Kept]:
    """A looked-up row's relevance belongs to its index: summed over the embedding axes (RULES 9)."""
    axis, rank = site.params["axis"], site.operands[1].ndim
    rows = range(axis, axis + rank)
    return {1: jnp.sum(R, tuple(i for i in range(R.ndim) if i not in rows))}, {}
