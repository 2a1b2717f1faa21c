"""Integrates a gradient along a line, for integrated gradients.

Along a line, a network of rectifiers and max pooling is piecewise linear: its gradient jumps from one constant to the
next. No fixed set of nodes does well there; Gauss-Legendre is no better than the midpoints. Two remedies:

* An interval from s to t in which the answer f has one kink is integrated *exactly* from both ends: the gradient is
  g_s up to the kink and g_t after it, and the kink lies where w f'(s) + (1 - w) f'(t) = (f(t) - f(s)) / (t - s). So
  each interval takes w g_s + (1 - w) g_t with that w, kept inside [0, 1]. For smooth functions this is the trapezoid
  rule with its error along the line removed.
* Nodes go where they are needed: the interval in which the attributions of the two ends differ most is halved next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array, lax

Density = dict[str, Array]
"""Attribution per unit of length, by name: gradient times direction."""


class _Nodes(NamedTuple):
    """Nodes in the order of their evaluation; each but the last one begins an interval.

    Attributes:
        place: Position on the line, from 0 to 1.
        answer: Value of the answer.
        density: Attribution per unit of length.
        aside: What else the function tells of the place.
        following: The node at the interval's other end.
        rough: By how much the attributions of both ends differ, over the interval's length; -1: no interval.
    """

    place: Array
    answer: Array
    density: Density
    aside: Any
    following: Array
    rough: Array


_Function: TypeAlias = Callable[[Array], tuple[Array, Density, Any]]


def integrate(function: _Function, steps: int, dtype: Any) -> tuple[Density, Any]:
    """Attributions from 0 to 1, and what the function tells beside, stacked over its evaluations.

    Args:
        function: From a place on the line to the answer, the density there, and anything else.
        steps: Number of intervals; the function is evaluated once more than that.
        dtype: Float type of places.
    """
    coarse = max(1, steps // 4)
    nodes = _coarse(function, coarse, steps, dtype)
    nodes = lax.fori_loop(coarse + 1, steps + 1, lambda free, found: _halved(function, found, free), nodes)
    parts = jax.vmap(lambda i: _interval(nodes, i))(jnp.arange(steps + 1))
    return jax.tree.map(lambda part: jnp.sum(part, axis=0), parts), nodes.aside


def _coarse(function: _Function, coarse: int, steps: int, dtype: Any) -> _Nodes:
    """Equal intervals, and room for the nodes to come."""
    places = jnp.arange(coarse + 1, dtype=dtype) / coarse
    found = lax.map(function, places)

    def padded(x: Array) -> Array:
        return jnp.concatenate([x, jnp.zeros((steps - coarse, *x.shape[1:]), x.dtype)])

    index = jnp.arange(steps + 1)
    following, rough = jnp.where(index < coarse, index + 1, index), jnp.full((steps + 1,), -1.0, dtype)
    place, answer, density, aside = jax.tree.map(padded, (places, *found))
    nodes = _Nodes(place, answer, density, aside, following, rough)
    rough = jax.vmap(lambda i: _roughness(nodes, i))(index)
    return nodes._replace(rough=jnp.where(index < coarse, rough, nodes.rough))


def _halved(function: _Function, nodes: _Nodes, free: Array) -> _Nodes:
    """The roughest interval in two halves, the new node at index `free`."""
    left = jnp.argmax(nodes.rough)
    right = nodes.following[left]
    place = (nodes.place[left] + nodes.place[right]) / 2
    found = (place, *function(place))
    known = nodes.place, nodes.answer, nodes.density, nodes.aside
    place, answer, density, aside = jax.tree.map(lambda known, new: known.at[free].set(new), known, found)
    following = nodes.following.at[free].set(right).at[left].set(free)
    nodes = _Nodes(place, answer, density, aside, following, nodes.rough)
    rough = nodes.rough.at[free].set(_roughness(nodes, free)).at[left].set(_roughness(nodes, left))
    return nodes._replace(rough=rough)


def _ends(nodes: _Nodes, left: Array) -> tuple[Array, Density, Density]:
    right = nodes.following[left]
    at = [jax.tree.map(lambda x, i=i: x[i], nodes.density) for i in (left, right)]
    return nodes.place[right] - nodes.place[left], at[0], at[1]


def _roughness(nodes: _Nodes, left: Array) -> Array:
    length, before, after = _ends(nodes, left)
    gaps = jax.tree.map(lambda a, b: jnp.sum(jnp.abs(a - b)), before, after)
    return length * sum(gaps.values(), jnp.zeros((), length.dtype)).astype(length.dtype)


def _interval(nodes: _Nodes, left: Array) -> Density:
    """Attributions of one interval; a node that begins none has length 0."""
    length, before, after = _ends(nodes, left)
    slopes = [sum((jnp.sum(x) for x in end.values()), jnp.zeros((), length.dtype)) for end in (before, after)]
    rise = nodes.answer[nodes.following[left]] - nodes.answer[left]
    apart = slopes[0] - slopes[1]
    alike = jnp.abs(apart) <= 1e-5 * (jnp.abs(slopes[0]) + jnp.abs(slopes[1]))
    share = (rise / jnp.where(length > 0, length, 1) - slopes[1]) / jnp.where(alike, 1, apart)
    share = jnp.where(alike, 0.5, jnp.clip(share, 0, 1))
    return jax.tree.map(lambda a, b: length * (share * a + (1 - share) * b), before, after)
