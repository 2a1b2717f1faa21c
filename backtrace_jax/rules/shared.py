"""Rules that most modes share: moved values, selections, pointwise functions, quotients, embeddings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ..ops.linear import same_rank
from ..ops.selecting import lowest
from ..ops.windows import around, cut, entries, offsets, spatial_sizes
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
    counts = spatial_sizes(site.result, site.params.get("channels_last", False))
    won = [entry == site.result for entry in entries(x, lowest(x.dtype), counts, **site.params)]
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


def _windows(site: Site, values: Array) -> list[Array]:
    """For each offset within a window, the value of the window that has every entry of x there; 0 where none has.

    Read entry by entry rather than scattered window by window, all offsets go into one loop.
    """
    params, last = site.params, site.params.get("channels_last", False)
    sizes, counts = (spatial_sizes(x, last) for x in (site.operands[0], values))
    reach = [step * (size - 1) for size, step in zip(params["window"], params["dilation"], strict=True)]
    ends = [(count - 1) * stride for count, stride in zip(counts, params["strides"], strict=True)]
    after = [max(low + size - 1 - end, 0) for (low, _), size, end in zip(params["padding"], sizes, ends, strict=True)]
    borders = [(r, a, stride - 1) for r, a, stride in zip(reach, after, params["strides"], strict=True)]
    spaced = lax.pad(values, jnp.zeros((), values.dtype), around(borders, (0, 0, 0), last))
    starts = [
        [r + low - o for r, (low, _), o in zip(reach, params["padding"], at, strict=True)]
        for at in offsets(params["window"], params["dilation"])
    ]
    return [cut(spaced, start, sizes, [1] * len(start), last) for start in starts]


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
