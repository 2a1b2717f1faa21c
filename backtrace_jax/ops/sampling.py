"""Reading between the entries of a value: interpolation at positions, or axis by axis.

It is linear in what is read; where the positions follow from inputs as well it is a function of both.

The weights are products of one weight for each axis. Cubic ones have both signs: such an operation says so (`signed`),
and applies on demand some `part` of its weights alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum

import jax.numpy as jnp
from jax import Array

from .registry import FUNCTION, LINEAR, register

ZEROS, BORDER, REFLECTION = "zeros", "border", "reflection"


class Part(Enum):
    """What of an operation's own weights is used: all, or magnitudes of all or of one sign, squares, 1 for each."""

    ALL = "all"
    MAGNITUDE = "magnitude"
    POSITIVE = "positive"
    NEGATIVE = "negative"
    SQUARED = "squared"
    CONNECTED = "connected"


def grid_points(grid: Array, *, sizes: Sequence[int], align_corners: bool, padding: str) -> Array:
    """Positions in entries, axis by axis, from a grid that runs from -1 to 1 and names the last axis first."""
    ends = _along_last(jnp.asarray(sizes, grid.dtype), grid.ndim)
    turned = grid[..., ::-1]
    points = (turned + 1) / 2 * (ends - 1) if align_corners else ((turned + 1) * ends - 1) / 2
    if padding == BORDER:
        return jnp.clip(points, 0, ends - 1)
    if padding == REFLECTION:
        return _reflected(points, ends, align_corners)
    return points


def _along_last(line: Array, rank: int) -> Array:
    return line.reshape((1,) * (rank - 1) + line.shape)


def _reflected(points: Array, ends: Array, align_corners: bool) -> Array:
    """Positions mirrored at the outermost entries, or half an entry beyond them."""
    low, span = (0.0, ends - 1) if align_corners else (-0.5, ends)
    safe = jnp.where(span > 0, span, 1)
    along = jnp.mod(jnp.abs(points - low), 2 * safe)
    return jnp.where(span > 0, low + safe - jnp.abs(along - safe), 0)


def sample(
    x: Array,
    points: Array,
    *,
    kernel: str,
    padding: str,
    align_corners: bool = False,
    signed: bool = False,
    part: Part = Part.ALL,
    summed: bool = True,
) -> Array:
    """Interpolated entries: x [N, C, *sizes] at points [N, P, axes] gives [N, C, P].

    Args:
        x: What is read.
        points: Positions in entries.
        kernel: "nearest", "linear" or "cubic".
        padding: What lies outside: "zeros", "border" or "reflection".
        align_corners: Whether reflection is at the outermost entries, rather than half an entry beyond.
        signed: Whether weights have both signs.
        part: What of the weights is used.
        summed: Whether each position gives one number; if not, the weighted entries themselves, [N, C, P, entries].
    """
    sizes = x.shape[2:]
    index = jnp.zeros((*points.shape[:-1], 1), jnp.int32)
    weight = jnp.ones((*points.shape[:-1], 1), points.dtype)
    for axis, size in enumerate(sizes):
        near, share = _taps(points[..., axis], size, kernel, padding, align_corners)
        index = (index[..., :, None] * size + near[..., None, :]).reshape(*index.shape[:-1], -1)
        weight = (weight[..., :, None] * share[..., None, :]).reshape(*weight.shape[:-1], -1)
    weight = _PARTS[part](weight).astype(x.dtype)
    count, entries = index.shape[1:]
    flat = x.reshape(*x.shape[:2], -1)
    read = jnp.take_along_axis(flat, index.reshape(len(index), 1, -1), axis=2, mode="clip")
    weighted = read.reshape(*x.shape[:2], count, entries) * weight[:, None]
    return jnp.sum(weighted, axis=-1) if summed else weighted


def _taps(points: Array, size: int, kernel: str, padding: str, align_corners: bool) -> tuple[Array, Array]:
    """Entries of one axis that are read at each position, and their weights."""
    if kernel == "nearest":
        found = jnp.round(points)[..., None]
        weight = jnp.ones_like(found)
    else:
        reach, shape = _KERNELS[kernel]
        start = jnp.floor(points)
        steps = _along_last(jnp.arange(1 - reach, reach + 1, dtype=points.dtype), points.ndim + 1)
        found = start[..., None] + steps
        weight = shape(jnp.abs(found - points[..., None]))
    inside = (found >= 0) & (found <= size - 1)
    if padding == REFLECTION:
        found = _reflected(found, jnp.full((1,) * found.ndim, size, points.dtype), align_corners)
    elif padding == ZEROS:
        weight = jnp.where(inside, weight, 0)
    near = jnp.clip(jnp.nan_to_num(found), 0, size - 1).astype(jnp.int32)
    return near, weight if padding == ZEROS or kernel != "cubic" else _merged(near, weight)


def _merged(near: Array, weight: Array) -> Array:
    """Weights with all of an entry's at the first place that reads it: beyond the ends several read the same one."""
    same = near[..., :, None] == near[..., None, :]
    first = jnp.argmax(same, axis=-1) == _along_last(jnp.arange(near.shape[-1]), near.ndim)
    return jnp.where(first, jnp.sum(jnp.where(same, weight[..., None, :], 0), axis=-1), 0)


def _triangle(distance: Array) -> Array:
    return jnp.maximum(1 - distance, 0)


def _cubic(distance: Array) -> Array:
    """Keys' cubic convolution kernel (Keys 1981, eq. 4)."""
    near = ((_A + 2) * distance - (_A + 3)) * distance * distance + 1
    far = _A * (((distance - 5) * distance + 8) * distance - 4)
    return jnp.where(distance <= 1, near, jnp.where(distance < 2, far, 0))


_A = -0.75  # slope of the cubic kernel where it crosses zero, as ONNX sets it
_KERNELS: dict[str, tuple[int, Callable[[Array], Array]]] = {"linear": (1, _triangle), "cubic": (2, _cubic)}
_PARTS: dict[Part, Callable[[Array], Array]] = {
    Part.ALL: lambda weight: weight,
    Part.MAGNITUDE: jnp.abs,
    Part.POSITIVE: lambda weight: jnp.maximum(weight, 0),
    Part.NEGATIVE: lambda weight: jnp.maximum(-weight, 0),
    Part.SQUARED: jnp.square,
    Part.CONNECTED: lambda weight: (weight != 0).astype(weight.dtype),
}


def interpolate(x: Array, *weights: Array, axes: Sequence[int], signed: bool = False, part: Part = Part.ALL) -> Array:
    """Weighted sums along each of some axes, as one linear map whose weights are the products of those along the axes.

    Args:
        x: What is read.
        weights: For each of the axes, weights [entries after, entries before].
        axes: The axes, each of them once.
        signed: Whether weights have both signs.
        part: What of the products is used.
    """
    if part in (Part.POSITIVE, Part.NEGATIVE):
        return _by_sign(x, weights, axes)[0 if part == Part.POSITIVE else 1]
    for axis, matrix in zip(axes, weights, strict=True):
        x = _along(x, _PARTS[part](matrix), axis)
    return x


def _along(x: Array, matrix: Array, axis: int) -> Array:
    return jnp.moveaxis(jnp.tensordot(x, matrix, (axis, 1)), -1, axis)


def _by_sign(x: Array, weights: Sequence[Array], axes: Sequence[int]) -> tuple[Array, Array]:
    """By the positive products of weights, and by the negative ones: those of an odd number of negative weights."""
    even, odd = x, jnp.zeros_like(x)
    for axis, matrix in zip(axes, weights, strict=True):
        kept, turning = (_PARTS[part](matrix) for part in (Part.POSITIVE, Part.NEGATIVE))
        even, odd = (
            _along(even, kept, axis) + _along(odd, turning, axis),
            _along(odd, kept, axis) + _along(even, turning, axis),
        )
    return even, odd


register(LINEAR, {"sample": sample, "interpolate": interpolate}, carriers=(0,))
register(FUNCTION, {"grid_points": grid_points, "determinant": jnp.linalg.det})
