"""Products running along an axis."""

from __future__ import annotations

import numpy as np

from backtrace_jax.passes.build import Value

from ...products import running
from ..lowering import Lowering
from .axes import from_front
from .registry import operator


@operator("CumProd", since=26)
def cumulative_product(lowering: Lowering, x: Value, axis: Value, *, exclusive: int = 0, reverse: int = 0) -> Value:
    """Running product along an axis."""
    (along,) = lowering.integers(axis, "the axis to multiply along")
    along, rank = from_front(along, len(x.shape)), len(x.shape)
    if not exclusive:
        return running(lowering, "mul", x, along, reverse=bool(reverse))
    turned = lowering.emit("reverse", x, axes=(along,)) if reverse else x
    low = tuple(int(k == along) for k in range(rank))
    product = running(lowering, "mul", turned, along)
    shifted = lowering.emit("pad", product, np.ones((), x.dtype), low=low, high=tuple(-n for n in low))
    return lowering.emit("reverse", shifted, axes=(along,)) if reverse else shifted
