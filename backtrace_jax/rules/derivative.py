"""Gradient modes as rules: what travels back is a derivative, by the chain rule (RULES section 11).

Sources: Simonyan et al. 2014 (gradient); Zeiler and Fergus 2014 (deconvnet); Springenberg et al. 2015 (guided
backpropagation); Shrikumar et al. 2017 (DeepLIFT, rescale rule).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from backtrace_jax.ops import LINEAR, MOVE, PRODUCT, SELECT, SUM

from .shared import select
from .site import Kept, Shares, Site, fit, in_floats, linear_map


def derivative(site: Site, R: Array) -> tuple[Shares, Kept]:
    """The transposed Jacobian applied to what came back; an infinite derivative counts as none.

    Linear maps, sums and products of finite numbers have none: what is infinite there has left the range of floats.
    """
    pulled = _transposed(site, R) if site.kind == LINEAR else _pulled_back(site, R)
    if site.kind in (LINEAR, SUM, PRODUCT):
        return pulled, {}
    return {i: jnp.where(jnp.isfinite(each), each, 0) for i, each in pulled.items()}, {}


def _transposed(site: Site, R: Array) -> Shares:
    """Of a linear map; its operation may know a faster way than JAX."""
    linear = linear_map(site)
    return {linear.position: linear.back(linear.K, R)}


def _pulled_back(site: Site, R: Array) -> Shares:
    positions = [i for i, bears in enumerate(site.bears) if bears]
    smooth = _without_rounding(site)

    def function(*values: Array) -> Array:
        given = dict(zip(positions, values, strict=True))
        return smooth.op(*(given.get(i, x) for i, x in enumerate(site.operands)), **site.params)

    result, back = jax.vjp(function, *(in_floats(site.operands[i], R.dtype) for i in positions))
    return dict(zip(positions, back(R.astype(result.dtype)), strict=True))


def _without_rounding(site: Site) -> Site:
    return replace(site, op=replace(site.op, apply=site.op.smooth or site.op.apply))


def guided(site: Site, R: Array) -> tuple[Shares, Kept]:
    """Through a rectifier only where its input and what came back are positive (Springenberg et al. 2015)."""
    return {0: jnp.where(site.operands[0] > 0, jnp.maximum(R, 0), 0)}, {}


def deconvnet(site: Site, R: Array) -> tuple[Shares, Kept]:
    """Through a rectifier only what came back positive, whatever its input (Zeiler and Fergus 2014)."""
    return {0: jnp.maximum(R, 0)}, {}


def rescale(site: Site, R: Array) -> tuple[Shares, Kept]:
    """Δy/Δx of a pointwise function against its reference, the derivative where Δx is 0 (Shrikumar et al. 2017)."""
    assert site.reference is not None
    position = site.bearer
    x, before = (in_floats(each.operands[position], R.dtype) for each in (site, site.reference))
    change = x - before
    gained = fit(R * _change_of_result(site, x, before), x)  # a broadcast operand answers to several entries
    tiny = jnp.abs(change) < np.sqrt(jnp.finfo(change.dtype).eps) * (1 + jnp.abs(x))
    local, _ = derivative(site, R)
    slope = gained / jnp.where(tiny, 1, change)
    slope = jnp.where(jnp.isfinite(change) | (gained == 0), slope, jnp.nan)  # a change beyond the range has none
    return {position: jnp.where(tiny, local[position], slope)}, {}


def _change_of_result(site: Site, x: Array, before: Array) -> Array:
    """Without rounding where there is any, and then in units of one and the same scale."""
    assert site.reference is not None
    if site.op.smooth is None:
        return site.result - site.reference.result
    here, there = (_without_rounding(site).call({site.bearer: value}) for value in (x, before))
    return here - there


def mean_derivative(site: Site, R: Array) -> tuple[Shares, Kept]:
    """The derivative averaged along the straight line from the reference operands to those that bear relevance.

    For pointwise functions that is Δy/Δx, the rescale rule; for linear maps the weights; for a product of two values
    each factor's mean as the other one's weight. It carries the rescale rule over to functions of many values, such as
    normalisations and selections: what all operands get adds up to Δy.
    """
    assert site.reference is not None
    pairs = list(zip(site.reference.operands, site.operands, strict=True))
    local = select if site.kind == SELECT else derivative

    def at(node: Array) -> Shares:
        between = tuple(
            _between(low, high, node) if bears else high for (low, high), bears in zip(pairs, site.bears, strict=True)
        )
        return local(replace(site, operands=between), R)[0]

    if site.kind in _EXACT_AT_MIDPOINT:
        return average(at, R.dtype, 1), {}
    return _adding_up(site, R, average(at, R.dtype, _NODES)), {}


def _adding_up(site: Site, R: Array, multipliers: Shares) -> Shares:
    """Multipliers whose contributions add up to the change: what quadrature misses is shared by magnitude."""
    assert site.reference is not None
    parts = {i: m * _change(site.reference.operands[i], site.operands[i], m.dtype) for i, m in multipliers.items()}
    found, size = (sum((jnp.sum(f(part)) for part in parts.values()), jnp.zeros((), R.dtype)) for f in (_same, jnp.abs))
    after, before = (in_floats(each.result, R.dtype) for each in (site, site.reference))
    missing = jnp.sum(R * (after - before)) - found
    lift = missing / jnp.where(size == 0, 1, size)
    return {i: m * (1 + lift * jnp.sign(parts[i])) for i, m in multipliers.items()}


def _same(x: Array) -> Array:
    return x


_EXACT_AT_MIDPOINT = (LINEAR, SUM, PRODUCT, MOVE)  # their derivative is constant or linear along the line
_NODES = 16


def average(function: Callable[[Array], Any], dtype: Any, nodes: int) -> Any:
    """Mean of a function over [0, 1] by Gauss-Legendre quadrature, one node after the other.

    Args:
        function: From a number to a pytree of arrays.
        dtype: Float type of the number.
        nodes: Number of nodes.
    """
    places, weights = (jnp.asarray(each, dtype) for each in _gauss_legendre(nodes))
    if nodes == 1:
        return function(places[0])
    shapes = jax.eval_shape(function, places[0])
    blank = jax.tree.map(lambda each: jnp.zeros(each.shape, each.dtype), shapes)

    def add(total: Any, node: tuple[Array, Array]) -> tuple[Any, None]:
        place, weight = node
        return jax.tree.map(lambda sum_, each: sum_ + weight.astype(each.dtype) * each, total, function(place)), None

    return lax.scan(add, blank, (places, weights))[0]


def _gauss_legendre(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    places, weights = np.polynomial.legendre.leggauss(nodes)
    return (places + 1) / 2, weights / 2


def _between(low: Array, high: Array, at: Array) -> Array:
    if not jnp.issubdtype(high.dtype, jnp.inexact):
        return high
    return high - (1 - at).astype(high.dtype) * _change(low, high, high.dtype)


def _change(low: Array, high: Array, dtype: Any) -> Array:
    """The difference; none between infinities, as a mask has them."""
    low, high = in_floats(low, dtype), in_floats(high, dtype)
    return jnp.where(jnp.isfinite(low) & jnp.isfinite(high), high - low, 0)
