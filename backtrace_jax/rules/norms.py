"""Normalisation in the epsilon family (RULES section 6): only the division by the deviation is an identity."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from backtrace_jax.ops.linear import same_rank

from .options import IGNORE
from .shared import identity
from .site import BIAS, DEAD, Kept, Shares, Site, stabilised

CENTRING = ("layer_norm", "group_norm")


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
    whole, *affine = site.operands
    if site.op.name not in CENTRING and len(affine) < 2:
        return identity(site, R)
    part = linear_part(site)
    R, y = part.rows(R), part.rows(site.result)
    rate, kept = stabilised(jnp.where(part.empty, 0, R), y - part.shift if bias == IGNORE else y, epsilon, part.reach)
    share = part.x * part.centred(part.scale * rate)
    kept[DEAD] = kept.get(DEAD, 0) + jnp.where(part.empty, R, 0)
    taken = {BIAS: part.shift * rate} if len(affine) > 1 and bias != IGNORE else {}
    return {0: share.reshape(whole.shape)}, {**kept, **taken}


class LinearPart(NamedTuple):
    """A normalisation at its deviation, y = scale ⊙ (x − μ) + shift, in the shape in which statistics run over axes.

    Attributes:
        x: What is normalised.
        scale: γ/σ; 0 where a row is empty.
        shift: β.
        empty: Rows whose entries differ by rounding alone.
        axes: What statistics run over.
        centring: Whether there is a mean.
    """

    x: Array
    scale: Array
    shift: Array
    empty: Array
    axes: tuple[int, ...]
    centring: bool

    @property
    def reach(self) -> Array:
        """What a rate may be multiplied by on the way back."""
        return jnp.max(jnp.abs(self.scale), initial=0) * jnp.maximum(jnp.max(jnp.abs(self.x), initial=0), 1)

    def rows(self, array: Array) -> Array:
        """An array of the operand's shape in the shape of the statistics."""
        return array.reshape(self.x.shape)

    def centred(self, array: Array) -> Array:
        """Less the mean of each row, where the normalisation has one."""
        return _centred(array, self.axes) if self.centring else array


def linear_part(site: Site) -> LinearPart:
    """What a normalisation is at its deviation."""
    centring, (whole, *affine) = site.op.name in CENTRING, site.operands
    rows, axes = _rows(site)
    x = whole.reshape(rows)
    scale, shift = (_spread(each, whole).reshape(rows) for each in (*affine, 1.0, 0.0)[:2])
    deviations = _centred(x, axes) if centring else x
    empty = _is_rounding(deviations, x, axes) & centring
    variance = jnp.mean(jnp.square(deviations), axes, keepdims=True)
    s = jnp.where(empty, 0, scale * lax.rsqrt(variance + site.params["epsilon"]))
    return LinearPart(x, s, shift, empty, axes, centring)


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
