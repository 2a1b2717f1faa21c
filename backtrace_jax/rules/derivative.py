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

from ..ops import LINEAR, MOVE, PRODUCT, SELECT, SUM
from .shared import select
from .site import Kept, Shares, Site


def derivative(site: Site, R: Array) -> tuple[Shares, Kept]:
    """The transposed Jacobian applied to what came back; an infinite derivative counts as none."""
    return _pulled_back(site, site.operands, R), {}


def _pulled_back(site: Site, operands: tuple[Array, ...], R: Array) -> Shares:
    positions = [i for i, bears in enumerate(site.bears) if bears]

    def function(*values: Array) -> Array:
        return site.call(dict(zip(positions, values, strict=True)))

    _, back = jax.vjp(function, *(operands[i] for i in positions))
    pulled = back(R.astype(site.result.dtype))
    return {i: jnp.where(jnp.isfinite(each), each, 0) for i, each in zip(positions, pulled, strict=True)}


def guided(site: Site, R: Array) -> tuple[Shares, Kept]:
    """Through a rectifier only where its input and what came back are positive (Springenberg et al. 2015)."""
    return {0: jnp.where(site.operands[0] > 0, jnp.maximum(R, 0), 0)}, {}


def deconvnet(site: Site, R: Array) -> tuple[Shares, Kept]:
    """Through a rectifier only what came back positive, whatever its input (Zeiler and Fergus 2014)."""
    return {0: jnp.maximum(R, 0)}, {}


def rescale(site: Site, R: Array) -> tuple[Shares, Kept]:
    """Δy/Δx of a pointwise function against its reference, the derivative where Δx is 0 (Shrikumar et al. 2017)."""
    assert site.reference is not None
    change = site.operands[0] - site.reference.operands[0]
    tiny = jnp.abs(change) < np.sqrt(jnp.finfo(change.dtype).eps) * (1 + jnp.abs(site.operands[0]))
    slope = (site.result - site.reference.result) / jnp.where(tiny, 1, change)
    local, _ = derivative(site, R)
    return {0: jnp.where(tiny, local[0], slope * R)}, {}


def mean_derivative(site: Site, R: Array) -> tuple[Shares, Kept]:
    """The derivative averaged along the straight line from the reference operands to the operands.

    For pointwise functions that is Δy/Δx, the rescale rule; for linear maps the weights; for a product of two values
    each factor's mean as the other one's weight. It carries the rescale rule over to functions of many values, such as
    normalisations and selections: what all operands get adds up to Δy.
    """
    assert site.reference is not None
    pairs = list(zip(site.reference.operands, site.operands, strict=True))
    local = select if site.kind == SELECT else derivative

    def at(node: Array) -> Shares:
        between = tuple(_between(low, high, node) for low, high in pairs)
        return local(replace(site, operands=between), R)[0]

    return average(at, R.dtype, 1 if site.kind in _EXACT_AT_MIDPOINT else _NODES), {}


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
    return low + at.astype(high.dtype) * (high - low) if jnp.issubdtype(high.dtype, jnp.inexact) else high
