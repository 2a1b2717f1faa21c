"""Axes by number, counted from either end."""

from __future__ import annotations

from collections.abc import Iterable

from backtrace_jax.errors import ModelError


def from_front(axis: int, rank: int) -> int:
    """The axis counted from the front.

    Raises:
        ModelError: When there is no such axis.
    """
    if not -rank <= axis < rank:
        bounds = f"from {-rank} to {rank - 1}" if rank else "none at all"
        raise ModelError(f"axis {axis} does not exist; axes of this value are {bounds}")
    return axis % rank


def each_from_front(axes: Iterable[int], rank: int) -> tuple[int, ...]:
    """Different axes counted from the front.

    Raises:
        ModelError: When one of them does not exist, or two are one.
    """
    axes = list(axes)
    found = tuple(from_front(axis, rank) for axis in axes)
    if len(set(found)) < len(found):
        raise ModelError(f"axes {axes} of {rank} name one twice")
    return found
