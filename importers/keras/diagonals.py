"""Operations of keras.ops on diagonals and triangles."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from backtrace_jax.errors import UnsupportedError

from .registry import operation
from .tensor import Operand, Tensor
from .terms import term
from .writer import Writer


@operation("Tril", "Triu")
def triangle(writer: Writer, layer: Any, x: Tensor) -> Operand:
    """The part of each matrix above or below a diagonal."""
    diagonal = writer.constant(np.array(layer.k, np.int64))
    return writer.emit("Trilu", x, diagonal, upper=int(type(layer).__name__ == "Triu"))


def _diagonal(x: Tensor, offset: int, first: int, second: int) -> tuple[list[int], np.ndarray]:
    """The two axes brought to the end and made one: the order of axes, and which entries of it are the diagonal."""
    rows, columns = x.shape[first], x.shape[second]
    if rows is None or columns is None:
        raise UnsupportedError("takes the diagonal of axes that have no fixed size; fix the sizes")
    perm = [axis for axis in range(x.rank) if axis not in (first, second)] + [first, second]
    start = offset if offset >= 0 else -offset * columns
    count = max(min(rows + min(offset, 0), columns - max(offset, 0)), 0)
    return perm, start + np.arange(count) * (columns + 1)


@operation("Diagonal", "Trace")
def diagonal(writer: Writer, layer: Any, x: Tensor) -> Operand:
    """The diagonal of two axes, or its sum."""
    perm, places = _diagonal(x, layer.offset, layer.axis1 % x.rank, layer.axis2 % x.rank)
    value = term(writer, x).transposed(perm)
    front = [writer.size(value.name, 0, x.rank - 2)] if x.rank > 2 else []
    entries = value.reshaped(*front, -1).gathered(places, x.rank - 2)
    return (entries.reduced("ReduceSum", [x.rank - 2]) if type(layer).__name__ == "Trace" else entries).name


@operation("Diag", "Diagflat")
def diag(writer: Writer, layer: Any, x: Tensor) -> Operand:
    """A matrix with these entries on a diagonal; or the diagonal of a matrix."""
    if x.rank == 2 and type(layer).__name__ == "Diag":
        _, places = _diagonal(x, layer.k, 0, 1)
        return term(writer, x).reshaped(-1).gathered(places, 0).name
    if None in x.shape:
        raise UnsupportedError("makes a matrix of a size that is not fixed; fix the size")
    count = math.prod(size for size in x.shape if size is not None)
    size = count + abs(layer.k)
    places = np.full((size, size), count)
    rows = np.arange(count) + max(-layer.k, 0)
    places[rows, rows + layer.k] = np.arange(count)
    value = term(writer, x).reshaped(-1)
    extended = value.node("Concat", value.number(np.zeros(1)), axis=0)
    return extended.gathered(places, 0).name
