"""Operations that write entries to places given by indices.

Places are told by *cells*: positions among the entries (or slices) of the target, counted in row-major order; an index
out of range has a cell past the end and writes nothing. Where several entries are written to one cell, plain scattering
keeps the last of them: `last_writers` says which, so that scattering is a gather and its order is fixed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array, lax

from .registry import LINEAR, NONE, SELECT, register


def element_cells(indices: Array, *, shape: Sequence[int], axis: int) -> Array:
    """Cell that each entry of `indices` names in a target of this shape: its own place, but for one axis."""
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    own = [stride * lax.broadcasted_iota(jnp.int64, indices.shape, k) for k, stride in enumerate(strides) if k != axis]
    along, outside = _from_start(indices, shape[axis])
    return jnp.where(outside, math.prod(shape), sum(own, strides[axis] * along))


def tuple_cells(indices: Array, *, shape: Sequence[int]) -> Array:
    """Cell that each tuple of indices (the last axis) names in a target of this shape."""
    size, cells = math.prod(shape), jnp.zeros(indices.shape[:-1], jnp.int64)
    beyond = jnp.zeros(indices.shape[:-1], bool)
    for column, length in enumerate(shape):
        position, outside = _from_start(indices[..., column], length)
        cells, beyond = cells * length + position, beyond | outside
    return jnp.where(beyond, size, cells)


def _from_start(indices: Array, size: int) -> tuple[Array, Array]:
    """Indices counted from the start, and which of them are out of range."""
    wide = indices.astype(jnp.int64)
    turned = jnp.where(wide < 0, wide + size, wide)
    return turned, (turned < 0) | (turned >= size)


def last_writers(cells: Array, *, count: int) -> Array:
    """For each of `count` cells, the position of the last entry written to it; -1 where there is none."""
    nobody = jnp.full(count, -1, jnp.int64)
    return nobody.at[cells].max(jnp.arange(cells.shape[0], dtype=jnp.int64), mode="drop")


def scatter_add(updates: Array, cells: Array, *, count: int) -> Array:
    """For each of `count` cells, the sum of the updates written to it; 0 where there is none."""
    return jnp.zeros((count, *updates.shape[1:]), updates.dtype).at[cells].add(updates, mode="drop")


def scatter_max(data: Array, updates: Array, cells: Array) -> Array:
    """For each cell, the largest among its entry of data and the updates written to it."""
    return data.at[cells].max(updates, mode="drop")


def scatter_min(data: Array, updates: Array, cells: Array) -> Array:
    """For each cell, the smallest among its entry of data and the updates written to it."""
    return data.at[cells].min(updates, mode="drop")


register(NONE, {"element_cells": element_cells, "tuple_cells": tuple_cells, "last_writers": last_writers})
register(LINEAR, {"scatter_add": scatter_add}, carriers=(0,))
register(SELECT, {"scatter_max": scatter_max, "scatter_min": scatter_min}, carriers=(0, 1))
