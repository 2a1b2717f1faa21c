"""Primitives that put entries in order."""

from __future__ import annotations

import numpy as np

from backtrace_jax.errors import UnsupportedError
from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from .registry import primitive


@primitive("top_k")
def top_k(lowering: Lowering, x: Value, *, k: int, axis: int) -> tuple[Value, Value]:
    """The largest entries along an axis in descending order, and their positions; the first of equal ones first."""
    order = lowering.emit("order", x, axis=axis, descending=True)
    best = lowering.part(order, axis, 0, k)
    return lowering.emit("gather_elements", x, best, axis=axis), lowering.cast(
        best, np.dtype(lowering.outputs[1].dtype)
    )


@primitive("sort")
def sort(lowering: Lowering, *operands: Value, dimension: int, is_stable: bool, num_keys: int) -> list[Value]:
    """Arrays in the order of the first of them along an axis."""
    if num_keys != 1:
        raise UnsupportedError(f"sorting by {num_keys} keys; sort by one")
    order = lowering.emit("order", operands[0], axis=dimension, descending=False)
    return [lowering.emit("gather_elements", operand, order, axis=dimension) for operand in operands]
