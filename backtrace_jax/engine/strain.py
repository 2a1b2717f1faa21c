"""Relevance that is lost because numbers leave the range of floats, told apart from relevance that is dead.

A unit without any evidence is dead in any arithmetic. A unit whose evidence overflowed, is too small to divide by, or
vanished because all its products are below the smallest number, is dead only because the range is too small.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from backtrace_jax.ops import LINEAR, PRODUCT, QUOTIENT
from backtrace_jax.rules import WEIGHTED, Shares, Site

LOSS, VANISHED = 0, 1
"""The columns of strain in the books."""

LARGEST_LOSS = 1e-3  # of the start, or of what a node received


def overflowed(site: Site, lost: Array) -> Array:
    """What results had received that are NaN or Inf, though their operands are finite and nothing was divided."""
    sound = [jnp.isfinite(x).all() for x in site.operands if jnp.issubdtype(x.dtype, jnp.inexact)]
    finite = jnp.stack(sound).all() if sound and site.kind != QUOTIENT else jnp.zeros((), bool)
    return jnp.where(finite, jnp.abs(lost), 0)


def squares_overflowed(site: Site, R: Array) -> Array:
    """What a normalisation had received whose deviation is infinite, so that all but its shift is 0."""
    x = site.operands[0]
    return jnp.where(jnp.max(jnp.abs(x), initial=0) > jnp.sqrt(jnp.finfo(x.dtype).max), jnp.abs(R), 0)


def multiplies(site: Site) -> bool:
    """Whether products of two float factors are all that an operation makes of them."""
    factors = site.operands[:2]
    floats = len(factors) == 2 and all(jnp.issubdtype(x.dtype, jnp.floating) for x in factors)
    return floats and (site.kind == PRODUCT or (site.kind == LINEAR and site.op.name in WEIGHTED))


def vanished(a: Array, b: Array) -> Array:
    """Whether neither factor is zero, and yet no product of their entries is as large as the smallest normal number."""
    size, other = (jnp.max(jnp.abs(x), initial=0) for x in (a, b))  # of |K| there is one copy, which evidence needs too
    return (size > 0) & (other > 0) & (size < jnp.finfo(b.dtype).smallest_normal / other)


def slope_vanished(site: Site, R: Array) -> Array:
    """The same of what came back times either factor, for the operands that bear relevance."""
    others = [site.operands[1 - i] for i in range(2) if site.bears[i]]
    return jnp.stack([vanished(R, factor) for factor in others]).any()


def steepened(R: Array, shares: Shares) -> Array:
    """1 if products with what came back are NaN or Inf; 0 if they are not, or it already was."""
    sound = jnp.stack([jnp.isfinite(jnp.max(jnp.abs(each), initial=0)) for each in shares.values()]).all()
    return (~sound & jnp.isfinite(jnp.max(jnp.abs(R), initial=0))).astype(R.dtype)
