"""Rules for attention (RULES section 7)."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
from jax import Array, lax

from ..ops import LINEAR
from ..ops.linear import mul
from .composite import Rule
from .site import BIAS, Kept, Shares, Site, stabilised


def taylor_softmax(site: Site, R: Array) -> tuple[Shares, Kept]:
    """AttnLRP's softmax, R_S = S ⊙ (R_A − A Σ R_A) (Achtibat et al. 2024, proposition 3.1).

    It is the first-order Taylor expansion at S; the constant term, R_A (1 − S + Σ A S), is booked as bias. What a mask
    has pushed to zero takes nothing.
    """
    axis, A = site.params["axis"], site.result
    S = jnp.where(A > 0, site.operands[0], 0)
    share = S * (R - A * jnp.sum(R, axis, keepdims=True))
    return {0: share}, {BIAS: R * (1 + (jnp.sum(A * S, axis, keepdims=True) - S))}


def centred_norm(site: Site, R: Array, *, epsilon: float) -> tuple[Shares, Kept]:
    """Layer normalisation at a fixed deviation: centring, scale and shift are a linear map and share by epsilon.

    Achtibat et al. 2024 pass relevance unchanged through the division by the deviation only. Entries that are large
    before the mean is taken out, and nothing afterwards, then get nothing; under the plain identity rule (RULES
    section 6) they keep their relevance.
    """
    x, *affine = site.operands
    axes = tuple(site.params["axes"])
    centred = x - jnp.mean(x, axes, keepdims=True)
    scale = lax.rsqrt(jnp.mean(jnp.square(centred), axes, keepdims=True) + site.params["epsilon"])
    scale = mul(scale, affine[0]) if affine else scale
    rate, kept = stabilised(R, site.result, epsilon, jnp.max(jnp.abs(scale), initial=0))
    pushed = rate * jnp.broadcast_to(scale, rate.shape)
    share = x * (pushed - jnp.mean(pushed, axes, keepdims=True))
    return {0: share}, {**kept, BIAS: mul(rate, affine[1])} if len(affine) > 1 else kept


def signal(site: Site, R: Array, *, rule: Rule) -> tuple[Shares, Kept]:
    """The signal takes all of a gated product, the gate being its weights (Arras et al. 2017; Ali et al. 2022).

    Args:
        site: A product of a gate and a signal.
        R: Relevance of the product.
        rule: The rule for the linear map that the gate makes of the signal.
    """
    bears = tuple(bears and position != site.gate for position, bears in enumerate(site.bears))
    return rule.apply(replace(site, bears=bears, kind=LINEAR, saturation=None), R)
