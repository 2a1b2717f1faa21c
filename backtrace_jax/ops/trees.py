"""Tree ensembles as evidence: what each feature contributed along the decision paths, and the sum of that.

The attribution is the one of Saabas 2014 ("Interpreting random forests"): every node of a tree has an expected value,
and a split on feature f contributes to f the difference between the child taken and the node. Contributions and the
roots' expected values add up exactly to the prediction.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax

from .linear import mul
from .registry import POINTWISE, PRODUCT, register

BELOW, EQUAL, ABOVE, MISSING = 1, 2, 4, 8
"""How a feature compares with a threshold, as bits of the set of outcomes that lead to a node's second child."""


def tree_paths(
    x: Array,
    features: Array,
    thresholds: Array,
    accepted: Array,
    children: Array,
    gains: Array,
    roots: Array,
    *members: Array,
    depth: int,
    per_tree: bool,
) -> Array:
    """Contributions of the features, [N, F, T] (T targets), or [trees, N, F, T] with `per_tree`.

    Args:
        x: Features [N, F, 1].
        features: For each node, the feature it compares.
        thresholds: What it is compared with.
        accepted: Outcomes that lead to the second child, as a set of bits.
        children: The first and the second child of each node; leaves are their own.
        gains: For each node, its expected value less that of its parent, [nodes, T].
        roots: The root of each tree.
        *members: None, or two: sets of values padded with NaN, and for each node the set it compares with instead of
            the threshold (negative: none).
        depth: Length of the longest path.
        per_tree: Whether trees are kept apart.
    """
    values = lax.stop_gradient(x[..., 0])  # a tree is constant between its thresholds
    places = jnp.arange(values.shape[1], dtype=features.dtype)[None, None]
    equation = "nrf,nrt->rnft" if per_tree else "nrf,nrt->nft"

    def descend(_: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        nodes, paths = state
        compared = features[nodes]
        outcome = _outcome(jnp.take_along_axis(values, compared, axis=1), nodes, thresholds, *members)
        after = children[nodes, ((accepted[nodes] & outcome) != 0).astype(jnp.int32)]
        gained = jnp.where((after != nodes)[..., None], gains[after].astype(x.dtype), 0)
        owner = (compared[..., None] == places).astype(gained.dtype)  # a product, for scatters have no fixed order
        return after, paths + jnp.einsum(equation, owner, gained, precision=lax.Precision.HIGHEST)

    trees, (count, width), targets = roots.shape[0], values.shape, gains.shape[1]
    shape = (trees, count, width, targets) if per_tree else (count, width, targets)
    nodes = jnp.broadcast_to(roots, (count, trees))
    return lax.fori_loop(0, depth, descend, (nodes, jnp.zeros(shape, x.dtype)))[1]


def _outcome(values: Array, nodes: Array, thresholds: Array, *members: Array) -> Array:
    """How values compare with the thresholds, or the sets, of nodes."""
    limits = thresholds[nodes].astype(values.dtype)
    equal = values == limits
    if members:
        sets, chosen = members[0].astype(values.dtype), members[1][nodes]
        equal = jnp.where(chosen < 0, equal, (values[..., None] == sets[chosen]).any(axis=-1))
    below, same, above, missing = (jnp.asarray(bit, jnp.int32) for bit in (BELOW, EQUAL, ABOVE, MISSING))
    ordered = jnp.where(equal, same, jnp.where(values < limits, below, above))
    return jnp.where(jnp.isnan(values), missing, ordered)


def tree_sum(paths: Array, weights: Array) -> Array:
    """Contributions [..., F, T] times a weight per target (1, or what each tree counts for), summed over features."""
    return mul(jnp.sum(paths, axis=-2), weights)


register(POINTWISE, {"tree_paths": tree_paths}, carriers=(0,))
register(PRODUCT, {"tree_sum": tree_sum})
