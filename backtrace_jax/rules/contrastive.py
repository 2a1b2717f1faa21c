"""DLBacktrace's contrastive rule (arXiv 2411.12643; RULES section 1.2): relevance for and against travel as a pair.

A pair is one array with two channels in front, [2, ...]: P, what speaks for the answer, and N, what speaks against it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from .evidence import SPLIT, gather
from .site import DEAD, LOST, Kept, Shares, Site, spread


def contrastive(site: Site, R: Array) -> tuple[Shares, Kept]:
    """Route P and N to the positive or to the negative contributions of every unit, never to its bias.

    Evidence of the unit's own sign takes the larger of the two, the other sign's evidence the smaller one; a tie counts
    as P > N. Where all contributions have one sign, they take both.
    """
    evidence = gather(site, SPLIT)
    positive, negative = evidence.totals
    t = site.result
    ahead = jnp.where(t > 0, R[0] >= R[1], R[0] < R[1])
    to_positive = jnp.stack([ahead, ~ahead])
    to_positive = jnp.where(negative == 0, True, jnp.where(positive == 0, False, to_positive))
    evenly = (t == 0) & (positive > 0) & (negative > 0)

    def rates(R: Array, to_positive: Array) -> tuple[Array, Array, Array, Array]:
        wide = jnp.where(evenly, positive + negative, jnp.where(to_positive, positive, negative))
        rate, dead, lost = spread(R, wide, evidence.gain)
        return jnp.where(to_positive | evenly, rate, 0), jnp.where(to_positive & ~evenly, 0, rate), dead, lost

    for_positive, for_negative, dead, lost = jax.vmap(rates)(R, to_positive)
    return jax.vmap(evidence.push)(for_positive, for_negative), {DEAD: dead, LOST: lost}
