"""How lookups by index treat a batch: an index may name entries of its own example only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .counting import COUNTS, Bounds, counted
from .places import MixedError, Operand, Place, Shape, Step, inner

_PICKED = "it picks examples by their position in the batch"
_CROSSED = "it looks up entries of every example for every other"


def _gather(operands: Sequence[Operand], params: Mapping[str, Any], shapes: Sequence[Shape], count: int) -> Step:
    """The examples run along another axis of the table, along the indices, or each looks up among its own rows."""
    x, index = operands[0], operands[1]
    axis = params["axis"] % len(x.shape)
    others = (None,) * (len(operands) - 2)
    if x.place is not None and x.place.axis == axis:
        place = _own_rows(index, x.place, inner(x.shape, x.place, count), count)
        return Step((x.place, place, *others), (Place(axis + place.axis, place.outer),), params)
    if x.place is not None and index.place is not None:
        raise MixedError(_CROSSED)
    _check_plain(index)
    if index.place is not None:
        return Step((None, index.place, *others), (Place(axis + index.place.axis, index.place.outer),), params)
    if x.place is None:
        raise MixedError(_PICKED)
    after = x.place.axis if x.place.axis < axis else x.place.axis + len(index.shape) - 1
    return Step((x.place, None, *others), (Place(after, x.place.outer),), params)


def _check_plain(index: Operand) -> None:
    if index.bounds is not None and index.bounds.counts:
        raise MixedError(COUNTS)


def _own_rows(index: Operand, table: Place, width: int, count: int) -> Place:
    """Where indices hold the examples that name entries of their own example among all; some may be of no account."""
    for place, bounds in candidates(index, count):
        if table.outer == 1 and np.all(bounds.within(width) | unused(bounds)):
            return place
    raise MixedError(_PICKED)


def unused(bounds: Bounds) -> np.ndarray:
    """Which indices are the very first one for all examples: so are those of which a condition says they name none."""
    return (bounds.step == 0) & (bounds.low == 0) & (bounds.high == 0)


def candidates(index: Operand, count: int) -> list[tuple[Place, Bounds]]:
    """Where indices could hold the examples, and what is known of them then."""
    if index.place is not None:
        return [] if index.bounds is None else [(index.place, index.bounds)]
    if index.known is None:
        return []
    places = [Place(axis) for axis, size in enumerate(index.shape) if size and size % count == 0]
    found = [(place, counted(index.known, place, count)) for place in places]
    return [(place, each[1]) for place, each in found if each is not None]


def _gather_elements(
    operands: Sequence[Operand], params: Mapping[str, Any], shapes: Sequence[Shape], count: int
) -> Step:
    x, index = operands
    place = x.place or index.place
    if place is None or place.axis == params["axis"] % len(x.shape):
        raise MixedError(_PICKED)
    wanted = tuple(None if each.shape[place.axis] == 1 else place for each in operands)
    return Step(wanted, (place,), params)


def _gather_nd(operands: Sequence[Operand], params: Mapping[str, Any], shapes: Sequence[Shape], count: int) -> Step:
    """Shared leading axes hold the same examples; beyond them the table, the indices, or both for their own example."""
    x, index = operands
    shared, last, depth = params["batch_dims"], len(index.shape) - 1, index.shape[-1]
    place = x.place or index.place
    if place is not None and place.axis < shared:
        _check_plain(index)
        return Step((place, place), (place,), params)
    if x.place is not None and x.place.axis < shared + depth:
        at = _own_column(index, x, x.place.axis - shared, count)
        return Step((x.place, at), (at,), params)
    if x.place is not None and index.place is not None:
        raise MixedError(_CROSSED)
    _check_plain(index)
    if index.place is not None and index.place.axis < last:
        return Step((None, index.place), (index.place,), params)
    if x.place is None:
        raise MixedError(_PICKED)
    return Step((x.place, None), (Place(x.place.axis - depth - shared + last, x.place.outer),), params)


def _own_column(index: Operand, x: Operand, column: int, count: int) -> Place:
    """Where tuples of indices hold the examples, when one entry of them is the number of the example itself."""
    plain = x.place is not None and x.shape[x.place.axis] == count
    for place, bounds in candidates(index, count):
        if plain and place.axis < len(index.shape) - 1 and is_own_column(bounds, column):
            return place
    raise MixedError(_PICKED)


def is_own_column(bounds: Bounds, column: int) -> bool:
    """Whether of tuples of indices one entry is the number of the example, and no other depends on it."""
    rest = np.delete(bounds.step, column, axis=-1)
    own = bounds.step[..., column], bounds.low[..., column], bounds.high[..., column]
    return bool(np.all(own[0] == 1) and not np.any(own[1]) and not np.any(own[2]) and not np.any(rest))


INDEXING: dict[str, Callable[..., Step]] = {
    "gather": _gather,
    "gather_by_key": _gather,
    "gather_elements": _gather_elements,
    "gather_nd": _gather_nd,
}
