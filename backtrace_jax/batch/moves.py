"""How moves treat a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .places import MixedError, Operand, Place, Shape, Step, alone, first_place, inner, reshaped, widened

_PICKED = "it picks examples by their position in the batch"


def _only(place: Place | None) -> Place:
    if place is None:
        raise MixedError("one of its settings differs from example to example")
    return place


def _reshape(operands: Sequence[Operand], params: Mapping[str, Any], shapes: Sequence[Shape], count: int) -> Step:
    place = _only(operands[0].place)
    result = reshaped(operands[0].shape, place, shapes[0], count)
    return Step((place,), (result,), {"shape": alone(shapes[0], result, count)})


def _transpose(operands: Sequence[Operand], params: Mapping[str, Any], shapes: Sequence[Shape], count: int) -> Step:
    place = _only(operands[0].place)
    return Step((place,), (Place(tuple(params["perm"]).index(place.axis), place.outer),), params)


def _expand(operands: Sequence[Operand], params: Mapping[str, Any], shapes: Sequence[Shape], count: int) -> Step:
    result = _only(widened(operands[0], shapes[0]))
    return Step((operands[0].place,), (result,), {"shape": alone(shapes[0], result, count)})


def _slice(operands: Sequence[Operand], params: Mapping[str, Any], shapes: Sequence[Shape], count: int) -> Step:
    """All examples are kept: all of the axis, whole rounds of the examples, or one of each one's neighbours."""
    place, shape = _only(operands[0].place), operands[0].shape
    axis, width = place.axis, inner(shape, place, count)
    bounds = [tuple(params[name]) for name in ("start", "limit", "stride")]
    first, last, step = (each[axis] for each in bounds)
    block = count * width
    if step == 1 and first % block == 0 and last % block == 0 and last > first:
        own, outer = (first // count, last // count, 1), (last - first) // block
    elif step == width and first < width and shapes[0][axis] == place.outer * count:
        own, outer = (first, first + (place.outer - 1) * width + 1, step), place.outer
    else:
        raise MixedError(_PICKED)
    changed = (tuple(value if i == axis else old[i] for i in range(len(old))) for old, value in _pairs(bounds, own))
    return Step((place,), (Place(axis, outer),), dict(zip(("start", "limit", "stride"), changed, strict=True)))


def _pairs(bounds: Sequence[tuple[int, ...]], own: Sequence[int]) -> list[tuple[tuple[int, ...], int]]:
    return list(zip(bounds, own, strict=True))


def _reverse(operands: Sequence[Operand], params: Mapping[str, Any], shapes: Sequence[Shape], count: int) -> Step:
    place = _only(operands[0].place)
    if place.axis in params["axes"]:
        raise MixedError("it reverses the order of the examples")
    return Step((place,), (place,), params)


def _concat(operands: Sequence[Operand], params: Mapping[str, Any], shapes: Sequence[Shape], count: int) -> Step:
    """Along another axis, or whole rounds of the examples one after the other."""
    place = _only(first_place([operand.place for operand in operands]))
    if params["axis"] % len(shapes[0]) != place.axis:
        return Step((place,) * len(operands), (place,), params)
    places = [operand.place for operand in operands]
    if any(each is None or each.axis != place.axis for each in places):
        raise MixedError("it adds entries to the batch that belong to no example")
    widths = {inner(each.shape, each.place, count) for each in operands if each.place is not None}
    if len(widths) > 1:
        raise MixedError("it joins parts of different examples")
    outer = sum(each.outer for each in places if each is not None)
    return Step(tuple(places), (Place(place.axis, outer),), params)


def _pad(operands: Sequence[Operand], params: Mapping[str, Any], shapes: Sequence[Shape], count: int) -> Step:
    place = _only(operands[0].place)
    if params["low"][place.axis] or params["high"][place.axis]:
        raise MixedError("it adds entries to the batch that belong to no example")
    return Step((place, None), (place,), params)


MOVES: dict[str, Callable[..., Step]] = {
    "reshape": _reshape,
    "transpose": _transpose,
    "expand": _expand,
    "slice": _slice,
    "reverse": _reverse,
    "concat": _concat,
    "pad": _pad,
}
