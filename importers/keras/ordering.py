"""Operations of keras.ops that go by the order of entries: sorting, the largest, quantiles."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from backtrace_jax.errors import UnsupportedError

from .reductions import listed
from .registry import operation
from .tensor import Operand, Tensor, as_array
from .terms import Term, as_float, term
from .writer import Writer


def _length(x: Tensor, axis: int) -> int:
    size = x.shape[axis]
    if size is None:
        raise UnsupportedError(f"sorts along axis {axis}, which has no fixed size; sort along another axis")
    return size


def _ordered(writer: Writer, x: Any, axis: int, *, largest: bool = False) -> tuple[Term, Term]:
    """Entries in order, and where they come from."""
    value = term(writer, x)
    count = writer.integers(_length(x, axis))
    names = writer.emit_all("TopK", value.name, count, results=2, axis=axis, largest=int(largest))
    return Term(writer, names[0], value.dtype), Term(writer, names[1], "int64")


@operation("Sort")
def sort(writer: Writer, layer: Any, x: Tensor) -> Operand:
    """Entries in ascending order."""
    return _ordered(writer, x, layer.axis % x.rank)[0].name


@operation("Argsort")
def argsort(writer: Writer, layer: Any, x: Tensor) -> Operand:
    """Positions of the entries in ascending order."""
    if layer.axis is None:
        raise UnsupportedError("sorts all entries of all examples in a row; sort along an axis")
    return _ordered(writer, x, layer.axis % x.rank)[1].cast("int32").name


@operation("TopK")
def top_k(writer: Writer, layer: Any, x: Tensor) -> list[Operand]:
    """The largest entries of the last axis, in order, and their positions."""
    names = writer.emit_all("TopK", x, writer.integers(int(layer.k)), results=2, axis=-1)
    return [names[0], writer.recast(names[1], "int32")]


@operation("Median", "Quantile", "Percentile")
def quantile(writer: Writer, layer: Any, x: Tensor, q: Any = 0.5) -> Operand:
    """Entries at shares of the order, between two of them by a line or by what the method says."""
    if isinstance(q, Tensor):
        raise UnsupportedError("takes quantiles whose shares the model computes; give them as numbers")
    shares = as_array(q) / (100 if type(layer).__name__ == "Percentile" else 1)
    axes = listed(layer.axis, x.rank)
    front = [axis for axis in range(x.rank) if axis not in axes]
    sizes = [_length(x, axis) for axis in axes]
    value = as_float(writer, x).transposed([*front, *axes])
    shape = [writer.size(value.name, 0, len(front)), math.prod(sizes)] if front else [math.prod(sizes)]
    row = Tensor(str(value.reshaped(*shape).name), (None,) * len(front) + (math.prod(sizes),), value.dtype)
    ordered, _ = _ordered(writer, row, len(front))
    found = _between(ordered, shares.reshape(-1), math.prod(sizes), len(front), getattr(layer, "method", "linear"))
    found = found.transposed([len(front), *range(len(front))])
    if layer.keepdims:
        found = found.unsqueezed(*(axis + 1 for axis in sorted(axes)))
    return (found if shares.ndim else found.squeezed(0)).name


_ROUNDED: dict[str, Callable[[np.ndarray], np.ndarray]] = {"lower": np.floor, "higher": np.ceil, "nearest": np.round}


def _between(ordered: Term, shares: np.ndarray, count: int, axis: int, method: str) -> Term:
    """Entries at shares of [..., count], [..., shares]."""
    places = shares.astype(np.float64) * (count - 1)
    if method in _ROUNDED:
        return ordered.gathered(_ROUNDED[method](places), axis)
    low = np.floor(places)
    part = np.full(places.shape, 0.5) if method == "midpoint" else places - low
    part = np.where(places == low, 0, part)
    ends = [ordered.gathered(each, axis) for each in (low, np.ceil(places))]
    return ends[0] * ends[0].number(1 - part) + ends[1] * ends[1].number(part)
