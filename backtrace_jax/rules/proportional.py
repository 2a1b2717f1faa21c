"""DLBacktrace's proportional rule, mode "default" (arXiv 2411.12643; RULES sections 1.1, 3 and 4).

Each unit hands its relevance to its operands in proportion to the magnitude of what they contributed.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from .evidence import MAGNITUDE, SPLIT, gather
from .options import IGNORE, KEEP
from .site import BIAS, DEAD, LOST, Kept, Shares, Site, Spread, spread


def proportional(site: Site, R: Array, *, bias: str = KEEP) -> tuple[Shares, Kept]:
    """Spread over |c_ij|, the bias taking its own share; a saturated activation closes one side (RULES 1.1).

    With bias="ignore" the operands take the bias' share as well, and a unit that has no other evidence is dead.
    """
    ignored = bias == IGNORE
    return _gated(site, R, *site.saturation, ignored=ignored) if site.saturation else _open(site, R, ignored=ignored)


def _open(site: Site, R: Array, *, ignored: bool) -> tuple[Shares, Kept]:
    evidence = gather(site, MAGNITUDE)
    b = None if ignored else evidence.bias
    shared = spread(R, _with_bias(evidence.totals[0], b), evidence.gain)
    return evidence.push(shared.rate), _kept(b, shared)


def _gated(site: Site, R: Array, lower: Any, upper: Any, *, ignored: bool) -> tuple[Shares, Kept]:
    """What is open takes all; what it hands on is told apart by terms of one sign.

    Of the evidence, p is enough unless the bias is ignored: n = p - Kx, and p + n = 2p - Kx. That is exact to a few
    roundings of D, for none of its terms is larger: p is closed only where p - n + b < lower <= 0, so there
    p <= n + |b| = D, and where both sides are open p, |Kx| and |b| are parts of D.
    """
    evidence = gather(site, SPLIT, asked=None if ignored else 1)
    b = None if ignored else evidence.bias
    p = evidence.totals[0]
    n = evidence.totals[1] if ignored else p - (site.result if b is None else site.result - b)
    shut = site.result < lower, site.result > upper
    opened = jnp.where(shut[0], n, jnp.where(shut[1], p, p + n))
    shared = spread(R, _with_bias(jnp.maximum(opened, 0), b), evidence.gain)
    rates = [jnp.where(each, 0, shared.rate) for each in shut]
    return evidence.push(*rates), _kept(b, shared)


def _with_bias(total: Array, b: Array | None) -> Array:
    return total if b is None else total + jnp.abs(b)


def _kept(b: Array | None, shared: Spread) -> Kept:
    kept = {DEAD: shared.dead, LOST: shared.lost}
    return kept if b is None else {**kept, BIAS: jnp.abs(b) * shared.rate}


def reference_gate(site: Site, R: Array) -> tuple[Shares, Kept]:
    """How dl-backtrace 0.0.24 splits a product a·b of a recurrent cell: |ab − a| : |ab − b|, 0/0 halves (RULES 8)."""
    a, b = (jnp.broadcast_to(x, R.shape) for x in site.operands[:2])
    sizes = jnp.abs(a * b - a), jnp.abs(a * b - b)
    total = sizes[0] + sizes[1]
    first = jnp.where(total == 0, 0.5, sizes[0] / jnp.where(total == 0, 1, total))
    return {0: R * first, 1: R * (1 - first)}, {}
