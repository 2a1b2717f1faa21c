"""Primitives that reduce axes, and those that run along one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from backtrace_jax.errors import UnsupportedError
from backtrace_jax.passes.build import Value

from ...products import product_over, running
from ..lowering import Lowering
from .registry import primitive

_REDUCED = {"reduce_sum": "reduce_sum", "reduce_max": "reduce_max", "reduce_min": "reduce_min"}
_COMBINED = {"reduce_and": "reduce_min", "reduce_or": "reduce_max"}
_CHOSEN = {"argmax": "argmax", "argmin": "argmin"}


@primitive(*_REDUCED)
def reduced(lowering: Lowering, x: Value, *, axes: Sequence[int], **_: Any) -> Value:
    """Sum, largest or smallest entry over axes."""
    return lowering.emit(_REDUCED[lowering.primitive], x, axes=tuple(axes), keepdims=False) if axes else x


@primitive(*_COMBINED)
def combined(lowering: Lowering, x: Value, *, axes: Sequence[int], **_: Any) -> Value:
    """Whether all, or any, of the booleans over axes are true."""
    if x.dtype != np.bool_:
        raise UnsupportedError("the bits of integers combined over axes")
    numbers = lowering.cast(x, np.dtype(np.int32))
    found = lowering.emit(_COMBINED[lowering.primitive], numbers, axes=tuple(axes), keepdims=False) if axes else numbers
    return lowering.cast(found, np.dtype(np.bool_))


@primitive(*_CHOSEN)
def chosen(lowering: Lowering, x: Value, *, axes: Sequence[int], index_dtype: Any) -> Value:
    """Position of the largest or smallest entry along an axis, the first of equal ones."""
    (axis,) = axes
    found = lowering.emit(_CHOSEN[lowering.primitive], x, axis=axis, keepdims=False, last=False)
    return lowering.cast(found, np.dtype(index_dtype))


@primitive("cumsum")
def cumsum(lowering: Lowering, x: Value, *, axis: int, reverse: bool) -> Value:
    """Running sum along an axis."""
    return lowering.emit("cumsum", x, axis=axis, exclusive=False, reverse=reverse)


@primitive("reduce_prod")
def product(lowering: Lowering, x: Value, *, axes: Sequence[int], **_: Any) -> Value:
    """Product over axes."""
    return product_over(lowering, x, tuple(axes), keepdims=False)


_RUNNING = {"cumprod": "mul", "cummax": "maximum", "cummin": "minimum"}


@primitive(*_RUNNING)
def run_along(lowering: Lowering, x: Value, *, axis: int, reverse: bool) -> Value:
    """Running product, largest or smallest entry along an axis."""
    return running(lowering, _RUNNING[lowering.primitive], x, axis, reverse=reverse)
