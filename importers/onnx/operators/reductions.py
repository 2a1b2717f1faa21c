"""Reductions over axes, positions of extremes, running sums and sorting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from backtrace_jax.passes.build import Value

from ...products import product_over
from ..lowering import Lowering
from .axes import from_front
from .registry import operator

Axes: TypeAlias = tuple[int, ...]
Reduction: TypeAlias = Callable[[Lowering, Value, Axes, bool], Value]


def _plain(op: str) -> Reduction:
    def reduce(lowering: Lowering, data: Value, axes: Axes, keepdims: bool) -> Value:
        return lowering.emit(op, data, axes=axes, keepdims=keepdims) if axes else data

    return reduce


_sum = _plain("reduce_sum")


def _extreme(op: str) -> Reduction:
    """The largest or smallest entry; of none at all, the number that every other one beats."""

    def reduce(lowering: Lowering, data: Value, axes: Axes, keepdims: bool) -> Value:
        if all(data.shape[axis] for axis in axes):
            return _plain(op)(lowering, data, axes, keepdims)
        return np.full(_reduced(data.shape, axes, keepdims), _worst(op, np.dtype(data.dtype)), data.dtype)

    return reduce


def _worst(op: str, dtype: np.dtype) -> int | float:
    """What loses against every number of a type."""
    largest = op == "reduce_max"
    if dtype == np.bool_:
        return not largest
    if np.issubdtype(dtype, np.integer):
        return int(np.iinfo(dtype).min if largest else np.iinfo(dtype).max)
    return -np.inf if largest else np.inf


def _reduced(shape: Sequence[int], axes: Axes, keepdims: bool) -> Axes:
    """The shape with these axes of size 1, or without them."""
    if not keepdims:
        return _without(shape, axes)
    return tuple(1 if axis in axes else size for axis, size in enumerate(shape))


def _l1(lowering: Lowering, data: Value, axes: Axes, keepdims: bool) -> Value:
    return _sum(lowering, lowering.emit("abs", data), axes, keepdims)


def _sum_square(lowering: Lowering, data: Value, axes: Axes, keepdims: bool) -> Value:
    return _sum(lowering, lowering.emit("mul", data, data), axes, keepdims)


def _l2(lowering: Lowering, data: Value, axes: Axes, keepdims: bool) -> Value:
    total = _sum_square(lowering, data, axes, keepdims)
    if np.issubdtype(data.dtype, np.integer):
        root = lowering.emit("sqrt", lowering.cast(total, np.dtype(np.float64)))
        return lowering.cast(root, data.dtype)
    return lowering.emit("sqrt", total)


def _log_sum(lowering: Lowering, data: Value, axes: Axes, keepdims: bool) -> Value:
    return lowering.emit("log", _sum(lowering, data, axes, keepdims))


def _log_sum_exp(lowering: Lowering, data: Value, axes: Axes, keepdims: bool) -> Value:
    if not axes:
        return data
    if not all(data.shape[axis] for axis in axes):  # nothing adds up to 0
        return np.full(_reduced(data.shape, axes, keepdims), -np.inf, data.dtype)
    real = lowering.cast(data, np.dtype(np.float64)) if np.issubdtype(data.dtype, np.integer) else data
    return lowering.cast(lowering.emit("log_sum_exp", real, axes=axes, keepdims=keepdims), data.dtype)


def _without(shape: Sequence[int], axes: Axes) -> Axes:
    return tuple(size for axis, size in enumerate(shape) if axis not in axes)


_REDUCTIONS: dict[str, tuple[Reduction, int]] = {  # the reduction, and the opset since which its axes are an operand
    "ReduceL1": (_l1, 18),
    "ReduceL2": (_l2, 18),
    "ReduceLogSum": (_log_sum, 18),
    "ReduceLogSumExp": (_log_sum_exp, 18),
    "ReduceMax": (_extreme("reduce_max"), 18),
    "ReduceMean": (_plain("reduce_mean"), 18),
    "ReduceMin": (_extreme("reduce_min"), 18),
    "ReduceProd": (product_over, 18),
    "ReduceSum": (_sum, 13),
    "ReduceSumSquare": (_sum_square, 18),
}


def _register(name: str, reduction: Reduction, axes_operand_since: int) -> None:
    @operator(name, since=axes_operand_since)
    def over_operand(
        lowering: Lowering,
        data: Value,
        axes: Value | None = None,
        *,
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> Value:
        chosen = () if axes is None else lowering.integers(axes, "the axes to reduce")
        if not chosen and noop_with_empty_axes:
            return reduction(lowering, data, (), bool(keepdims))
        return reduction(lowering, data, _all_or(data, chosen), bool(keepdims))

    @operator(name, since=1)
    def over_attribute(
        lowering: Lowering, data: Value, *, axes: Sequence[int] | None = None, keepdims: int = 1
    ) -> Value:
        return reduction(lowering, data, _all_or(data, axes or ()), bool(keepdims))


def _all_or(data: Value, axes: Sequence[int]) -> Axes:
    """Axes counted from the start and in order; all of them if none is given."""
    rank = len(data.shape)
    return tuple(sorted({from_front(axis, rank) for axis in axes})) if axes else tuple(range(rank))


for _name, (_reduction, _since) in _REDUCTIONS.items():
    _register(_name, _reduction, _since)


def _register_position(name: str, op: str) -> None:
    @operator(name)
    def position(
        lowering: Lowering, data: Value, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0
    ) -> Value:
        """Position of the extreme along an axis: the first of equals, or the last."""
        axis = from_front(axis, len(data.shape))
        return lowering.emit(op, data, axis=axis, keepdims=bool(keepdims), last=bool(select_last_index))


_register_position("ArgMax", "argmax")
_register_position("ArgMin", "argmin")


@operator("CumSum")
def cumulative_sum(
    lowering: Lowering,
    x: Value,
    axis: Value,
    *,
    exclusive: int = 0,
    reverse: int = 0,
) -> Value:
    """Running sum along an axis."""
    (along,) = lowering.integers(axis, "the axis to sum along")
    along = from_front(along, len(x.shape))
    return lowering.emit("cumsum", x, axis=along, exclusive=bool(exclusive), reverse=bool(reverse))


@operator("TopK", since=10)
def top_k(
    lowering: Lowering,
    X: Value,
    K: Value,
    *,
    axis: int = -1,
    largest: int = 1,
    sorted: int = 1,
) -> tuple[Value, Value]:
    """The extreme entries along an axis and their positions; of equals the earlier comes first."""
    (count,) = lowering.integers(K, "the number of entries to keep")
    axis = from_front(axis, len(X.shape))
    order = lowering.emit("order", X, axis=axis, descending=bool(largest))
    limit = tuple(count if position == axis else size for position, size in enumerate(X.shape))
    rank = len(limit)
    indices = lowering.emit("slice", order, start=(0,) * rank, limit=limit, stride=(1,) * rank)
    return lowering.emit("gather_elements", X, indices, axis=axis), indices


@operator("TopK", since=1)
def top_k_1(lowering: Lowering, X: Value, *, axis: int = -1, k: int) -> tuple[Value, Value]:
    """Before opset 10 the number of entries is an attribute."""
    return top_k(lowering, X, np.asarray([k]), axis=axis)
