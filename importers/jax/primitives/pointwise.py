"""Primitives that compute entry by entry: arithmetic, functions of one number, comparisons, choices, conversions."""

from __future__ import annotations

from typing import Any

import numpy as np

from backtrace_jax.errors import UnsupportedError
from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from .registry import plain, primitive

plain(
    {
        "abs": "abs",
        "acos": "acos",
        "acosh": "acosh",
        "add": "add",
        "add_any": "add",
        "asin": "asin",
        "asinh": "asinh",
        "atan": "atan",
        "atanh": "atanh",
        "cbrt": "cbrt",
        "ceil": "ceil",
        "cos": "cos",
        "cosh": "cosh",
        "digamma": "digamma",
        "div": "div",
        "eq": "equal",
        "erf": "erf",
        "erf_inv": "erf_inv",
        "exp": "exp",
        "floor": "floor",
        "ge": "greater_equal",
        "gt": "greater",
        "le": "less_equal",
        "lgamma": "lgamma",
        "log": "log",
        "logistic": "sigmoid",
        "lt": "less",
        "max": "maximum",
        "min": "minimum",
        "mul": "mul",
        "neg": "neg",
        "rsqrt": "rsqrt",
        "shift_left": "shift_left",
        "sign": "sign",
        "sin": "sin",
        "sinh": "sinh",
        "sqrt": "sqrt",
        "sub": "sub",
        "tan": "tan",
        "tanh": "tanh",
    }
)


@primitive("copy", "copy_p", "stop_gradient", "optimization_barrier", "name", "device_put", "sharding_constraint")
def identity(lowering: Lowering, *operands: Value, **_: Any) -> tuple[Value, ...]:
    """What changes where a value is kept, or how it is differentiated, and no entry of it.

    A gradient that the model stops is compared with JAX's own when a gradient mode is asked for.
    """
    return operands


@primitive("square")
def square(lowering: Lowering, x: Value) -> Value:
    """x times itself."""
    return lowering.emit("integer_pow", x, exponent=2) if _is_float(x) else lowering.emit("mul", x, x)


@primitive("integer_pow")
def integer_pow(lowering: Lowering, x: Value, *, y: int) -> Value:
    """x raised to a whole power."""
    return lowering.emit("integer_pow", x, exponent=y)


@primitive("pow")
def power(lowering: Lowering, x: Value, y: Value) -> Value:
    """x raised to another number."""
    return lowering.emit("pow", x, y if y.dtype == x.dtype else lowering.cast(y, x.dtype))


@primitive("erfc")
def erfc(lowering: Lowering, x: Value, **_: Any) -> Value:
    """1 - erf x."""
    return lowering.emit("sub", np.asarray(1, x.dtype), lowering.emit("erf", x))


@primitive("log1p")
def log1p(lowering: Lowering, x: Value, **_: Any) -> Value:
    """log(1 + x)."""
    return lowering.emit("log", lowering.emit("add", x, np.asarray(1, x.dtype)))


@primitive("expm1")
def expm1(lowering: Lowering, x: Value, **_: Any) -> Value:
    """exp(x) - 1."""
    return lowering.emit("sub", lowering.emit("exp", x), np.asarray(1, x.dtype))


@primitive("exp2")
def exp2(lowering: Lowering, x: Value, **_: Any) -> Value:
    """2 raised to x."""
    return lowering.emit("exp", lowering.scale(x, float(np.log(2))))


@primitive("select_n")
def select_n(lowering: Lowering, which: Value, *cases: Value) -> Value:
    """The case that a boolean, or a number from 0 on, names."""
    if len(cases) == 1:
        return cases[0]
    if which.dtype == np.bool_:
        return lowering.emit("where", which, cases[1], cases[0])
    found = cases[-1]
    for number in range(len(cases) - 2, -1, -1):
        chosen = lowering.emit("less_equal", which, np.asarray(number, which.dtype))
        found = lowering.emit("where", chosen, cases[number], found)
    return found


@primitive("clamp")
def clamp(lowering: Lowering, low: Value, x: Value, high: Value) -> Value:
    """x kept between bounds."""
    return lowering.emit("minimum", lowering.emit("maximum", x, low), high)


@primitive("convert_element_type")
def convert(lowering: Lowering, x: Value, *, new_dtype: Any, **_: Any) -> Value:
    """x in another type."""
    return lowering.cast(x, np.dtype(new_dtype))


@primitive("ne")
def unequal(lowering: Lowering, a: Value, b: Value) -> Value:
    """Whether two numbers differ."""
    return lowering.emit("logical_not", lowering.emit("equal", a, b))


@primitive("is_finite")
def is_finite(lowering: Lowering, x: Value) -> Value:
    """Whether a number is neither NaN nor infinite."""
    either = lowering.emit("logical_or", lowering.emit("is_nan", x), lowering.emit("is_inf", x))
    return lowering.emit("logical_not", either)


@primitive("and", "or", "xor")
def logical(lowering: Lowering, *operands: Value) -> Value:
    """Booleans combined, or the bits of integers."""
    kind = lowering.primitive
    return lowering.emit(f"{'logical' if operands[0].dtype == np.bool_ else 'bitwise'}_{kind}", *operands)


@primitive("not")
def inverted(lowering: Lowering, x: Value) -> Value:
    """The opposite of a boolean, or of the bits of an integer."""
    return lowering.emit("logical_not" if x.dtype == np.bool_ else "bitwise_not", x)


@primitive("round")
def rounded(lowering: Lowering, x: Value, *, rounding_method: Any) -> Value:
    """x rounded to whole numbers, halves to even ones."""
    if int(rounding_method) != 1:
        raise UnsupportedError("rounding of halves away from zero; jnp.round rounds them to even numbers")
    return lowering.emit("round", x)


@primitive("rem")
def remainder(lowering: Lowering, a: Value, b: Value) -> Value:
    """What is left of a divided by b, with the sign of a."""
    return lowering.emit("remainder" if _is_float(a) else "mod", a, b, truncate=True)


def _is_float(value: Value) -> bool:
    return not (np.dtype(value.dtype) == np.bool_ or np.dtype(value.dtype).name.startswith(("int", "uint")))


_NARROW = {(8, 7): "bfloat16", (5, 10): "float16"}


@primitive("reduce_precision")
def rounded_to(lowering: Lowering, x: Value, *, exponent_bits: int, mantissa_bits: int) -> Value:
    """x rounded to a narrower float type, in its own type."""
    if x.dtype == np.float32 and (exponent_bits, mantissa_bits) == (8, 23):
        return x
    if (exponent_bits, mantissa_bits) not in _NARROW:
        raise UnsupportedError(f"rounding to {exponent_bits} bits of exponent and {mantissa_bits} of mantissa")
    return lowering.emit("cast", x, dtype=np.dtype(x.dtype).name, rounded=_NARROW[exponent_bits, mantissa_bits])


@primitive("bitcast_convert_type")
def bitcast(lowering: Lowering, x: Value, *, new_dtype: Any) -> Value:
    """The same bits read as another type of the same width."""
    wanted = np.dtype(new_dtype)
    if wanted.itemsize != x.dtype.itemsize:
        raise UnsupportedError(f"the bits of {x.dtype} read as {wanted}, which is of another width")
    return lowering.emit("bitcast", x, dtype=wanted.name)


@primitive("shift_right_logical", "shift_right_arithmetic")
def shifted(lowering: Lowering, x: Value, by: Value) -> Value:
    """Bits moved to the right; zeros follow those of unsigned integers, the sign those of others."""
    if x.dtype.name.startswith("uint") != (lowering.primitive == "shift_right_logical"):
        raise UnsupportedError(f"bits of {x.dtype} moved as if they were of the other kind of integers")
    return lowering.emit("shift_right", x, by)
