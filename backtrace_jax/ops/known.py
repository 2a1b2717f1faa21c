"""Operations on known arrays: by NumPy where its result is XLA's bit for bit, else compiled for the host.

Shapes, positions and masks are worked out of known values for each shape of the inputs anew. XLA would compile each
step, some 10 ms and 300 kB of it, before a question has been looked at. NumPy gives the same bits where entries are
moved, where integers are computed (both wrap around), and where floats are rounded once, as IEEE 754 says. Not so of
NaN, and of floats below the normal range, which XLA takes for 0; those are left to XLA, as is all that is rounded more
than once or by an approximation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any, TypeAlias

import numpy as np

from .registry import evaluate_by_xla

Array: TypeAlias = np.ndarray

_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
_WHOLE = tuple(np.dtype(kind) for kind in "?bhilqBHILQ")  # NumPy's own: those of less than a byte are none of them


def evaluate(op: str, operands: Sequence[Array], params: Mapping[str, Any]) -> Any:
    """Compute an operation on known arrays, with every dtype kept as it is."""
    found = evaluate_by_numpy(op, operands, params)
    return evaluate_by_xla(op, operands, params) if found is None else found


def evaluate_by_numpy(op: str, operands: Sequence[Array], params: Mapping[str, Any]) -> Array | None:
    """The same without XLA, an array that nobody may write to; None where the bits could differ."""
    function = _function(op, operands)
    if function is None:
        return None
    with np.errstate(all="ignore"):
        found = function(*operands, **params)
    return None if found is None else _settled(np.asarray(found), function is _ROUNDED.get(op))


def _function(op: str, operands: Sequence[Array]) -> Callable[..., Any] | None:
    if op in _MOVED:
        return _MOVED[op]
    types = {operand.dtype for operand in operands}
    if types <= {*_WHOLE}:
        return _COUNTED.get(op) if len(types) == 1 else None
    return _ROUNDED.get(op) if all(map(_plain, operands)) else None


def _settled(found: Array, rounded: bool) -> Array | None:
    """An array of its own, in row-major order."""
    if rounded and not _plain(found):
        return None
    array = np.array(found, order="C", copy=None).view()
    array.flags.writeable = False
    return array


def _plain(array: Array) -> bool:
    """Whether NumPy and XLA read it alike: no NaN, and nothing but 0 below the normal range."""
    if array.dtype in _WHOLE:
        return True
    if array.dtype not in _FLOATS:
        return False
    size = np.abs(array)
    return not (np.isnan(size) | ((size > 0) & (size < np.finfo(array.dtype).smallest_normal))).any()


def _alike(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, where all its operands are of one type."""
    return lambda *arrays, **params: function(*arrays, **params) if len({a.dtype for a in arrays}) == 1 else None


def _slice(x: Array, *, start: Sequence[int], limit: Sequence[int], stride: Sequence[int]) -> Any:
    return x[tuple(map(slice, start, limit, stride))].copy()  # a view would hold on to all of x


def _pad(x: Array, fill: Array, *, low: Sequence[int], high: Sequence[int]) -> Any:
    sizes = [size + before + after for size, before, after in zip(x.shape, low, high, strict=True)]
    if any(size + min(before, 0) + min(after, 0) < 0 for size, before, after in zip(x.shape, low, high, strict=True)):
        return None
    padded = np.full(sizes, fill, x.dtype)
    inside = (slice(max(before, 0), size - max(after, 0)) for before, after, size in zip(low, high, sizes, strict=True))
    kept = (slice(max(-before, 0), n - max(-after, 0)) for before, after, n in zip(low, high, x.shape, strict=True))
    padded[tuple(inside)] = x[tuple(kept)]
    return padded


def _within(indices: Array, size: int) -> bool:
    return bool(((indices >= -size) & (indices < size)).all())


def _gather(x: Array, indices: Array, *, axis: int) -> Any:
    return np.take(x, indices, axis) if _within(indices, x.shape[axis]) else None


def _gather_elements(x: Array, indices: Array, *, axis: int) -> Any:
    others = [sizes[:axis] + sizes[axis + 1 :] for sizes in (x.shape, indices.shape)]
    same = others[0] == others[1] and _within(indices, x.shape[axis])
    return np.take_along_axis(x, indices, axis) if same else None


def _gather_nd(x: Array, indices: Array, *, batch_dims: int) -> Any:
    columns = [indices[..., k] for k in range(indices.shape[-1])]
    plain = columns and not batch_dims and all(map(_within, columns, x.shape))
    return x[tuple(columns)] if plain else None


def _where(condition: Array, a: Array, b: Array) -> Any:
    return np.where(condition, a, b) if condition.dtype == bool and a.dtype == b.dtype else None


_MOVED: dict[str, Callable[..., Any]] = {
    "reshape": lambda x, *, shape: x.reshape(shape),
    **dict.fromkeys(("transpose", "turn"), lambda x, *, perm: x.transpose(perm)),
    "expand": lambda x, *, shape: np.broadcast_to(x, shape),
    "slice": _slice,
    "reverse": lambda x, *, axes: np.flip(x, tuple(axes)),
    "concat": _alike(lambda *arrays, axis: np.concatenate(arrays, axis)),
    "pad": _alike(_pad),
    "gather": _gather,
    "gather_elements": _gather_elements,
    "gather_nd": _gather_nd,
    "where": _where,
}
"""Operations that move entries, of any type."""


def _divided(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of a dividend and a divisor, where integers have a quotient."""

    def apply(a: Array, b: Array, **params: Any) -> Any:
        beyond = a.dtype.kind == "i" and (b == -1).any() and (a == np.iinfo(a.dtype).min).any()
        return None if a.dtype == bool or (b == 0).any() or beyond else function(a, b, **params)

    return apply


def _remainder(a: Array, b: Array, *, truncate: bool) -> Any:
    return np.fmod(a, b) if truncate else np.mod(a, b)


def _quotient(a: Array, b: Array) -> Any:
    """Towards zero: the remainder of that division has the sign of a."""
    return (a - np.fmod(a, b)) // b


def _shifted(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, where no bit is moved by more than there are."""
    return lambda a, b: function(a, b) if ((b >= 0) & (b < 8 * a.dtype.itemsize)).all() else None


def _clip(x: Array, *, low: int | float | None, high: int | float | None) -> Any:
    if any(isinstance(end, float) for end in (low, high)) or x.dtype == bool:
        return None
    raised = x if low is None else np.maximum(x, np.asarray(low, x.dtype))
    return raised if high is None else np.minimum(raised, np.asarray(high, x.dtype))


def _of_numbers(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, of integers but not of booleans."""
    return lambda *arrays, **params: None if arrays[0].dtype == bool else function(*arrays, **params)


def _cumsum(x: Array, *, axis: int, exclusive: bool, reverse: bool) -> Any:
    turned = np.flip(x, axis) if reverse else x
    sums = np.cumsum(turned, axis, dtype=x.dtype)
    sums = sums - turned if exclusive else sums
    return np.flip(sums, axis) if reverse else sums


def _position(function: Callable[..., Any]) -> Callable[..., Any]:
    def apply(x: Array, *, axis: int, keepdims: bool, last: bool) -> Any:
        found = function(np.flip(x, axis) if last else x, axis=axis, keepdims=keepdims)
        return np.asarray(x.shape[axis] - 1 - found if last else found, np.int64)

    return apply


def _order(x: Array, *, axis: int, descending: bool) -> Any:
    return np.argsort(~x if descending else x, axis=axis, stable=True)  # inverted bits are in the opposite order


def _cast(x: Array, *, dtype: str, rounded: str | None = None, **_: Any) -> Any:
    """Numbers in another type of NumPy's, floats as integers where they fit."""
    try:
        target = np.dtype(dtype)
    except TypeError:  # one of those that NumPy has not
        return None
    if rounded is not None or target not in (*_FLOATS, *_WHOLE):
        return None
    if x.dtype in _FLOATS and target.kind in "iu" and not _fits(x, target):
        return None
    return x != 0 if target.kind == "b" else x.astype(target)


def _fits(x: Array, target: np.dtype) -> bool:
    """Whether floats are in the range of an integer type, whose ends are powers of two or one off."""
    low, high = float(np.iinfo(target).min), float(np.iinfo(target).max)
    return bool(((x >= low) & (x < high)).all())


def _dequantize(x: Array, scale: Array, zero_point: Array, *, dtype: str) -> Any:
    wide = scale.dtype
    return (x.astype(wide) - zero_point.astype(wide)) * scale if wide == dtype else None


_COMPARED = {
    "equal": np.equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
}

_COUNTED: dict[str, Callable[..., Any]] = {
    **_COMPARED,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_xor": np.logical_xor,
    "logical_not": np.logical_not,
    "bitwise_and": np.bitwise_and,
    "bitwise_or": np.bitwise_or,
    "bitwise_xor": np.bitwise_xor,
    "bitwise_not": np.bitwise_not,
    "shift_left": _shifted(np.left_shift),
    "shift_right": _shifted(np.right_shift),
    "add": _of_numbers(lambda *arrays: reduce(np.add, arrays)),
    "sub": _of_numbers(np.subtract),
    "mul": _of_numbers(lambda *arrays: np.multiply(*arrays) if len(arrays) == 2 else None),
    "div": _divided(_quotient),
    **dict.fromkeys(("mod", "remainder"), _divided(_remainder)),
    "neg": _of_numbers(np.negative),
    "abs": _of_numbers(np.abs),
    "sign": _of_numbers(np.sign),
    "clip": _clip,
    "maximum": lambda *arrays: reduce(np.maximum, arrays),
    "minimum": lambda *arrays: reduce(np.minimum, arrays),
    "reduce_sum": _of_numbers(lambda x, *, axes, keepdims: np.sum(x, tuple(axes), x.dtype, keepdims=keepdims)),
    "reduce_max": lambda x, *, axes, keepdims: np.max(x, tuple(axes), keepdims=keepdims),
    "reduce_min": lambda x, *, axes, keepdims: np.min(x, tuple(axes), keepdims=keepdims),
    "cumsum": _of_numbers(_cumsum),
    "argmax": _position(np.argmax),
    "argmin": _position(np.argmin),
    "order": _order,
    "cast": _cast,
}
"""Operations on integers and booleans of one type."""

_ROUNDED: dict[str, Callable[..., Any]] = {
    **{name: _alike(function) for name, function in _COMPARED.items()},
    "add": _alike(lambda *arrays: np.add(*arrays) if len(arrays) == 2 else None),
    "sub": _alike(np.subtract),
    "mul": _alike(lambda *arrays: np.multiply(*arrays) if len(arrays) == 2 else None),
    "sqrt": np.sqrt,
    "div": _alike(lambda a, b: np.divide(a, b) if a.shape == b.shape else None),  # XLA multiplies by what many share
    "dequantize": _dequantize,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.round,
    "cast": _cast,
}
"""Operations on floats that are rounded once, or by a sum and then a product, which XLA does not round as one."""
