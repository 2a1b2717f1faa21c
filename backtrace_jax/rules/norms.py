"""Normalisation in the epsilon family (RULES section 6): only the division by the deviation is an identity."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import Array, lax

from backtrace_jax.ops.linear import same_rank

from .options import IGNORE
from .shared import identity
from .site import BIAS, DEAD, Kept, Shares, Site, stabilised

_CENTRING = ("layer_norm", "group_norm")


def at_fixed_deviation(site: Site, R: Array, *, epsilon: float, bias: str) -> tuple[Shares, Kept]:
    """Centring, scale and shift are a linear map, y = s ⊙ (x − μ) + β with s = γ/σ held fixed, shared by epsilon.

    R_x = x ⊙ (u − mean u), u = s ⊙ R/(y + ε sign y), means within each normalised row or group (Achtibat et al. 2024,
    proposition 3.4; Ali et al. 2022). Without a mean and a shift that is the identity. Under the plain identity R_x/x
    would be unbounded wherever centring or the shift moved an entry away from 0. A row whose entries differ by
    rounding alone holds no evidence, and its relevance is dead.

    Args:
        site: A normalisation.
        R: Relevance of its result.
        epsilon: Stabiliser.
        bias: "keep" books the share of the shift; "ignore" leaves the shift out of the denominator.
    """
    centring, (whole, *affine) = site.op.name in _CENTRING, site.operands
    if not centring and len(affine) < 2:
        return identity(site, R)
    rows, axes = _rows(site)
    x, R, y = (each.reshape(rows) for each in (whole, R, site.result))
    scale, shift = (_spread(each, whole).reshape(rows) for each in (*affine, 1.0, 0.0)[:2])
    deviations = _centred(x, axes) if centring else x
    empty = _is_rounding(deviations, x, axes) & centring
    variance = jnp.mean(jnp.square(deviations), axes, keepdims=True)
    s = jnp.where(empty, 0, scale * lax.rsqrt(variance + site.params["epsilon"]))
    gain = jnp.max(jnp.abs(s), initial=0) * jnp.maximum(jnp.max(jnp.abs(x), initial=0), 1)
    rate, kept = stabilised(jnp.where(empty, 0, R), y - shift if bias == IGNORE else y, epsilon, gain)
    u = s * rate
    share = x * (_centred(u, axes) if centring else u)
    kept[DEAD] = kept.get(DEAD, 0) + jnp.where(empty, R, 0)
    taken = {BIAS: shift * rate} if len(affine) > 1 and bias != IGNORE else {}
    return {0: share.reshape(whole.shape)}, {**kept, **taken}


def _rows(site: Site) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape in which statistics run over whole axes, and these axes."""
    shape = site.operands[0].shape
    if site.op.name == "group_norm":
        return (shape[0], site.params["groups"], math.prod(shape[1:]) // site.params["groups"]), (2,)
    return shape, tuple(site.params["axes"])


def _spread(parameter: Array | float, x: Array) -> Array:
    return jnp.broadcast_to(same_rank(jnp.asarray(parameter, x.dtype), x)[0], x.shape)


def _centred(x: Array, axes: tuple[int, ...]) -> Array:
    return x - jnp.mean(x, axes, keepdims=True)


def _is_rounding(deviations: Array, x: Array, axes: tuple[int, ...]) -> Array:
    """Whether all that a row deviates from its mean is what adding up rounds off, which grows with the row's root."""
    largest, size = (jnp.max(jnp.abs(each), axes, keepdims=True, initial=0) for each in (deviations, x))
    count = math.prod(x.shape[axis] for axis in axes)
    return largest <= 4 * math.sqrt(count) * float(jnp.finfo(x.dtype).eps) * size
