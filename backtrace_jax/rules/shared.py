"""Rules that most modes share: moved values, selections, pointwise functions, quotients, embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ..ops.linear import around, same_rank
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
    won = [entries == site.result for entries in _entries(site, x)]
    rate, dead = spread(R, _count(won, R.dtype))
    each = zip(_windows(site, site.result), _windows(site, rate), strict=True)
    shares = [jnp.where(x == maximum, share, 0) for maximum, share in each]
    return {0: sum(shares, jnp.zeros((), R.dtype))}, {DEAD: dead}


def _among_updates(site: Site, R: Array) -> tuple[Shares, Kept]:
    """What is written to a cell competes with what is there; what is written past the end takes no part."""
    data, updates, cells = site.operands
    written_won = updates == site.result.at[cells].get(mode="fill", fill_value=jnp.nan)
    won = data == site.result
    rate, dead = spread(R, won.astype(R.dtype).at[cells].add(written_won.astype(R.dtype), mode="drop"))
    rates = rate.at[cells].get(mode="fill", fill_value=0)
    return {0: jnp.where(won, rate, 0), 1: jnp.where(written_won, rates, 0)}, {DEAD: dead}


def _count(won: list[Array], dtype: np.dtype) -> Array:
    """How many operands, or entries of each window, share the win."""
    return sum((mask.astype(dtype) for mask in won), jnp.zeros((), dtype))


def _entries(site: Site, x: Array) -> list[Array]:
    """For each offset within a window, the entry of x that every window has there: strided slices of x."""
    strides, borders = site.params["strides"], [(low, high, 0) for low, high in site.params["padding"]]
    padded = lax.pad(x, jnp.asarray(lowest(x.dtype)), _around(site, borders, (0, 0, 0)))
    spans = [(count - 1) * stride + 1 for count, stride in zip(_spatial(site, site.result), strides, strict=True)]
    return [_cut(site, padded, at, spans, strides) for at in _offsets(site)]


def _windows(site: Site, values: Array) -> list[Array]:
    """For each offset within a window, the value of the window that has every entry of x there; 0 where none has.

    Read entry by entry rather than scattered window by window, all offsets go into one loop.
    """
    sizes, params = _spatial(site, site.operands[0]), site.params
    reach = [step * (size - 1) for size, step in zip(params["window"], params["dilation"], strict=True)]
    last = [(count - 1) * stride for count, stride in zip(_spatial(site, values), params["strides"], strict=True)]
    after = [max(low + size - 1 - end, 0) for (low, _), size, end in zip(params["padding"], sizes, last, strict=True)]
    borders = [(r, a, stride - 1) for r, a, stride in zip(reach, after, params["strides"], strict=True)]
    spaced = lax.pad(values, jnp.zeros((), values.dtype), _around(site, borders, (0, 0, 0)))
    starts = [
        [r + low - o for r, (low, _), o in zip(reach, params["padding"], at, strict=True)] for at in _offsets(site)
    ]
    return [_cut(site, spaced, start, sizes, [1] * len(start)) for start in starts]


def _around(site: Site, spatial: Sequence[Any], edge: Any) -> tuple[Any, ...]:
    return around(spatial, edge, site.params.get("channels_last", False))


def _spatial(site: Site, x: Array) -> tuple[int, ...]:
    """Sizes along the spatial axes."""
    return x.shape[1:-1] if site.params.get("channels_last") else x.shape[2:]


def _cut(site: Site, x: Array, start: Sequence[int], spans: Sequence[int], strides: Sequence[int]) -> Array:
    """Every `stride`-th entry along the spatial axes of a part of x."""
    first, every = _around(site, start, 0), _around(site, strides, 1)
    widths = _around(site, spans, 0)  # 0: all of the batch and of the channels
    limit = [low + width if width else size for low, width, size in zip(first, widths, x.shape, strict=True)]
    return lax.slice(x, first, limit, every)


def _offsets(site: Site) -> list[tuple[int, ...]]:
    steps = zip(site.params["window"], site.params["dilation"], strict=True)
    return list(product(*(range(0, size * step, step) for size, step in steps)))


_WINNERS: dict[str, Callable[[Site, Array], tuple[Shares, Kept]]] = {
    "max_pool": _over_windows,
    "reduce_max": _over_axes,
    "reduce_min": _over_axes,
    "maximum": _among_operands,
    "minimum": _among_operands,
    "scatter_max": _among_updates,
    "scatter_min": _among_updates,
}


def identity(site: Site, R: Array) -> tuple[Shares, Kept]:
    """The operand that bears relevance takes all of it (RULES 4 for quotients, 5, 6, 7)."""
    return {site.bearer: fit(R, site.operands[site.bearer])}, {}


def embedding(site: Site, R: Array) -> tuple[Shares, Kept]:
    """A looked-up row's relevance belongs to its index: summed over the embedding axes (RULES 9)."""
    axis, rank = site.params["axis"], site.operands[1].ndim
    rows = range(axis, axis + rank)
    return {1: jnp.sum(R, tuple(i for i in range(R.ndim) if i not in rows))}, {}
