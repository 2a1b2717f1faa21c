"""The rules of mode "default", DLBacktrace's proportional relevance (arXiv 2411.12643; RULES section 1.1 and 2 to 9).

Each unit hands its relevance to its operands in proportion to the magnitude of what they contributed.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from ..ops.linear import same_rank
from .site import BIAS, DEAD, Kept, LinearMap, Shares, Site, fit, linear_map, spread


def linear(site: Site, R: Array) -> tuple[Shares, Kept]:
    """Spread over |K_ij x_j|, the bias taking its own share; a saturated activation closes one side (RULES 1.1)."""
    return _gated(site, R) if site.saturation else _open(site, R)


def _open(site: Site, R: Array) -> tuple[Shares, Kept]:
    linear = linear_map(site)
    size = None if linear.K is None else jnp.abs(linear.K)

    def reach(magnitude: Array) -> Array:
        return linear.apply(size, magnitude)

    magnitude = jnp.abs(linear.x)
    rate, dead = spread(R, _with_bias(reach(magnitude), linear), _gain(linear))
    (pushed,) = jax.linear_transpose(reach, magnitude)(rate)
    return {linear.position: magnitude * pushed}, _kept(linear, rate, dead)


def _gated(site: Site, R: Array) -> tuple[Shares, Kept]:
    """Positive and negative evidence apart, by terms that are all non-negative, so that a lone one is exact."""
    assert site.saturation is not None
    linear, (lower, upper) = linear_map(site), site.saturation
    parts = _parts(linear.x, linear.nonnegative)
    kernels = None if linear.K is None else _parts(linear.K, nonnegative=False)

    def evidence(parts: Array) -> tuple[Array, Array]:
        """p = K⁺x⁺ + K⁻x⁻ and n = K⁻x⁺ + K⁺x⁻."""
        push = jax.vmap(linear.apply, (None, 0))
        plus = push(None if kernels is None else kernels[0], parts)
        minus = jnp.zeros_like(plus) if kernels is None else push(kernels[1], parts)
        return (plus[0] + minus[1], minus[0] + plus[1]) if len(parts) > 1 else (plus[0], minus[0])

    positive, negative = evidence(parts)
    gates = (site.result >= lower).astype(R.dtype), (site.result <= upper).astype(R.dtype)
    rate, dead = spread(R, _with_bias(gates[0] * positive + gates[1] * negative, linear), _gain(linear))
    (pushed,) = jax.linear_transpose(evidence, parts)((gates[0] * rate, gates[1] * rate))
    return {linear.position: jnp.sum(parts * pushed, axis=0)}, _kept(linear, rate, dead)


def _parts(x: Array, nonnegative: bool) -> Array:
    """x⁺ and x⁻ stacked, [2, ...], or only x, [1, ...], where it is known not to be negative."""
    return x[None] if nonnegative else jnp.stack([jnp.maximum(x, 0), jnp.maximum(-x, 0)])


def _gain(linear: LinearMap) -> Array | float:
    """Largest weight; fixed weights are at most 1."""
    return 1.0 if linear.K is None else jnp.max(jnp.abs(linear.K), initial=0)


def _with_bias(evidence: Array, linear: LinearMap) -> Array:
    return evidence if linear.bias is None else evidence + jnp.abs(linear.bias)


def _kept(linear: LinearMap, rate: Array, dead: Array) -> Kept:
    return {DEAD: dead} if linear.bias is None else {DEAD: dead, BIAS: jnp.abs(linear.bias) * rate}


def total(site: Site, R: Array) -> tuple[Shares, Kept]:
    """A sum hands on in proportion to the operands' magnitudes (RULES 3).

    A mask of -inf takes nothing: the softmax after it has already let no relevance through there.
    """
    sizes = [jnp.where(jnp.isfinite(x), jnp.abs(x), 0) for x in same_rank(*site.operands)]
    rate, dead = spread(R, sum(sizes[1:], sizes[0]))
    return {i: fit(size * rate, x) for i, (size, x) in enumerate(zip(sizes, site.operands, strict=True))}, {DEAD: dead}


def product(site: Site, R: Array) -> tuple[Shares, Kept]:
    """Half of the relevance through each factor, by the linear rule with the other one as weights (RULES 4)."""
    sizes = [jnp.abs(x) for x in site.operands[:2]]
    reach, back = jax.vjp(lambda a, b: site.call({0: a, 1: b}), *sizes)
    rate, dead = spread(R, reach, jnp.maximum(*(jnp.max(size, initial=0) for size in sizes)))
    return {i: size * pushed for i, (size, pushed) in enumerate(zip(sizes, back(rate / 2), strict=True))}, {DEAD: dead}
