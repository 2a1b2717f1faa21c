"""Relevance that is lost because numbers leave the range of floats, told apart from relevance that is dead.

A unit without any evidence is dead in any arithmetic. A unit whose evidence overflowed, is too small to divide by, or
vanished because all its products are below the smallest number, is dead only because the range is too small.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from ..ops import LINEAR, PRODUCT, QUOTIENT
from ..rules import WEIGHTED, Site

LOSS, VANISHED = 0, 1
"""The columns of strain in the books."""


def overflowed(site: Site, lost: Array) -> Array:
    """What results had received that are NaN or Inf, though their operands are finite and nothing was divided."""
    sound = [jnp.isfinite(x).all() for x in site.operands if jnp.issubdtype(x.dtype, jnp.inexact)]
    finite = jnp.stack(sound).all() if sound and site.kind != QUOTIENT else jnp.zeros((), bool)
    return jnp.where(finite, jnp.abs(lost), 0)


def squares_overflowed(site: Site, R: Array) -> Array:
    """What a normalisation had received whose deviation is infinite, so that all but its shift is 0."""
    x = site.operands[0]
    return jnp.where(jnp.max(jnp.abs(x), initial=0) > jnp.sqrt(jnp.finfo(x.dtype).max), jnp.abs(R), 0)


def vanished(site: Site) -> Array | None:
    """Whether neither factor is zero, and yet no product of their entries is as large as the smallest number: 1 or 0.

    None where nothing is multiplied.
    """
    factors = site.operands[:2]
    floats = len(factors) == 2 and all(jnp.issubdtype(x.dtype, jnp.floating) for x in factors)
    if not floats or not (site.kind == PRODUCT or (site.kind == LINEAR and site.op.name in WEIGHTED)):
        return None
    a, b = (jnp.max(jnp.abs(x), initial=0) for x in factors)  # of |K| there is one copy, which evidence needs as well
    gone = (a > 0) & (b > 0) & (a < jnp.finfo(b.dtype).smallest_normal / b)
    return gone.astype(jnp.float64)
