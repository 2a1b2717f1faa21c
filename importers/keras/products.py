"""Operations of keras.ops that are products summed over axes, and distances."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_letters
from typing import Any

import numpy as np

from backtrace_jax.errors import UnsupportedError

from .registry import operation
from .tensor import Operand, Tensor
from .terms import Term, common
from .writer import Writer


def _einsum(one: Term, other: Term, equation: str) -> Term:
    return one.node("Einsum", other, equation=equation)


def _letters(*ranks: int) -> list[str]:
    """So many letters for each value, all different."""
    letters = iter(ascii_letters)
    return ["".join(next(letters) for _ in range(rank)) for rank in ranks]


def _contracted(one: Term, other: Term, ranks: Sequence[int], axes: Sequence[Sequence[int]]) -> Term:
    """Products of all entries, summed over axes of both."""
    first, second = _letters(*ranks)
    kept = list(second)
    for own, their in zip(*axes, strict=True):
        kept[their % ranks[1]] = first[own % ranks[0]]
    second = "".join(kept)
    free = "".join(letter for letter in first + second if not (letter in first and letter in second))
    return _einsum(one, other, f"{first},{second}->{free}")


def _ranks(*values: Any) -> list[int]:
    return [len(value.shape) if hasattr(value, "shape") else np.ndim(value) for value in values]


@operation("Dot")
def dot(writer: Writer, layer: Any, x1: Any, x2: Any) -> Operand:
    """Sum over the last axis of the first and the last but one of the second."""
    one, other = common(writer, x1, x2)
    ranks = _ranks(x1, x2)
    if 0 in ranks:
        return (one * other).name
    return _contracted(one, other, ranks, ([-1], [-2 if ranks[1] > 1 else -1])).name


@operation("Inner")
def inner(writer: Writer, layer: Any, x1: Any, x2: Any) -> Operand:
    """Sum over the last axes."""
    one, other = common(writer, x1, x2)
    ranks = _ranks(x1, x2)
    return (one * other if 0 in ranks else _contracted(one, other, ranks, ([-1], [-1]))).name


@operation("Tensordot")
def tensordot(writer: Writer, layer: Any, x1: Any, x2: Any) -> Operand:
    """Sum over axes of both."""
    one, other = common(writer, x1, x2)
    ranks, axes = _ranks(x1, x2), layer.axes
    if isinstance(axes, int):
        axes = list(range(-axes, 0)), list(range(axes))
    pair = [[each] if isinstance(each, int) else list(each) for each in axes]
    return _contracted(one, other, ranks, pair).name


@operation("Outer")
def outer(writer: Writer, layer: Any, x1: Any, x2: Any) -> Operand:
    """All products of two entries."""
    one, other = common(writer, x1, x2)
    return (one.reshaped(-1, 1) * other.reshaped(1, -1)).name


@operation("Vdot")
def vdot(writer: Writer, layer: Any, x1: Any, x2: Any) -> Operand:
    """Sum of the products of all entries."""
    one, other = common(writer, x1, x2)
    return (one.reshaped(-1) * other.reshaped(-1)).reduced("ReduceSum", [0]).name


@operation("Kron")
def kron(writer: Writer, layer: Any, x1: Any, x2: Any) -> Operand:
    """Every entry of the first times all of the second."""
    one, other = common(writer, x1, x2)
    rank = max(_ranks(x1, x2))
    one, other = (each.unsqueezed(*range(rank - own)) for each, own in zip((one, other), _ranks(x1, x2), strict=True))
    wide = one.unsqueezed(*range(1, 2 * rank, 2)) * other.unsqueezed(*range(0, 2 * rank, 2))
    sizes = [
        writer.emit("Mul", *(writer.size(each.name, axis, axis + 1) for each in (one, other))) for axis in range(rank)
    ]
    return wide.reshaped(*sizes).name


@operation("Cross")
def cross(writer: Writer, layer: Any, x1: Any, x2: Any) -> Operand:
    """The cross product of vectors of three."""
    ranks = _ranks(x1, x2)
    shared = getattr(layer, "axis", None)
    places = [layer.axisa, layer.axisb, layer.axisc] if shared is None else [shared] * 3
    if any(each.shape[axis] != 3 for each, axis in zip((x1, x2), places, strict=False)):
        raise UnsupportedError("takes cross products of vectors of two; add a third entry of 0")
    one, other = (
        each.transposed([*(i for i in range(rank) if i != axis % rank), axis % rank])
        for each, rank, axis in zip(common(writer, x1, x2), ranks, places, strict=False)
    )
    turned = [[each.gathered(order, rank - 1) for order in ([1, 2, 0], [2, 0, 1])]
              for each, rank in zip((one, other), ranks, strict=True)]  # fmt: skip
    result = turned[0][0] * turned[1][1] - turned[0][1] * turned[1][0]
    rank = max(ranks)
    perm = list(range(rank - 1))
    perm.insert(places[2] % rank, rank - 1)
    return result.transposed(perm).name


@operation("Vander")
def vander(writer: Writer, layer: Any, x: Tensor) -> Operand:
    """Powers of each entry, the highest first unless they increase."""
    (value,) = common(writer, x)
    count = x.shape[-1] if layer.N is None else layer.N
    if count is None:
        raise UnsupportedError("takes as many powers as there are entries, whose number is not fixed; give N")
    powers = np.arange(count) if layer.increasing else np.arange(count)[::-1]
    return value.unsqueezed(-1).node("Pow", value.number(powers)).name


@operation("CDist")
def distances(writer: Writer, layer: Any, x: Any, y: Any) -> Operand:
    """Euclidean distance of each row of one from each row of the other."""
    one, other = common(writer, x, y, real=True)
    apart = one.unsqueezed(-2) - other.unsqueezed(-3)
    return (apart * apart).reduced("ReduceSum", [-1]).node("Sqrt").name
