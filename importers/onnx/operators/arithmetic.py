"""Element-by-element operators: arithmetic, comparisons, logic."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from backtrace_jax.errors import ModelError
from backtrace_jax.ir import Var
from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from .axes import from_front
from .registry import operator

_UNARY = {
    "Abs": "abs",
    "Acos": "acos",
    "Acosh": "acosh",
    "Asin": "asin",
    "Asinh": "asinh",
    "Atan": "atan",
    "Atanh": "atanh",
    "BitwiseNot": "bitwise_not",
    "Ceil": "ceil",
    "Cos": "cos",
    "Cosh": "cosh",
    "Erf": "erf",
    "Exp": "exp",
    "Floor": "floor",
    "HardSwish": "hard_swish",
    "IsNaN": "is_nan",
    "Log": "log",
    "Mish": "mish",
    "Neg": "neg",
    "Not": "logical_not",
    "Reciprocal": "reciprocal",
    "Relu": "relu",
    "Round": "round",
    "Sigmoid": "sigmoid",
    "Sign": "sign",
    "Sin": "sin",
    "Sinh": "sinh",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Sqrt": "sqrt",
    "Tan": "tan",
    "Tanh": "tanh",
}
_BINARY = {
    "Add": "add",
    "And": "logical_and",
    "BitwiseAnd": "bitwise_and",
    "BitwiseOr": "bitwise_or",
    "BitwiseXor": "bitwise_xor",
    "Equal": "equal",
    "Greater": "greater",
    "GreaterOrEqual": "greater_equal",
    "Less": "less",
    "LessOrEqual": "less_equal",
    "Mul": "mul",
    "Or": "logical_or",
    "Sub": "sub",
    "Xor": "logical_xor",
}
_LARGEST_INTEGER_POWER = 16  # beyond it, repeated products are no faster than a general power


def _emit_binary(op: str) -> Callable[[Lowering, Value, Value], Value]:
    return lambda lowering, A, B: lowering.emit(op, A, B)


def _quotient(lowering: Lowering, A: Value, B: Value) -> Value:
    """A divided by B; integers are cut towards zero."""
    _check_divisor(B)
    return lowering.emit("div", A, B)


def _check_divisor(divisor: Value) -> None:
    """Refuse integers divided by a known zero, for which there is no answer."""
    if isinstance(divisor, np.ndarray) and divisor.dtype.kind in "iu" and not divisor.all():
        raise ModelError("integers are divided by a constant that is 0")


def _power(lowering: Lowering, X: Value, exponent: Value) -> Value:
    """X to a power; a known small whole exponent is a setting of the operation, so that it is computed by products."""
    whole_base = np.issubdtype(X.dtype, np.integer)
    if isinstance(exponent, np.ndarray) and exponent.size == 1:
        number = float(exponent.item())
        least = 0 if whole_base else -_LARGEST_INTEGER_POWER
        if number.is_integer() and least <= number <= _LARGEST_INTEGER_POWER and X.dtype != np.bool_:
            shape = np.broadcast_shapes(X.shape, exponent.shape)
            return lowering.emit("integer_pow", lowering.reshape(X, shape), exponent=int(number))
    plain = lowering.emit("pow", X, lowering.cast(exponent, X.dtype))
    return _cut_power(lowering, X, exponent, plain) if whole_base else plain


def _cut_power(lowering: Lowering, X: Value, exponent: Value, whole: Value) -> Value:
    """Powers of integers: those by fractions, and those by negative numbers, are real and cut to integers."""
    double = np.dtype(np.float64)
    real = lowering.emit("pow", lowering.cast(X, double), lowering.cast(exponent, double))
    cut = lowering.cast(real, np.dtype(X.dtype))
    if not np.issubdtype(exponent.dtype, np.integer):
        return cut
    return lowering.emit("where", lowering.emit("less", exponent, np.zeros((), exponent.dtype)), cut, whole)


def _register_unary(name: str, op: str) -> None:
    @operator(name)
    def unary(lowering: Lowering, X: Value, *, consumed_inputs: Any = None) -> Value:
        return lowering.emit(op, X)


def _register_binary(name: str, compute: Callable[[Lowering, Value, Value], Value]) -> None:
    @operator(name, since=7)
    def binary(lowering: Lowering, A: Value, B: Value) -> Value:
        return compute(lowering, A, B)

    @operator(name, since=1)
    def aligned(
        lowering: Lowering,
        A: Value,
        B: Value,
        *,
        axis: int | None = None,
        broadcast: int = 0,
        consumed_inputs: Any = None,
    ) -> Value:
        """Before opset 7 the second operand is aligned with the first at `axis` (default: the last axes)."""
        if broadcast and axis is not None:
            trailing = len(A.shape) - from_front(axis, len(A.shape)) - len(B.shape)
            B = lowering.reshape(B, B.shape + (1,) * trailing)
        return compute(lowering, A, B)


for _name, _op in _UNARY.items():
    _register_unary(_name, _op)
for _name, _op in _BINARY.items():
    _register_binary(_name, _emit_binary(_op))
_register_binary("Div", _quotient)
_register_binary("Pow", _power)


def _register_fold(name: str, op: str) -> None:
    @operator(name)
    def fold(lowering: Lowering, *data: Value, consumed_inputs: Any = None) -> Value:
        return lowering.fold(op, data)


for _name, _op in {"Sum": "add", "Max": "maximum", "Min": "minimum"}.items():
    _register_fold(_name, _op)


@operator("Mean")
def mean(lowering: Lowering, *data: Value, consumed_inputs: Any = None) -> Value:
    """Mean of the operands, entry by entry."""
    return data[0] if len(data) == 1 else lowering.scale(lowering.fold("add", data), 1 / len(data))


@operator("Mod")
def mod(lowering: Lowering, A: Value, B: Value, *, fmod: int = 0) -> Value:
    """Remainder, with the sign of the divisor or (`fmod`) of the dividend."""
    _check_divisor(B)
    whole = np.issubdtype(A.dtype, np.integer)
    return lowering.emit("mod" if whole else "remainder", A, B, truncate=bool(fmod))


@operator("IsInf")
def is_infinite(lowering: Lowering, X: Value, *, detect_negative: int = 1, detect_positive: int = 1) -> Value:
    """Whether entries are infinite, of either sign or of one."""
    if detect_negative and detect_positive:
        return lowering.emit("is_inf", X)
    if not detect_negative and not detect_positive:
        return np.zeros(X.shape, np.bool_)
    infinity = np.asarray(math.inf if detect_positive else -math.inf).astype(X.dtype)
    return lowering.emit("equal", X, infinity)


@operator("Clip", since=11)
def clip(lowering: Lowering, input: Value, min: Value | None = None, max: Value | None = None) -> Value:
    """Entries kept between two bounds; a bound that is computed competes with them."""
    if not isinstance(min, Var) and not isinstance(max, Var):
        low, high = (None if bound is None else bound.item() for bound in (min, max))
        return input if low is None and high is None else lowering.emit("clip", input, low=low, high=high)
    for bound, op in ((min, "maximum"), (max, "minimum")):
        if bound is not None:
            input = lowering.emit(op, input, lowering.reshape(bound, ()))
    return input


@operator("Clip", since=1)
def clip_1(
    lowering: Lowering,
    input: Value,
    *,
    consumed_inputs: Sequence[int] | None = None,
    max: float | None = None,
    min: float | None = None,
) -> Value:
    """Before opset 11 the bounds are attributes."""
    return input if min is None and max is None else lowering.emit("clip", input, low=min, high=max)


@operator("BitShift", since=11)
def bit_shift(lowering: Lowering, X: Value, Y: Value, *, direction: str) -> Value:
    """Bits of X moved up ("LEFT") or down ("RIGHT") by Y places."""
    return lowering.emit({"LEFT": "shift_left", "RIGHT": "shift_right"}[direction], X, Y)
