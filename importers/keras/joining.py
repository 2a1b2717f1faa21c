"""Operations of keras.ops that cut values into parts and join them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from backtrace_jax.errors import UnsupportedError

from .registry import OPERATIONS, operation
from .tensor import Operand, Tensor
from .terms import Term, common
from .writer import Writer


def _parts(writer: Writer, x: Tensor, sections: Any, axis: int) -> list[Operand]:
    """Cut into so many equal parts, the first ones longer where they are not equal; or before given positions."""
    size = x.shape[axis]
    if isinstance(sections, int):
        if size is None:
            raise UnsupportedError(f"splits axis {axis}, which has no fixed size; split another axis")
        ends = np.cumsum([len(each) for each in np.array_split(np.arange(size), sections)]).tolist()
    else:
        ends = [*(int(each) for each in sections), None]
    return [writer.slice(x, axis, start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


@operation("Split", "ArraySplit", "Hsplit", "Vsplit", "Dsplit")
def split(writer: Writer, layer: Any, x: Tensor) -> list[Operand]:
    """Parts along an axis."""
    axis = {"Hsplit": 1 if x.rank > 1 else 0, "Vsplit": 0, "Dsplit": 2}.get(type(layer).__name__)
    return _parts(writer, x, layer.indices_or_sections, layer.axis % x.rank if axis is None else axis)


@operation("Unstack")
def unstack(writer: Writer, layer: Any, x: Tensor) -> list[Operand]:
    """Every entry along an axis on its own."""
    axis = layer.axis % x.rank
    count = x.shape[axis] if layer.num is None else layer.num
    parts = (Term(writer, part, x.dtype) for part in _parts(writer, x, count, axis))
    return [part.squeezed(axis).name for part in parts]


def _stack_along(axis: int, rank: int) -> Callable[..., Operand]:
    def write(writer: Writer, layer: Any, xs: Sequence[Any]) -> Operand:
        values = common(writer, *xs)
        raised = [_raised(value, len(x.shape), rank) for value, x in zip(values, xs, strict=True)]
        own = 0 if rank == 1 and all(len(x.shape) == 1 for x in xs) and axis == 1 else axis
        return raised[0].node("Concat", *raised[1:], axis=own).name

    return write


def _raised(value: Term, rank: int, least: int) -> Term:
    """With axes of size 1 as NumPy adds them: one in front, a third one behind."""
    if rank >= least:
        return value
    front = [0] if rank < 2 <= least else []
    behind = [2] if least == 3 else []
    return value.unsqueezed(*front, *behind)


OPERATIONS.update({"Hstack": _stack_along(1, 1), "Vstack": _stack_along(0, 2), "Dstack": _stack_along(2, 3)})


@operation("Append")
def append(writer: Writer, layer: Any, x1: Any, x2: Any) -> Operand:
    """One value behind the other along an axis; all entries in a row if none is given."""
    one, other = common(writer, x1, x2)
    if layer.axis is None:
        return one.reshaped(-1).node("Concat", other.reshaped(-1), axis=0).name
    return one.node("Concat", other, axis=layer.axis).name


@operation("Meshgrid")
def meshgrid(writer: Writer, layer: Any, *x: Any) -> list[Operand]:
    """Coordinates of every place, one value for each axis."""
    values, count = common(writer, *x), len(x)
    order = [1, 0, *range(2, count)] if layer.indexing == "xy" and count > 1 else list(range(count))
    wide = [
        value.reshaped(*(-1 if axis == place else 1 for axis in range(count)))
        for value, place in zip(values, order, strict=True)
    ]
    total = wide[0]
    for each in wide[1:]:
        total = total + each
    return [each.expanded(total).name for each in wide]
