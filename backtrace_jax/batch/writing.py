"""How writing to places given by indices treats a batch: each example writes to its own part of the target.

Of a plain scatter, entries without a writer are looked up as well (the first update of all), and a condition then
takes the datum in their place. Until that condition they are in doubt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .counting import Bounds
from .indexing import candidates, is_own_column, unused
from .places import MixedError, Operand, Place, Shape, Step

_ELSEWHERE = "it writes to places of other examples"


@dataclass(frozen=True, eq=False)
class Doubt:
    """Entries of a value that may belong to another example.

    Attributes:
        where: Which, in the shape of the value for one example.
        void: What says which of them do, by name; empty where they all do.
        guard: Whether this is the condition itself that holds where none does.
    """

    where: np.ndarray
    void: str = ""
    guard: bool = False


def _element_cells(operands: Sequence[Operand], params: Mapping[str, Any], shapes: Sequence[Shape], count: int) -> Step:
    """Places of entries, all but one axis of which are their own."""
    place, shape = operands[0].place, tuple(params["shape"])
    leading = place is not None and place.outer == 1 and math.prod(shape[: place.axis]) == 1
    if place is None or not leading or place.axis == params["axis"] or shape[place.axis] != shapes[0][place.axis]:
        raise MixedError(_ELSEWHERE)
    own = tuple(size // count if axis == place.axis else size for axis, size in enumerate(shape))
    return Step((place,), (place,), {**params, "shape": own})


def _tuple_cells(operands: Sequence[Operand], params: Mapping[str, Any], shapes: Sequence[Shape], count: int) -> Step:
    """Places of tuples of indices, the first of which is the number of the example."""
    shape = tuple(params["shape"])
    for place, bounds in candidates(operands[0], count):
        if shape[0] == count and place.axis < len(shapes[0]) and is_own_column(bounds, 0):
            return Step((place,), (place,), {**params, "shape": (1, *shape[1:])})
    raise MixedError(_ELSEWHERE)


def _cells(cells: Operand, total: int, count: int) -> Place:
    """Where places among `total` hold the examples that each name their own part."""
    for place, bounds in candidates(cells, count):
        if place == Place(0) and total % count == 0 and np.all(bounds.within(total // count)):
            return place
    raise MixedError(_ELSEWHERE)


def _last_writers(operands: Sequence[Operand], params: Mapping[str, Any], shapes: Sequence[Shape], count: int) -> Step:
    place = _cells(operands[0], params["count"], count)
    return Step((place,), (place,), {"count": params["count"] // count})


def _scatter_add(operands: Sequence[Operand], params: Mapping[str, Any], shapes: Sequence[Shape], count: int) -> Step:
    updates, cells = operands
    if cells.place is None and updates.place is not None and updates.place.axis > 0:
        return Step((updates.place, None), (updates.place,), params)
    place = _cells(cells, params["count"], count)
    return Step((place, place), (place,), {"count": params["count"] // count})


def _scatter_extreme(
    operands: Sequence[Operand], params: Mapping[str, Any], shapes: Sequence[Shape], count: int
) -> Step:
    data, updates, cells = operands
    place = data.place or updates.place
    if cells.place is None and place is not None and place.axis > 0:
        return Step((place, place, None), (place,), params)
    place = _cells(cells, data.shape[0], count)
    return Step((place,) * 3, (place,), params)


WRITING: dict[str, Callable[..., Step]] = {
    "element_cells": _element_cells,
    "tuple_cells": _tuple_cells,
    "last_writers": _last_writers,
    "scatter_add": _scatter_add,
    "scatter_max": _scatter_extreme,
    "scatter_min": _scatter_extreme,
}


def places_named(op: str, name: str, params: Mapping[str, Any], given: Sequence[Shape], shape: Shape) -> Bounds | None:
    """What is known of places, or of who wrote to them, by construction; everything for one example.

    Args:
        op: The operation.
        name: Name of its result.
        params: Its params.
        given: Shapes of its operands.
        shape: Shape of its result.
    """
    if op not in ("element_cells", "tuple_cells", "last_writers", "max_positions"):
        return None
    size = float(math.prod(params["shape"]) if "shape" in params else math.prod(given[0]))
    void = "" if op == "max_positions" else name
    return Bounds(np.full(shape, size), np.zeros(shape), np.full(shape, size - 1), void)


def doubt(
    op: str, params: Mapping[str, Any], given: Sequence[Doubt | None], operands: Sequence[Operand], shape: Shape
) -> Doubt | None:
    """The entries of a result that may belong to another example, from those of the operands, all for one example.

    Raises:
        MixedError: When they would be used.
    """
    if op == "gather" and operands[1].bounds is not None and operands[0].place is not None:
        return _looked_up(operands, params["axis"], shape)
    if op == "greater_equal" and operands[0].bounds is not None and operands[0].bounds.void:
        return Doubt(np.zeros(shape, bool), operands[0].bounds.void, guard=True)
    if all(each is None for each in given):
        return None
    if op == "where":
        return _chosen(given, operands, shape)
    held = next(each for each in given if each is not None)
    if op == "reshape":
        return Doubt(held.where.reshape(shape), held.void, held.guard)
    if op == "mul" and not held.guard:
        wheres = [each.where for each in given if each is not None]
        return Doubt(np.broadcast_to(np.logical_or.reduce(np.broadcast_arrays(*wheres)), shape), held.void)
    raise MixedError(_ELSEWHERE)


def _looked_up(operands: Sequence[Operand], axis: int, shape: Shape) -> Doubt | None:
    bounds = operands[1].bounds
    where = np.full(bounds.step.shape, True) if bounds.void else unused(bounds)
    if not bounds.counts or not where.any():
        return None
    after = len(shape) - axis - where.ndim
    return Doubt(np.broadcast_to(where.reshape(*where.shape, *(1,) * after), shape), bounds.void)


def _chosen(given: Sequence[Doubt | None], operands: Sequence[Operand], shape: Shape) -> Doubt | None:
    """A condition that holds nowhere in doubt makes the first choice certain."""
    condition, first, second = given
    if first is None or second is not None:
        raise MixedError(_ELSEWHERE)
    if first.void:
        certain = condition is not None and condition.guard and condition.void == first.void
    else:
        known = operands[0].known
        certain = known is not None and not np.any(np.broadcast_to(known, shape) & first.where)
    if not certain:
        raise MixedError(_ELSEWHERE)
    return None
