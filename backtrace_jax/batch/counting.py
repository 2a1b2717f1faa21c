"""Integers that tell examples apart: positions in the batch, with which a model looks up entries of its own example.

`x[arange(batch), last]` and a table flattened over examples both use the number of an example, and both do the same to
each. So integers are followed as what they are for one example plus the example's number times a step, and between
what bounds; a lookup that stays within its own example is fine, any other use of such a number is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .places import MixedError, Place, Shape, alone

COUNTS = "it uses the position of each example in the batch as a number"
_MOST = 2**20  # entries whose bounds are kept


@dataclass(frozen=True, eq=False)
class Bounds:
    """What is known of integers, as arrays shaped like the value for one example.

    Attributes:
        step: What the number of the example is multiplied by and added.
        low: The least that they can be for the first example.
        high: The most.
        void: Where some may instead name nothing at all (a place past the end, or -1): whatever says which, by name.
    """

    step: np.ndarray
    low: np.ndarray
    high: np.ndarray
    void: str = ""

    @property
    def counts(self) -> bool:
        """Whether they differ by the example's number."""
        return bool(np.any(self.step))

    def each(self, function: Callable[[np.ndarray], np.ndarray]) -> Bounds:
        """The same after a move of the entries."""
        return Bounds(function(self.step), function(self.low), function(self.high), self.void)

    def within(self, size: int) -> np.ndarray:
        """Which of them name one of the `size` entries of their own example."""
        return (self.step == size) & (self.low >= 0) & (self.high < size)


def exact(array: np.ndarray) -> Bounds | None:
    """Known integers."""
    if array.dtype.kind not in "iu" or array.size > _MOST:
        return None
    values = array.astype(np.float64)
    return Bounds(np.zeros(array.shape), values, values)


def open_(shape: Shape) -> Bounds:
    """Integers of which nothing is known."""
    return Bounds(np.zeros(shape), np.full(shape, -np.inf), np.full(shape, np.inf))


def counted(array: np.ndarray, place: Place, count: int) -> tuple[np.ndarray, Bounds] | None:
    """Known integers that grow by the same from example to example, as those of the first one; None for others."""
    axis = place.axis
    if array.dtype.kind not in "iu" or array.shape[axis] % (place.outer * count) or array.size > _MOST * count:
        return None
    parts = array.reshape(*array.shape[:axis], place.outer, count, -1, *array.shape[axis + 1 :]).astype(np.int64)
    parts = np.moveaxis(parts, axis + 1, 0)
    step = parts[1] - parts[0]
    numbers = np.arange(count).reshape(-1, *(1,) * step.ndim)
    if not np.array_equal(parts, parts[0] + numbers * step):
        return None
    shape = alone(array.shape, place, count)
    first = parts[0].reshape(shape)
    values = first.astype(np.float64)
    return first.astype(array.dtype), Bounds(step.reshape(shape).astype(np.float64), values, values)


Given = Sequence[Bounds | None]
Rule = Callable[[Given, Sequence[Shape], Mapping[str, Any], Shape], Bounds | None]
"""From bounds and shapes of operands, params and the shape of the result, all for one example."""


def _filled(shape: Shape, low: int | float, high: int | float) -> Bounds:
    return Bounds(np.zeros(shape), np.full(shape, float(low)), np.full(shape, float(high)))


def _all(given: Given, shapes: Sequence[Shape]) -> list[Bounds]:
    return [open_(shape) if each is None else each for each, shape in zip(given, shapes, strict=True)]


def _position(given: Given, shapes: Sequence[Shape], params: Mapping[str, Any], shape: Shape) -> Bounds:
    return _filled(shape, 0, shapes[0][params["axis"]] - 1)


def _mod(given: Given, shapes: Sequence[Shape], params: Mapping[str, Any], shape: Shape) -> Bounds | None:
    divisor = given[1]
    if params["truncate"] or divisor is None or (given[0] is not None and given[0].counts) or np.any(divisor.low <= 0):
        return None
    return _filled(shape, 0, float(divisor.high.max()) - 1)


def _clip(given: Given, shapes: Sequence[Shape], params: Mapping[str, Any], shape: Shape) -> Bounds | None:
    if given[0] is not None and given[0].counts:
        return None
    low, high = params["low"], params["high"]
    return _filled(shape, -np.inf if low is None else low, np.inf if high is None else high)


def _moved(function: Callable[[np.ndarray, Mapping[str, Any]], np.ndarray]) -> Rule:
    def rule(given: Given, shapes: Sequence[Shape], params: Mapping[str, Any], shape: Shape) -> Bounds | None:
        return None if given[0] is None else given[0].each(lambda array: function(array, params))

    return rule


def _sliced(array: np.ndarray, params: Mapping[str, Any]) -> np.ndarray:
    spans = zip(params["start"], params["limit"], params["stride"], strict=True)
    return array[tuple(slice(*span) for span in spans)]


def _concat(given: Given, shapes: Sequence[Shape], params: Mapping[str, Any], shape: Shape) -> Bounds:
    parts = _all(given, shapes)
    return _of(*(np.concatenate([getattr(part, name) for part in parts], params["axis"]) for name in _FIELDS))


def _of(step: np.ndarray, low: np.ndarray, high: np.ndarray) -> Bounds:
    return Bounds(step, low, high)


_FIELDS = ("step", "low", "high")


def _add(given: Given, shapes: Sequence[Shape], params: Mapping[str, Any], shape: Shape) -> Bounds:
    parts = _all(given, shapes)
    return _of(*(sum((getattr(part, name) for part in parts), np.zeros(shape)) for name in _FIELDS))


def _sub(given: Given, shapes: Sequence[Shape], params: Mapping[str, Any], shape: Shape) -> Bounds:
    a, b = _all(given, shapes)
    return _of(*(np.broadcast_to(each, shape) for each in (a.step - b.step, a.low - b.high, a.high - b.low)))


def _mul(given: Given, shapes: Sequence[Shape], params: Mapping[str, Any], shape: Shape) -> Bounds | None:
    a, b = _all(given, shapes)
    if b.counts or not np.array_equal(b.low, b.high):
        a, b = b, a
    if b.counts or not np.array_equal(b.low, b.high):
        return None
    with np.errstate(invalid="ignore"):
        ends = [np.nan_to_num(each * b.low, nan=0.0, posinf=np.inf, neginf=-np.inf) for each in (a.low, a.high)]
    return _of(*(np.broadcast_to(each, shape) for each in (a.step * b.low, np.minimum(*ends), np.maximum(*ends))))


_RULES: dict[str, Rule] = {
    **dict.fromkeys(("argmax", "argmin", "order"), _position),
    **dict.fromkeys(("mod", "remainder"), _mod),
    "clip": _clip,
    "cast": _moved(lambda array, params: array),
    "reshape": _moved(lambda array, params: array.reshape(params["shape"])),
    "expand": _moved(lambda array, params: np.broadcast_to(array, params["shape"])),
    "transpose": _moved(lambda array, params: array.transpose(params["perm"])),
    "slice": _moved(_sliced),
    "concat": _concat,
    "add": _add,
    "sub": _sub,
    "mul": _mul,
}
_SOURCES = ("argmax", "argmin", "order", "mod", "remainder", "clip")
_KEEPING_VOID = ("reshape", "maximum")
_READ = {"gather": 1, "gather_nd": 1, "last_writers": 0, "scatter_add": 1, "scatter_max": 2, "scatter_min": 2}
_READ |= {"tuple_cells": 0, "greater_equal": 0}
"""Which operand of an operation may be places in the whole batch: its own rule looks at them."""


def _kept_above(given: Given, shapes: Sequence[Shape], params: Mapping[str, Any], shape: Shape) -> Bounds | None:
    """What names nothing by -1 names the first entry then."""
    a, b = given
    return a if a is not None and a.void and b is not None and not np.any(b.high) and not np.any(b.low) else None


_RULES["maximum"] = _kept_above


def bounds_of(
    op: str,
    given: Given,
    shapes: Sequence[Shape],
    params: Mapping[str, Any],
    shape: Shape,
    whole: bool,
) -> Bounds | None:
    """What is known of a result, from what is known of the operands, everything for one example.

    Args:
        op: The operation.
        given: What is known of the operands.
        shapes: Their shapes.
        params: Its params.
        shape: The shape of the result.
        whole: Whether the result holds integers.

    Raises:
        MixedError: When the number of an example would be used as a value.
    """
    counts = any(each is not None and each.counts for each in given)
    known = op in _RULES and whole and (counts or op in _SOURCES or any(each is not None for each in given))
    found = _RULES[op](given, shapes, params, shape) if known and int(np.prod(shape)) <= _MOST else None
    for number, each in enumerate(given):
        lost = each is not None and ((each.counts and found is None) or (each.void and op not in _KEEPING_VOID))
        readable = _READ.get(op) == number and (op != "greater_equal" or (each is not None and each.void))
        if lost and not readable:
            raise MixedError(COUNTS)
    return found
