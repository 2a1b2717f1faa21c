"""Operations of keras.ops along axes: reductions, running ones, what depends on the order of entries."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from backtrace_jax.errors import UnsupportedError

from .registry import OPERATIONS, operation
from .tensor import Operand, Tensor, as_array
from .terms import Term, as_float, is_float, term
from .writer import Writer

_Reduce = Callable[[Term, Sequence[int], bool], Term]


def _variance(x: Term, axes: Sequence[int], keepdims: bool) -> Term:
    centred = x - x.reduced("ReduceMean", axes, keepdims=True)
    return (centred * centred).reduced("ReduceMean", axes, keepdims)


def _range(x: Term, axes: Sequence[int], keepdims: bool) -> Term:
    return x.reduced("ReduceMax", axes, keepdims) - x.reduced("ReduceMin", axes, keepdims)


def _plain(op_type: str) -> _Reduce:
    return lambda x, axes, keepdims: x.reduced(op_type, axes, keepdims)


def _count(x: Term, axes: Sequence[int], keepdims: bool) -> Term:
    return (~x.equals(0)).cast("int32").reduced("ReduceSum", axes, keepdims)


_ANY: dict[str, _Reduce] = {
    "Amax": _plain("ReduceMax"), "Amin": _plain("ReduceMin"), "CountNonzero": _count, "Max": _plain("ReduceMax"),
    "Min": _plain("ReduceMin"), "Prod": _plain("ReduceProd"), "Ptp": _range, "Sum": _plain("ReduceSum"),
}  # fmt: skip
_REAL: dict[str, _Reduce] = {
    "Logsumexp": _plain("ReduceLogSumExp"),
    "Mean": _plain("ReduceMean"),
    "Std": lambda x, axes, keepdims: _variance(x, axes, keepdims).node("Sqrt"),
    "Var": _variance,
}


def listed(axis: Any, rank: int) -> list[int]:
    """Axes from the first on; None: all."""
    if axis is None:
        return list(range(rank))
    return [each % rank for each in ([axis] if isinstance(axis, int) else axis)]


def _reduction(reduce: _Reduce, real: bool) -> Callable[..., Operand]:
    def write(writer: Writer, layer: Any, x: Any) -> Operand:
        value = as_float(writer, x) if real else term(writer, x)
        axes, keepdims = listed(layer.axis, x.rank), bool(getattr(layer, "keepdims", False))
        return reduce(value.cast("int32") if value.dtype == "bool" else value, axes, keepdims).name

    return write


OPERATIONS.update({name: _reduction(reduce, real=False) for name, reduce in _ANY.items()})
OPERATIONS.update({name: _reduction(reduce, real=True) for name, reduce in _REAL.items()})

_NEUTRAL = {"Nansum": 0.0, "Nanprod": 1.0, "Nanmax": -math.inf, "Nanmin": math.inf}


@operation("Nansum", "Nanprod", "Nanmax", "Nanmin", "Nanmean", "Nanvar", "Nanstd")
def passing_nan(writer: Writer, layer: Any, x: Tensor) -> Operand:
    """A reduction of the entries that are numbers."""
    name, axes, keepdims = type(layer).__name__, listed(layer.axis, x.rank), bool(layer.keepdims)
    value = as_float(writer, x)
    lost = value.node("IsNaN", dtype="bool")
    known = value.number(_NEUTRAL.get(name, 0.0)).where(lost, value)
    if name in _NEUTRAL:
        op_type = f"Reduce{name.removeprefix('Nan').capitalize()}"
        return known.reduced(op_type, axes, keepdims).name
    count = (~lost).cast(value.dtype).reduced("ReduceSum", axes, keepdims=True)
    mean = known.reduced("ReduceSum", axes, keepdims=True) / count
    if name != "Nanmean":
        centred = value.number(0).where(lost, value - mean)
        mean = (centred * centred).reduced("ReduceSum", axes, keepdims=True) / count
    result = mean.node("Sqrt") if name == "Nanstd" else mean
    return (result if keepdims else result.squeezed(*axes)).name


@operation("Any", "All")
def truth(writer: Writer, layer: Any, x: Tensor) -> Operand:
    """Whether any or every entry holds, along axes."""
    op_type = "ReduceMax" if type(layer).__name__ == "Any" else "ReduceMin"
    held = term(writer, x, "bool").cast("int32")
    return held.reduced(op_type, listed(layer.axis, x.rank), bool(layer.keepdims)).cast("bool").name


@operation("Average")
def average(writer: Writer, layer: Any, x: Tensor, weights: Any = None) -> Operand:
    """The mean, weighted where weights are given: one for each place along an axis, or for each entry."""
    value, axes = as_float(writer, x), listed(layer.axis, x.rank)
    if weights is None:
        return value.reduced("ReduceMean", axes).name
    given = term(writer, weights, value.dtype)
    if len(weights.shape) == 1 and x.rank > 1:
        given = given.reshaped(*(-1 if axis in axes else 1 for axis in range(x.rank)))
    given = given.expanded(value)
    return ((value * given).reduced("ReduceSum", axes) / given.reduced("ReduceSum", axes)).name


@operation("Moments")
def moments(writer: Writer, layer: Any, x: Tensor) -> list[Operand]:
    """Mean and variance."""
    value, axes = as_float(writer, x), listed(layer.axes, x.rank)
    return [value.reduced("ReduceMean", axes, layer.keepdims).name, _variance(value, axes, layer.keepdims).name]


@operation("Norm")
def norm(writer: Writer, layer: Any, x: Tensor) -> Operand:
    """Norm of vectors along an axis, or of matrices by their entries, rows or columns."""
    value, axes, keepdims = as_float(writer, x), listed(layer.axis, x.rank), bool(layer.keepdims)
    order = layer.ord
    if order in (None, "fro") or (order == 2 and len(axes) == 1):
        return value.reduced("ReduceL2", axes, keepdims).name
    if len(axes) == 1:
        return _vector_norm(value, order, axes, keepdims).name
    if order not in (1, -1, math.inf, -math.inf):
        raise UnsupportedError(f"takes the norm of order {order!r} of matrices, by their singular values; use 'fro'")
    summed, extreme = (axes[:1], axes[1:]) if abs(order) == 1 else (axes[1:], axes[:1])
    sums = abs(value).reduced("ReduceSum", summed, keepdims=True)
    result = sums.reduced("ReduceMax" if order > 0 else "ReduceMin", extreme, keepdims=True)
    return (result if keepdims else result.squeezed(*axes)).name


def _vector_norm(value: Term, order: int | float, axes: Sequence[int], keepdims: bool) -> Term:
    size = abs(value)
    if math.isinf(order):
        return size.reduced("ReduceMax" if order > 0 else "ReduceMin", axes, keepdims)
    if order == 0:
        return _count(size, axes, keepdims).cast(value.dtype)
    if order == 1:
        return size.reduced("ReduceSum", axes, keepdims)
    return size.node("Pow", float(order)).reduced("ReduceSum", axes, keepdims).node("Pow", 1 / order)


@operation("Argmax", "Argmin")
def argument(writer: Writer, layer: Any, x: Tensor) -> Operand:
    """Where the largest or smallest entry is, the first of equals."""
    op_type = "ArgMax" if type(layer).__name__ == "Argmax" else "ArgMin"
    return _first_place(term(writer, x), op_type, layer, x.rank).cast("int32").name


@operation("Nanargmax", "Nanargmin")
def argument_of_numbers(writer: Writer, layer: Any, x: Tensor) -> Operand:
    """The same among the entries that are numbers."""
    largest = type(layer).__name__ == "Nanargmax"
    value = as_float(writer, x)
    known = value.number(-math.inf if largest else math.inf).where(value.node("IsNaN", dtype="bool"), value)
    return _first_place(known, "ArgMax" if largest else "ArgMin", layer, x.rank).cast("int32").name


def _first_place(value: Term, op_type: str, layer: Any, rank: int) -> Term:
    if layer.axis is not None:
        return value.node(op_type, axis=layer.axis, keepdims=int(layer.keepdims), dtype="int64")
    place = value.reshaped(-1).node(op_type, axis=0, keepdims=0, dtype="int64")
    return place.reshaped(*(1,) * rank) if layer.keepdims else place


@operation("Cumsum", "Nancumsum", "Cumprod", "Nancumprod")
def running(writer: Writer, layer: Any, x: Tensor) -> Operand:
    """Running sum or product along an axis, of all entries in a row if none is given."""
    name = type(layer).__name__
    value = term(writer, x)
    value = value.cast(str(layer.dtype)) if layer.dtype else value.cast("int32") if x.dtype == "bool" else value
    if name.startswith("Nan") and is_float(value.dtype):
        value = value.number(float("prod" in name)).where(value.node("IsNaN", dtype="bool"), value)
    axis = layer.axis
    value, axis = (value.reshaped(-1), 0) if axis is None else (value, axis % x.rank)
    op_type = "CumProd" if "prod" in name else "CumSum"
    return value.node(op_type, writer.constant(np.array(axis, np.int64))).name


@operation("Diff")
def diff(writer: Writer, layer: Any, a: Tensor) -> Operand:
    """Each entry less the one before it, so many times."""
    value, axis = term(writer, a), layer.axis % a.rank
    for _ in range(layer.n):
        value = value.sliced(axis, 1, None) - value.sliced(axis, 0, -1)
    return value.name


@operation("Trapezoid")
def trapezoid(writer: Writer, layer: Any, y: Tensor) -> Operand:
    """The area below lines between neighbouring entries."""
    value, axis = as_float(writer, y), layer.axis % y.rank
    means = (value.sliced(axis, 1, None) + value.sliced(axis, 0, -1)) * 0.5
    if layer.x is None:
        return (means * float(layer.dx)).reduced("ReduceSum", [axis]).name
    steps = np.diff(as_array(layer.x), axis=-1 if as_array(layer.x).ndim == 1 else axis)
    shape = [-1 if place == axis else 1 for place in range(y.rank)] if steps.ndim == 1 else steps.shape
    return (means * means.number(steps.reshape(shape))).reduced("ReduceSum", [axis]).name
