"""Rules that most modes share: moved values, selections, pointwise functions, quotients, embeddings."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from backtrace_jax.ops.linear import same_rank
from backtrace_jax.ops.selecting import lowest
from backtrace_jax.ops.windows import Padding, Sizes, around, cut, entries, holders, interleaved, spatial_sizes

from .site import BIAS, DEAD, LOST, Kept, Shares, Site, fit, spread


def move(site: Site, R: Array) -> tuple[Shares, Kept]:
    """Relevance follows the entries back: the linear transpose of the move (RULES 2)."""
    carriers = site.carriers
    types = [jax.ShapeDtypeStruct(site.operands[i].shape, R.dtype) for i in carriers]

    def moved(*values: Array) -> Array:
        return site.call(dict(zip(carriers, values, strict=True)))

    shares = jax.linear_transpose(moved, *types)(R)
    return {i: fit(share, site.operands[i]) for i, share in zip(carriers, shares, strict=True)}, {}


def select(site: Site, R: Array) -> tuple[Shares, Kept]:
    """The winner takes all, exact ties share equally (RULES 2); of a smooth maximum each takes its part of the win.

    Winners are the entries equal to the result. Both are taken from one copy in memory: where XLA computes an operand
    anew in two places, it may round it in two ways, and there would be no winner.
    """
    site = replace(site, operands=lax.optimization_barrier(site.operands))
    return _WINNERS[site.op.name](replace(site, result=site.call({})), R)


def _among_operands(site: Site, R: Array) -> tuple[Shares, Kept]:
    won = [x == site.result for x in same_rank(*site.operands)]
    rate, dead, _ = spread(R, _count(won, R.dtype))
    shares = [jnp.where(mask, rate, 0) for mask in won]
    return {i: fit(share, x) for i, (share, x) in enumerate(zip(shares, site.operands, strict=True))}, {DEAD: dead}


def _over_axes(site: Site, R: Array) -> tuple[Shares, Kept]:
    (x,), axes = site.operands, site.params["axes"]
    result, R = (a if site.params["keepdims"] else jnp.expand_dims(a, axes) for a in (site.result, R))
    won = x == result
    rate, dead, _ = spread(R, jnp.sum(won, axes, keepdims=True, dtype=R.dtype))
    return {0: jnp.where(won, rate, 0)}, {DEAD: dead}


def _smoothly(site: Site, R: Array) -> tuple[Shares, Kept]:
    """log Σ exp x: what the logarithm gets goes to the sum, which shares by its terms exp x, all positive."""
    (x,), axes = site.operands, site.params["axes"]
    result, R = (a if site.params["keepdims"] else jnp.expand_dims(a, axes) for a in (site.result, R))
    empty = ~jnp.isfinite(result)
    parts = jnp.where(empty, 0, jnp.exp(x - jnp.where(empty, 0, result)))
    return {0: parts * R}, {DEAD: jnp.where(empty, R, 0)}


def _over_windows(site: Site, R: Array) -> tuple[Shares, Kept]:
    """Compares every entry of a window with its maximum, offset by offset; no scatter, so the order is fixed."""
    (x,) = site.operands
    counts = spatial_sizes(site.result, site.params.get("channels_last", False))
    won = [entry == site.result for entry in entries(x, lowest(x.dtype), counts, **site.params)]
    rate, dead, _ = spread(R, _count(won, R.dtype))
    return {0: _won(x, site.result, rate, **site.params)}, {DEAD: dead}


def _won(
    x: Array,
    maxima: Array,
    rates: Array,
    *,
    window: Sizes,
    strides: Sizes,
    padding: Padding,
    dilation: Sizes,
    channels_last: bool = False,
) -> Array:
    """What every entry of x wins, at the rates of the windows of which it is the maximum.

    Entries of one phase lie in windows that are shifted alike, so each phase is read from whole blocks of windows.
    """
    sizes, counts = (spatial_sizes(each, channels_last) for each in (x, rates))
    held = holders(window, strides, padding, dilation)
    shifts = {at: each for at, each in held.items() if all(map(operator.lt, at, sizes))}
    if not shifts:
        return jnp.zeros(x.shape, rates.dtype)
    strides = tuple(map(min, strides, sizes))
    blocks = [-(-size // stride) for size, stride in zip(sizes, strides, strict=True)]
    reach = [[0, *(shift[axis] for each in shifts.values() for shift in each)] for axis in range(len(blocks))]
    borders = [
        (-min(along), max(block + max(along) - count, 0), 0)
        for along, block, count in zip(reach, blocks, counts, strict=True)
    ]
    whole = [(0, block * stride - size, 0) for block, stride, size in zip(blocks, strides, sizes, strict=True)]
    maxima, rates = (_bordered(each, borders, channels_last) for each in (maxima, rates))
    x, ones = _bordered(x, whole, channels_last), (1,) * len(blocks)

    def at_shift(each: Array, shift: Sizes) -> Array:
        return cut(each, [low + n for (low, _, _), n in zip(borders, shift, strict=True)], blocks, ones, channels_last)

    def at_phase(phase: Sizes) -> Array:
        spans = [(block - 1) * stride + 1 for block, stride in zip(blocks, strides, strict=True)]
        entry = cut(x, phase, spans, strides, channels_last)
        shares = [jnp.where(entry == at_shift(maxima, n), at_shift(rates, n), 0) for n in shifts[phase]]
        return sum(shares, jnp.zeros(entry.shape, rates.dtype))

    found = interleaved({phase: at_phase(phase) for phase in shifts}, strides, channels_last)
    return cut(found, (0,) * len(sizes), sizes, ones, channels_last)


def _bordered(x: Array, borders: Sequence[Any], channels_last: bool) -> Array:
    return lax.pad(x, jnp.zeros((), x.dtype), around(borders, (0, 0, 0), channels_last))


def _among_updates(site: Site, R: Array) -> tuple[Shares, Kept]:
    """What is written to a cell competes with what is there; what is written past the end takes no part."""
    data, updates, cells = site.operands
    written_won = updates == site.result.at[cells].get(mode="fill", fill_value=jnp.nan)
    won = data == site.result
    rate, dead, _ = spread(R, won.astype(R.dtype).at[cells].add(written_won.astype(R.dtype), mode="drop"))
    rates = rate.at[cells].get(mode="fill", fill_value=0)
    return {0: jnp.where(won, rate, 0), 1: jnp.where(written_won, rates, 0)}, {DEAD: dead}


def _count(won: list[Array], dtype: np.dtype) -> Array:
    """How many operands, or entries of each window, share the win."""
    return sum((mask.astype(dtype) for mask in won), jnp.zeros((), dtype))


_WINNERS: dict[str, Callable[[Site, Array], tuple[Shares, Kept]]] = {
    "max_pool": _over_windows,
    "reduce_max": _over_axes,
    "reduce_min": _over_axes,
    "log_sum_exp": _smoothly,
    "maximum": _among_operands,
    "minimum": _among_operands,
    "scatter_max": _among_updates,
    "scatter_min": _among_updates,
}


def identity(site: Site, R: Array) -> tuple[Shares, Kept]:
    """The operand that bears relevance takes all of it (RULES 4 for quotients, 5, 6, 7).

    A function with f(0) ≠ 0 is no exception (RULES 5), though R/x is then unbounded near 0; see `from_zero`.
    """
    return {site.bearer: fit(R, site.operands[site.bearer])}, {}


def from_zero(site: Site, R: Array) -> tuple[Shares, Kept]:
    """What a one-input function gives of nothing is a constant: R_x = R (f(x) − f(0))/f(x), the rest is bias.

    That keeps R/x bounded where f(0) ≠ 0 (sigmoid, softplus, cos), which docs/activations.md shows to matter in the
    epsilon family. No mode has it of its own accord: RULES 5 and the papers have the identity. Where f(0) is 0 or not
    finite it is the identity.
    """
    x, y = site.operands[site.bearer], site.result
    offset = site.call({site.bearer: jnp.zeros_like(x)})
    offset = jnp.where(jnp.isfinite(offset), offset, 0)
    gain = jnp.maximum(jnp.max(jnp.abs(y - offset), initial=0), jnp.max(jnp.abs(offset), initial=1))
    rate, dead, lost = spread(R, y, gain)
    whole = offset == 0
    share = jnp.where(whole, R, rate * (y - offset))
    kept = {cause: jnp.where(whole, 0, each) for cause, each in ((BIAS, rate * offset), (DEAD, dead), (LOST, lost))}
    return {site.bearer: fit(share, x)}, kept


def embedding(site: Site, R: Array) -> tuple[Shares, Kept]:
    """A looked-up row's relevance belongs to its index: summed over the embedding axes (RULES 9)."""
    axis, rank = site.params["axis"], site.operands[1].ndim
    rows = range(axis, axis + rank)
    return {1: jnp.sum(R, tuple(i for i in range(R.ndim) if i not in rows))}, {}


def index(site: Site, R: Array) -> tuple[Shares, Kept]:
    """What an index gets belongs to the ids it is worked out from, to each operand made of them the same part.

    All of them lead to the same ids, so it does not matter which part goes which way.
    """
    made = [i for i, bears in enumerate(site.bears) if bears]
    return {i: fit(R / len(made), site.operands[i]) for i in made}, {}
