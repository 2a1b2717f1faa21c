"""Operations of keras.ops that work entry by entry, where ONNX has no operator of its own: their formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .registry import OPERATIONS, operation
from .tensor import Operand, Tensor
from .terms import Term, as_float, common, is_float, term
from .writer import Writer

Formula = Callable[[Term], Term]


def _sinc(x: Term) -> Term:
    turned = x * math.pi
    zero = x.equals(0)
    return (turned.node("Sin") / turned.number(1).where(zero, turned)).where(~zero, 1)


def _trunc(x: Term) -> Term:
    return x.node("Sign") * abs(x).node("Floor")


def _finite(x: Term) -> Term:
    return ~(x.node("IsNaN", dtype="bool") | x.node("IsInf", dtype="bool"))


def _angle(x: Term) -> Term:
    return x.number(math.pi).where(x < 0, 0)


_REAL: dict[str, Formula] = {  # of real numbers; integers become real
    "Angle": _angle,
    "Arccos": lambda x: x.node("Acos"),
    "Arccosh": lambda x: x.node("Acosh"),
    "Arcsin": lambda x: x.node("Asin"),
    "Arcsinh": lambda x: x.node("Asinh"),
    "Arctan": lambda x: x.node("Atan"),
    "Arctanh": lambda x: x.node("Atanh"),
    "Cbrt": lambda x: x.node("Sign") * abs(x).node("Pow", 1 / 3),
    "Ceil": lambda x: x.node("Ceil"),
    "Cos": lambda x: x.node("Cos"),
    "Cosh": lambda x: x.node("Cosh"),
    "Deg2rad": lambda x: x * (math.pi / 180),
    "Erf": lambda x: x.node("Erf"),
    "Erfc": lambda x: 1 - x.node("Erf"),
    "Exp": lambda x: x.node("Exp"),
    "Exp2": lambda x: (x * math.log(2)).node("Exp"),
    "Expm1": lambda x: x.node("Exp") - 1,
    "Fabs": abs,
    "Floor": lambda x: x.node("Floor"),
    "Isfinite": _finite,
    "Isinf": lambda x: x.node("IsInf", dtype="bool"),
    "Isnan": lambda x: x.node("IsNaN", dtype="bool"),
    "Isneginf": lambda x: x.node("IsInf", dtype="bool", detect_positive=0),
    "Isposinf": lambda x: x.node("IsInf", dtype="bool", detect_negative=0),
    "Log": lambda x: x.node("Log"),
    "Log10": lambda x: x.node("Log") * (1 / math.log(10)),
    "Log1p": lambda x: (x + 1).node("Log"),
    "Log2": lambda x: x.node("Log") * (1 / math.log(2)),
    "Rad2deg": lambda x: x * (180 / math.pi),
    "Reciprocal": lambda x: x.node("Reciprocal"),
    "Signbit": lambda x: (x < 0) | (x.equals(0) & (x.node("Reciprocal") < 0)),
    "Sin": lambda x: x.node("Sin"),
    "Sinc": _sinc,
    "Sinh": lambda x: x.node("Sinh"),
    "Sqrt": lambda x: x.node("Sqrt"),
    "Tan": lambda x: x.node("Tan"),
    "Trunc": _trunc,
}
_ANY: dict[str, Formula] = {  # of numbers of any type
    "Abs": abs,
    "Absolute": abs,
    "Array": lambda x: x,
    "BitwiseInvert": lambda x: ~x if x.dtype == "bool" else x.node("BitwiseNot"),
    "Conj": lambda x: x,
    "Conjugate": lambda x: x,
    "Copy": lambda x: x,
    "Imag": lambda x: x.number(0).expanded(x),
    "Isreal": lambda x: Term(x.writer, x.writer.constant(True), "bool").expanded(x),
    "LogicalNot": lambda x: ~x.cast("bool"),
    "Negative": lambda x: -x,
    "Real": lambda x: x,
    "Sign": lambda x: x.node("Sign"),
    "StopGradient": lambda x: x,
}
_ANY["BitwiseNot"] = _ANY["BitwiseInvert"]


def _fmod(x: Term, y: Term) -> Term:
    return x - y * _trunc(x / y) if is_float(x.dtype) else x.node("Mod", y, fmod=1)


def _mod(x: Term, y: Term) -> Term:
    return x - y * (x / y).node("Floor") if is_float(x.dtype) else x.node("Mod", y)


def _floor_divide(x: Term, y: Term) -> Term:
    if is_float(x.dtype):
        return (x / y).node("Floor")
    return (x - x.node("Mod", y)) / y


def _arctan2(y: Term, x: Term) -> Term:
    """By quadrants; on the axis through 0 it is half a turn or none."""
    upright = x.equals(0)
    plain = (y / x.number(1).where(upright, x)).node("Atan")
    behind = y.number(math.pi).where(y >= 0, -math.pi).where(x < 0, 0)
    return (y.node("Sign") * (math.pi / 2)).where(upright, plain + behind)


def _logaddexp(x: Term, y: Term) -> Term:
    like = x + y
    both = [each.expanded(like).unsqueezed(0) for each in (x, y)]
    return both[0].node("Concat", both[1], axis=0).reduced("ReduceLogSumExp", [0])


def _logaddexp2(x: Term, y: Term) -> Term:
    return _logaddexp(x * math.log(2), y * math.log(2)) * (1 / math.log(2))


def _divide_no_nan(x: Term, y: Term) -> Term:
    zero = y.equals(0)
    return (x / y.number(1).where(zero, y)).where(~zero, 0)


def _heaviside(x: Term, at_zero: Term) -> Term:
    return at_zero.where(x.equals(0), x.node("Sign").node("Relu"))


def _passing_nan(op_type: str) -> Callable[[Term, Term], Term]:
    """The larger or smaller of two, or the one that is a number."""

    def write(x: Term, y: Term) -> Term:
        lost = [each.node("IsNaN", dtype="bool") for each in (x, y)]
        return y.where(lost[0], x.where(lost[1], x.node(op_type, y)))

    return write


_REAL_PAIRS: dict[str, Callable[[Term, Term], Term]] = {
    "Arctan2": _arctan2,
    "DivideNoNan": _divide_no_nan,
    "Divide": lambda x, y: x / y,
    "Heaviside": _heaviside,
    "Hypot": lambda x, y: (x * x + y * y).node("Sqrt"),
    "Logaddexp": _logaddexp,
    "Logaddexp2": _logaddexp2,
    "TrueDivide": lambda x, y: x / y,
    "Fmax": _passing_nan("Max"),
    "Fmin": _passing_nan("Min"),
}
_PAIRS: dict[str, Callable[[Term, Term], Term]] = {
    "Add": lambda x, y: x + y,
    "BitwiseAnd": lambda x, y: x.node("BitwiseAnd", y),
    "BitwiseOr": lambda x, y: x.node("BitwiseOr", y),
    "BitwiseXor": lambda x, y: x.node("BitwiseXor", y),
    "Equal": lambda x, y: x.equals(y),
    "FloorDivide": _floor_divide,
    "Fmod": _fmod,
    "Greater": lambda x, y: x > y,
    "GreaterEqual": lambda x, y: x >= y,
    "Less": lambda x, y: x < y,
    "LessEqual": lambda x, y: x <= y,
    "Matmul": lambda x, y: x.node("MatMul", y),
    "Maximum": lambda x, y: x.node("Max", y),
    "Minimum": lambda x, y: x.node("Min", y),
    "Mod": _mod,
    "Multiply": lambda x, y: x * y,
    "NotEqual": lambda x, y: ~x.equals(y),
    "Power": lambda x, y: x.node("Pow", y),
    "Subtract": lambda x, y: x - y,
}
_LOGICAL = {"LogicalAnd": "And", "LogicalOr": "Or", "LogicalXor": "Xor"}


def _one(formula: Formula, real: bool) -> Callable[..., Operand]:
    def write(writer: Writer, layer: Any, x: Any) -> Operand:
        return formula(as_float(writer, x) if real else term(writer, x)).name

    return write


def _two(formula: Callable[[Term, Term], Term], real: bool) -> Callable[..., Operand]:
    def write(writer: Writer, layer: Any, x1: Any, x2: Any) -> Operand:
        return formula(*common(writer, x1, x2, real=real)).name

    return write


def _logical(op_type: str) -> Callable[..., Operand]:
    def write(writer: Writer, layer: Any, x1: Any, x2: Any) -> Operand:
        return term(writer, x1, "bool").node(op_type, term(writer, x2, "bool")).name

    return write


OPERATIONS.update({name: _one(formula, real=True) for name, formula in _REAL.items()})
OPERATIONS.update({name: _one(formula, real=False) for name, formula in _ANY.items()})
OPERATIONS.update({name: _two(formula, real=True) for name, formula in _REAL_PAIRS.items()})
OPERATIONS.update({name: _two(formula, real=False) for name, formula in _PAIRS.items()})
OPERATIONS.update({name: _logical(op_type) for name, op_type in _LOGICAL.items()})


@operation("ConvertToTensor", "SaturateCast")
def converted(writer: Writer, layer: Any, x: Any) -> Operand:
    """Another type; what it cannot hold becomes its largest or smallest number."""
    value = term(writer, x)
    dtype = str(layer.dtype or value.dtype)
    if type(layer).__name__ == "SaturateCast" and is_float(value.dtype) and not is_float(dtype):
        info = np.iinfo(dtype)
        largest = info.max if info.bits < 24 else np.nextafter(np.float32(info.max), np.float32(0))  # as a float
        value = value.node("Clip", float(info.min), float(largest))
    return value.cast(dtype).name


@operation("NanToNum")
def nan_to_num(writer: Writer, layer: Any, x: Tensor) -> Operand:
    """Numbers in place of NaN and of both infinities."""
    value, limits = term(writer, x), np.finfo(x.dtype)
    high = float(limits.max) if layer.posinf is None else float(layer.posinf)
    low = float(limits.min) if layer.neginf is None else float(layer.neginf)
    known = value.number(layer.nan).where(value.node("IsNaN", dtype="bool"), value)
    known = value.number(high).where(value.node("IsInf", dtype="bool", detect_negative=0), known)
    return value.number(low).where(value.node("IsInf", dtype="bool", detect_positive=0), known).name


@operation("Round")
def rounded(writer: Writer, layer: Any, x: Tensor) -> Operand:
    """To so many decimals, halves to even."""
    value, factor = term(writer, x), 10.0**layer.decimals
    if not is_float(x.dtype):
        return value.name
    return (value.node("Round") if factor == 1 else (value * factor).node("Round") / factor).name


@operation("Ldexp")
def ldexp(writer: Writer, layer: Any, x1: Any, x2: Any) -> Operand:
    """A value times two to a power."""
    value = as_float(writer, x1)
    return (value * value.number(2).node("Pow", term(writer, x2, value.dtype))).name
