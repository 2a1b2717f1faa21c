"""Operations that move values: the result holds entries of the operands unchanged."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array, lax

from .linear import same_rank
from .registry import MOVE, register

_TOGETHER = 32


def reshape(x: Array, *, shape: Sequence[int]) -> Array:
    """The same entries in another shape."""
    return jnp.reshape(x, tuple(shape))


def transpose(x: Array, *, perm: Sequence[int]) -> Array:
    """Axes in another order."""
    return jnp.transpose(x, tuple(perm))


def expand(x: Array, *, shape: Sequence[int]) -> Array:
    """Copies along axes of size 1 and along new leading axes."""
    return jnp.broadcast_to(x, tuple(shape))


def slice_(x: Array, *, start: Sequence[int], limit: Sequence[int], stride: Sequence[int]) -> Array:
    """Every `stride`-th entry from `start` up to `limit` along each axis."""
    return lax.slice(x, start, limit, stride)


def reverse(x: Array, *, axes: Sequence[int]) -> Array:
    """Entries in reverse order along axes."""
    return lax.rev(x, tuple(axes))


def concat(*arrays: Array, axis: int) -> Array:
    """Arrays one after the other along an axis; very many a group at a time, since XLA takes the square of them."""
    while len(arrays) > _TOGETHER:
        groups = (arrays[i : i + _TOGETHER] for i in range(0, len(arrays), _TOGETHER))
        arrays = tuple(lax.concatenate(group, axis) for group in groups)
    return lax.concatenate(arrays, axis)


def pad(x: Array, fill: Array, *, low: Sequence[int], high: Sequence[int]) -> Array:
    """Border of the value `fill`; negative sizes cut off."""
    return lax.pad(x, fill, [(before, after, 0) for before, after in zip(low, high, strict=True)])


def gather(x: Array, indices: Array, *, axis: int) -> Array:
    """Entries of x along an axis by index, negative ones counted from the end; NaN where an index is out of range."""
    return jnp.take(x, _from_start(indices, x.shape[axis]), axis=axis, mode="fill")


def gather_elements(x: Array, indices: Array, *, axis: int) -> Array:
    """Entry by entry along one axis; NaN where an index is out of range."""
    return jnp.take_along_axis(x, _from_start(indices, x.shape[axis]), axis=axis, mode="fill")


def gather_nd(x: Array, indices: Array, *, batch_dims: int) -> Array:
    """Slices of x by index tuples (the last axis of `indices`), after shared leading axes."""
    if batch_dims:
        return jax.vmap(lambda a, i: gather_nd(a, i, batch_dims=batch_dims - 1))(x, indices)
    columns = [_from_start(indices[..., k], x.shape[k]) for k in range(indices.shape[-1])]
    return x.at[tuple(columns)].get(mode="fill")


def gather_by_key(table: Array, index: Array, keys: Array, *, axis: int) -> Array:
    """Rows of a table by key: the row of the equal key (keys in ascending order, NaN last), else the row after them."""
    count = keys.shape[0]
    place = jnp.minimum(jnp.searchsorted(keys, index), count - 1)
    found = (keys[place] == index) | ((keys[place] != keys[place]) & (index != index))
    return jnp.take(table, jnp.where(found, place, count), axis=axis)


def _from_start(indices: Array, size: int) -> Array:
    return jnp.where(indices < 0, jnp.where(indices < -size, size, indices + size), indices)


def where(condition: Array, a: Array, b: Array) -> Array:
    """a where the condition holds, else b, broadcast."""
    return jnp.where(*same_rank(condition, a, b))


register(MOVE, {"reshape": reshape, "transpose": transpose, "expand": expand, "slice": slice_, "reverse": reverse})
register(MOVE, {"turn": transpose})  # put in for the device's sake, where the model has no node
register(MOVE, {"concat": concat, "pad": pad})
register(MOVE, {"gather": gather, "gather_elements": gather_elements, "gather_nd": gather_nd}, carriers=(0,))
register(MOVE, {"gather_by_key": gather_by_key}, carriers=(0,), constant_in=(1, 2))
register(MOVE, {"where": where}, carriers=(1, 2))
