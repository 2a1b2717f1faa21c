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
from .shaping import interspersed


@primitive("dot_general")
def dot_general(
    lowering: Lowering, a: Value, b: Value, *, dimension_numbers: Any, preferred_element_type: Any = None, **_: Any
) -> Value:
    """Sum of products over pairs of axes, beside pairs of batch axes.

    What is a matrix product up to moves is written as one, as ONNX has it, known weights second; anything else as an
    einsum.
    """
    if preferred_element_type is not None:
        a, b = (lowering.cast(each, np.dtype(preferred_element_type)) for each in (a, b))
    (left, right), (batch_a, batch_b) = dimension_numbers
    (whole_a, ones), (whole_b, others) = lowering.unsqueezed(a), lowering.unsqueezed(b)
    if ones and (ones == others or (isinstance(b, np.ndarray) and 0 in ones)):
        return _of_one(lowering, whole_a, whole_b, ones, dimension_numbers)
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


def _of_one(lowering: Lowering, a: Value, b: Value, ones: Sequence[int], numbers: Any) -> Value:
    """A product behind axes of size 1 that were taken out of its operands, or of the first, as one that has them.

    `jnp.matmul` takes out the batch where it holds one example; the product of several has it as a batch axis, or as
    one that stays.
    """
    kept_a, kept_b = ([axis for axis in range(len(each.shape)) if axis not in ones] for each in (a, b))
    kept_b = [*range(len(b.shape))] if isinstance(b, np.ndarray) else kept_b
    (left, right), batch = numbers
    contracted = tuple(kept_a[axis] for axis in left), tuple(kept_b[axis] for axis in right)
    paired = [] if isinstance(b, np.ndarray) else [(one, one) for one in ones]
    pairs = sorted(paired + [(kept_a[i], kept_b[j]) for i, j in zip(*batch, strict=True)])
    along = tuple(zip(*pairs, strict=True)) or ((), ())
    whole: Any = dot_general(lowering, a, b, dimension_numbers=(contracted, along))
    front = [*along[0], *(axis for axis in range(len(a.shape)) if axis not in (*along[0], *contracted[0]))]
    gone = {place for place, axis in enumerate(front) if axis in ones}
    return lowering.reshape(whole, [size for place, size in enumerate(whole.shape) if place not in gone])


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
    """Convolution; batch and channels are brought in front, as ONNX has them.

    One of inputs with zeros between their entries is a transposed convolution.
    """
    if batch_group_count != 1:
        raise UnsupportedError("a convolution with groups in the batch")
    lhs, rhs, out = dimension_numbers
    x, K = lowering.transpose(x, lhs), lowering.transpose(K, rhs)
    borders = tuple(map(tuple, padding))
    settings: dict[str, Any] = {"dilation": tuple(rhs_dilation), "groups": feature_group_count}
    if any(step != 1 for step in lhs_dilation) and all(step == 1 for step in window_strides):
        settings |= {"strides": tuple(lhs_dilation), "padding": _transposed_borders(K, borders, rhs_dilation)}
        found = lowering.emit("conv_transpose", x, _transposed(lowering, K, feature_group_count), **settings)
    else:
        for axis, step in enumerate(lhs_dilation, 2):
            x = interspersed(lowering, x, np.zeros((), x.dtype), axis, step - 1)
        found = lowering.emit("conv", x, K, strides=tuple(window_strides), padding=borders, **settings)
    return lowering.transpose(found, [out.index(axis) for axis in range(len(out))])


def _transposed_borders(
    K: Value, borders: Sequence[Sequence[int]], dilation: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    """What a transposed convolution cuts off for borders around the interspersed input."""
    reach = [step * (size - 1) for step, size in zip(dilation, K.shape[2:], strict=True)]
    return tuple((far - low, far - high) for far, (low, high) in zip(reach, borders, strict=True))


def _transposed(lowering: Lowering, K: Value, groups: int) -> Value:
    """The kernel [inputs, outputs / groups, *] of a transposed convolution, from [outputs, inputs / groups, *]."""
    outputs, inputs, *window = K.shape
    spatial = tuple(range(2, len(K.shape)))
    turned = K[:, :, *(slice(None, None, -1) for _ in spatial)] if isinstance(K, np.ndarray) else None
    K = lowering.emit("reverse", K, axes=spatial) if turned is None else lowering.derived(K, turned)
    split = lowering.reshape(K, (groups, outputs // groups, inputs, *window))
    swapped = lowering.transpose(split, (0, 2, 1, *(axis + 1 for axis in spatial)))
    return lowering.reshape(swapped, (groups * inputs, outputs // groups, *window))
