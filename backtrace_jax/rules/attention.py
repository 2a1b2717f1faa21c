"""Rules for attention (RULES section 7)."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
from jax import Array

from backtrace_jax.ops import LINEAR

from .composite import Rule
from .site import BIAS, Kept, Shares, Site, stabilised


def taylor_softmax(site: Site, R: Array) -> tuple[Shares, Kept]:
    """AttnLRP's softmax, R_S = S ⊙ (R_A − A Σ R_A) (Achtibat et al. 2024, proposition 3.1).

    It is the first-order Taylor expansion at S; the constant term, R_A (1 − S + Σ A S), is booked as bias. What a mask
    has pushed to zero takes nothing.
    """
    axis, A = site.params["axis"], site.result
    S = visible(site, A)
    return {0: _expanded(S, A, R, axis)}, {BIAS: R * (1 + carried_over(S, A, axis))}


def taylor_log_softmax(site: Site, R: Array, *, epsilon: float) -> tuple[Shares, Kept]:
    """The logarithm y = S − log Σ exp S in the same way: R_S = S ⊙ (r − A Σ r) for the rate r = R/(y + ε sign y).

    The constant term, r (Σ A S − log Σ exp S), is booked as bias.
    """
    axis, A = site.params["axis"], jnp.exp(site.result)
    S = visible(site, A)
    y = jnp.where(jnp.isfinite(site.result), site.result, 0)
    rate, kept = stabilised(R, site.result, epsilon, jnp.maximum(jnp.max(jnp.abs(S), initial=0), 1))
    constant = rate * (y - S + jnp.sum(A * S, axis, keepdims=True))
    return {0: _expanded(S, A, rate, axis)}, {**kept, BIAS: constant}


def visible(site: Site, A: Array) -> Array:
    """Scores of a softmax, 0 where a mask has pushed its result to zero."""
    return jnp.where(A > 0, site.operands[0], 0)


def carried_over(S: Array, A: Array, axis: int) -> Array:
    """What the constant term of the expansion has of the scores: Σ A S − S."""
    return jnp.sum(A * S, axis, keepdims=True) - S


def _expanded(S: Array, A: Array, R: Array, axis: int) -> Array:
    return S * (R - A * jnp.sum(R, axis, keepdims=True))


def signal(site: Site, R: Array, *, rule: Rule) -> tuple[Shares, Kept]:
    """The signal takes all of a gated product, the gate being its weights (Arras et al. 2017; Ali et al. 2022).

    Args:
        site: A product of a gate and a signal.
        R: Relevance of the product.
        rule: The rule for the linear map that the gate makes of the signal.
    """
    bears = tuple(bears and position != site.gate for position, bears in enumerate(site.bears))
    return rule.apply(replace(site, bears=bears, kind=LINEAR, saturation=None), R)
