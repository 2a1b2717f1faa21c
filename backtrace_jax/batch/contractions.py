"""How products that contract axes treat a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from string import ascii_letters
from typing import Any

from .places import MixedError, Operand, Place, Shape, Step, fitted

_CROSSED = "it multiplies examples with each other"


def _matmul(operands: Sequence[Operand], params: Mapping[str, Any], shapes: Sequence[Shape], count: int) -> Step:
    left, right = (operand.shape for operand in operands[:2])
    lead = iter(ascii_letters[3:])
    batch = "".join(next(lead) for _ in range(max(len(left), len(right)) - 2)) if min(len(left), len(right)) else ""
    terms = (
        batch[len(batch) - max(0, len(left) - 2) :] + ("ab" if len(left) > 1 else "b"),
        batch[len(batch) - max(0, len(right) - 2) :] + ("bc" if len(right) > 1 else "b"),
    )
    result = batch + ("a" if len(left) > 1 else "") + ("c" if len(right) > 1 else "")
    return _contracted(operands, params, shapes, (*terms, result))


def _einsum(operands: Sequence[Operand], params: Mapping[str, Any], shapes: Sequence[Shape], count: int) -> Step:
    given, _, result = params["equation"].replace(" ", "").partition("->")
    left, right = given.split(",")
    spare = [letter for letter in ascii_letters if letter not in given]
    ranks = (len(operands[0].shape), len(operands[1].shape), len(shapes[0]))
    first, second, third = (_spelled(*pair, spare) for pair in zip((left, right, result), ranks, strict=True))
    return _contracted(operands, params, shapes, (first, second, third))


def _spelled(term: str, rank: int, spare: Sequence[str]) -> str:
    """A term whose ellipsis stands for letters of its own, the last of them for the last axis."""
    axes = rank - len(term.replace("...", ""))
    return term.replace("...", "".join(spare[:axes][::-1]))


def _contracted(
    operands: Sequence[Operand], params: Mapping[str, Any], shapes: Sequence[Shape], terms: tuple[str, str, str]
) -> Step:
    """The letter of the examples is one of the result's; it is that of the examples wherever it stands."""
    letter, outer = _letter(operands, terms)
    if letter not in terms[2] or any(term.count(letter) > 1 for term in terms):
        raise MixedError(_CROSSED)
    wanted: list[Place | None] = []
    for operand, term in zip(operands[:2], terms, strict=False):
        axis = term.find(letter)
        wanted.append(None if axis < 0 or operand.shape[axis] == 1 else Place(axis, outer))
    result = Place(terms[2].index(letter), outer)
    _check_own(operands, wanted)
    return Step((*wanted, *(fitted(each, shapes[0], result) for each in operands[2:])), (result,), params)


def _letter(operands: Sequence[Operand], terms: Sequence[str]) -> tuple[str, int]:
    for operand, term in zip(operands, terms, strict=False):
        if operand.place is not None:
            return term[operand.place.axis], operand.place.outer
    raise MixedError("its bias differs from example to example")


def _check_own(operands: Sequence[Operand], wanted: Sequence[Place | None]) -> None:
    if any(operand.place not in (None, place) for operand, place in zip(operands, wanted, strict=False)):
        raise MixedError(_CROSSED)


def _windowed(operands: Sequence[Operand], params: Mapping[str, Any], shapes: Sequence[Shape], count: int) -> Step:
    """Convolutions: the first axis holds the examples, or the channels of each example are a group of their own."""
    place, kernel = operands[0].place, None
    if place == Place(1) and params["groups"] % count == 0:
        kernel, params = Place(0), {**params, "groups": params["groups"] // count}
    if place is None or (kernel is None and place.axis != 0):
        raise MixedError("its kernel or its channels hold several examples")
    return Step((place, kernel, *(fitted(each, shapes[0], place) for each in operands[2:])), (place,), params)


CONTRACTIONS: dict[str, Callable[..., Step]] = {
    "matmul": _matmul,
    "einsum": _einsum,
    "conv": _windowed,
    "conv_transpose": _windowed,
}
