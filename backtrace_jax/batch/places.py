"""Where a value holds the examples of a batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Shape = tuple[int, ...]


class MixedError(Exception):
    """An operation does something to several examples that it does not do to each alone; says what."""


@dataclass(frozen=True)
class Place:
    """One axis holds the examples: its entries are counted (outer, example, inner), the last running fastest.

    Attributes:
        axis: The axis.
        outer: How often the examples follow one another; the inner size is what remains of the axis.
    """

    axis: int
    outer: int = 1


@dataclass(frozen=True)
class Operand:
    """An operand of an operation over a batch.

    Attributes:
        shape: Its shape, with all examples.
        place: Where it holds the examples; None where all examples share it.
        known: Its value, where that is known.
        bounds: What is known of its integers.
    """

    shape: Shape
    place: Place | None
    known: np.ndarray | None = None
    bounds: Any = None


@dataclass(frozen=True)
class Step:
    """How an operation over a batch does the same to each example.

    Attributes:
        wanted: Where each operand must hold the examples.
        results: Where each result holds them.
        params: The operation's params for one example.
    """

    wanted: tuple[Place | None, ...]
    results: tuple[Place | None, ...]
    params: Mapping[str, Any]


def alone(shape: Shape, place: Place | None, count: int) -> Shape:
    """The shape of a value for one example of `count`."""
    if place is None:
        return shape
    return tuple(size // count if axis == place.axis else size for axis, size in enumerate(shape))


def inner(shape: Shape, place: Place, count: int) -> int:
    """How many neighbouring entries of the axis belong to one example."""
    return shape[place.axis] // (place.outer * count)


def reshaped(shape: Shape, place: Place, target: Shape, count: int) -> Place:
    """Where the examples are after a reshape.

    Raises:
        MixedError: When entries of different examples come to lie along several axes.
    """
    step = inner(shape, place, count) * math.prod(shape[place.axis + 1 :])
    for axis, size in enumerate(target):
        after = math.prod(target[axis + 1 :])
        if step and size and step % after == 0 and (after * size) % (step * count) == 0:
            return Place(axis, after * size // (step * count))
    raise MixedError(f"the reshape to {list(target)} takes the batch apart")


def of_one(array: np.ndarray, place: Place, count: int) -> np.ndarray | None:
    """The part of a known value that belongs to one example; None where examples have different parts."""
    axis, size = place.axis, array.shape[place.axis]
    if size % (place.outer * count):
        return None
    parts = array.reshape(*array.shape[:axis], place.outer, count, -1, *array.shape[axis + 1 :])
    first = parts.take(0, axis + 1)
    if not _same_bits(parts, np.expand_dims(first, axis + 1)):
        return None
    return first.reshape(alone(array.shape, place, count))


def _same_bits(array: np.ndarray, other: np.ndarray) -> bool:
    """Equality in which NaN equals itself."""
    with np.errstate(invalid="ignore"):
        return bool(np.all((array == other) | ((array != array) & (other != other))))


def fitted(operand: Operand, target: Shape, place: Place) -> Place | None:
    """Where an operand that is broadcast to a target must hold the examples that the target holds."""
    axis = place.axis - (len(target) - len(operand.shape))
    return None if axis < 0 or operand.shape[axis] == 1 else Place(axis, place.outer)


def widened(operand: Operand, target: Shape) -> Place | None:
    """Where a target holds the examples of an operand that is broadcast to it."""
    if operand.place is None:
        return None
    return Place(operand.place.axis + len(target) - len(operand.shape), operand.place.outer)


def first_place(places: Sequence[Place | None]) -> Place | None:
    """The first place there is."""
    return next((place for place in places if place is not None), None)
