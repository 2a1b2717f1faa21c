"""Products that contract axes: matrix products and convolutions."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

import numpy as np

from backtrace_jax.errors import UnsupportedError
from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from .registry import primitive


@primitive("dot_general")
def dot_general(
    lowering: Lowering, a: Value, b: Value, *, dimension_numbers: Any, preferred_element_type: Any = None, **_: Any
) -> Value:
    """Sum of products over pairs of axes, beside pairs of batch axes.

    What is a matrix product up to moves is written as one, as ONNX has it, known weights second; anything else as an
    einsum.
    """
    (left, right), (batch_a, batch_b) = dimension_numbers
    rank_a, rank_b = len(a.shape), len(b.shape)
    if isinstance(a, np.ndarray) and not isinstance(b, np.ndarray) and not batch_a:
        swapped: Any = dot_general(lowering, b, a, dimension_numbers=((right, left), ((), ())))
        free = rank_b - len(right)
        return lowering.transpose(swapped, (*range(free, len(swapped.shape)), *range(free)))
    if not batch_a and len(left) == 1 and left[0] == rank_a - 1 and rank_b == 2:
        return lowering.emit("matmul", a, b if right[0] == 0 else lowering.transpose(b, (1, 0)))
    letters = iter(string.ascii_letters)
    names_a = [next(letters) for _ in range(rank_a)]
    names_b = [next(letters) for _ in range(rank_b)]
    for one, other in (*zip(left, right, strict=True), *zip(batch_a, batch_b, strict=True)):
        names_b[other] = names_a[one]
    batch = [names_a[axis] for axis in batch_a]
    free_a = [names_a[axis] for axis in range(rank_a) if axis not in (*left, *batch_a)]
    free_b = [names_b[axis] for axis in range(rank_b) if axis not in (*right, *batch_b)]
    equation = f"{''.join(names_a)},{''.join(names_b)}->{''.join([*batch, *free_a, *free_b])}"
    return lowering.emit("einsum", a, b, equation=equation)


@primitive("conv_general_dilated")
def convolution(
    lowering: Lowering,
    x: Value,
    K: Value,
    *,
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int],
    rhs_dilation: Sequence[int],
    dimension_numbers: Any,
    feature_group_count: int,
    batch_group_count: int,
    **_: Any,
) -> Value:
    """Convolution; batch and channels are brought in front, as ONNX has them."""
    if batch_group_count != 1 or any(step != 1 for step in lhs_dilation):
        raise UnsupportedError("a convolution of dilated inputs, or with groups in the batch")
    lhs, rhs, out = dimension_numbers
    found = lowering.emit(
        "conv",
        lowering.transpose(x, lhs),
        lowering.transpose(K, rhs),
        strides=tuple(window_strides),
        padding=tuple(map(tuple, padding)),
        dilation=tuple(rhs_dilation),
        groups=feature_group_count,
    )
    return lowering.transpose(found, [out.index(axis) for axis in range(len(out))])
