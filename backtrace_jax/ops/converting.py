"""Operations that change the type of numbers: casts, and the quantisation of floats to few bits and back.

A cast to integers makes positions or tokens of floats, and carries no relevance. What quantisation makes are quantities
still: `quantize` and `dequantize` carry relevance from floats to integers and back.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from .linear import same_rank
from .registry import NONE, POINTWISE, register

_POWERS = "float8_e8m0fnu"
_WITHOUT_NAN = 254  # exponent of the largest power of two


def cast(x: Array, *, dtype: str, saturate: bool = True, round_mode: str = "up", rounded: str | None = None) -> Array:
    """Conversion to another type; floats become booleans by being non-zero.

    Args:
        x: Numbers.
        dtype: Name of the type.
        saturate: Whether what is beyond an 8-bit float type becomes its largest number, rather than Inf or NaN.
        round_mode: How powers of two (float8_e8m0fnu) are rounded: "up", "down" or "nearest".
        rounded: A narrower float type on the way, to which the numbers are rounded.
    """
    target, x = jnp.dtype(dtype), _of_common_type(x)
    if rounded is not None:  # the barrier keeps XLA from leaving both conversions out
        x = lax.optimization_barrier(lax.convert_element_type(x, jnp.dtype(rounded)))
    if dtype == "bool":
        return x != 0
    if dtype == _POWERS:
        return _power_of_two(x.astype(jnp.float32), saturate, round_mode)
    if dtype.startswith("float8") and saturate:
        limit = float(jnp.finfo(target).max)
        x = jnp.clip(x if _is_float(x.dtype) else x.astype(jnp.float32), -limit, limit)
    if jnp.issubdtype(target, jnp.integer) and _is_float(x.dtype):
        x = _whole(x, jnp.iinfo(target))
    return lax.convert_element_type(x, target)


def _is_float(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.floating))


def _of_common_type(x: Array) -> Array:
    """Floats of 8 bits and less as float32: XLA converts to and from that exactly, but not between all other types."""
    return x.astype(jnp.float32) if _is_float(x.dtype) and x.dtype.itemsize == 1 else x


def _whole(x: Array, target: Any) -> Array:
    """Whole numbers wide enough that a narrower type keeps the lowest bits of them, as it does of integers."""
    if target.bits == 64 or target.dtype == jnp.int32:
        return x
    return x.astype(jnp.int64 if target.bits == 32 else jnp.int32)


def _power_of_two(x: Array, saturate: bool, round_mode: str) -> Array:
    """float32 as powers of two, which are exponents without a mantissa; 255 stands for NaN."""
    bits = lax.bitcast_convert_type(x, jnp.uint32)
    exponent, fraction = (bits >> 23) & 0xFF, bits & 0x7FFFFF
    small = exponent == 0  # no leading 1 is left out there, so that the fraction begins a bit earlier
    below = small & (fraction < 0x400000)
    fraction = jnp.where(small, (fraction << 1) & 0x7FFFFF, fraction)
    upwards = {"up": fraction > 0, "down": jnp.zeros_like(small), "nearest": fraction >= 0x400000}[round_mode]
    code = jnp.where(below, 0 if saturate else 255, exponent + upwards.astype(jnp.uint32))
    over = _WITHOUT_NAN if saturate else 255
    code = jnp.where(jnp.isnan(x), 255, jnp.where(jnp.isinf(x) | (code > _WITHOUT_NAN), over, code))
    return lax.bitcast_convert_type(code.astype(jnp.uint8), jnp.dtype(_POWERS))


def bitcast(x: Array, *, dtype: str) -> Array:
    """The same bits read as another type of the same width."""
    x = x.astype(jnp.uint8) if x.dtype == jnp.bool_ else x
    if dtype == "bool":
        return lax.bitcast_convert_type(x, jnp.uint8) != 0
    return lax.bitcast_convert_type(x, jnp.dtype(dtype))


def quantize(x: Array, scale: Array, zero_point: Array, *, dtype: str, saturate: bool = True) -> Array:
    """x in units of the scale, from the zero point on, rounded to what a type of few bits holds."""
    levels, zero_point = _levels(x, scale, zero_point)
    if not jnp.issubdtype(jnp.dtype(dtype), jnp.integer):
        return cast(levels + zero_point, dtype=dtype, saturate=saturate)
    low, high = _range(dtype)
    return cast(jnp.clip(jnp.round(levels) + zero_point, low, high), dtype=dtype)


def _levels(x: Array, scale: Array, zero_point: Array) -> tuple[Array, Array]:
    x, scale, zero_point = same_rank(x, scale, zero_point)
    levels, wide = _quotient(x, scale.astype(x.dtype)), _wide(x.dtype)
    return levels.astype(wide), zero_point.astype(wide)


def _wide(dtype: Any) -> Any:
    """The float type to compute in for a result of this one."""
    return dtype if dtype.itemsize >= 4 else jnp.dtype(jnp.float32)


def _quotient(x: Array, divisor: Array) -> Array:
    """x / divisor, rounded once: a divisor that many entries share XLA would turn into a factor, its reciprocal."""
    return x / jnp.where(jnp.isnan(x), jnp.ones_like(divisor), divisor)


def _range(dtype: str) -> tuple[float, float]:
    target = jnp.dtype(dtype)
    if jnp.issubdtype(target, jnp.integer):
        return float(jnp.iinfo(target).min), float(jnp.iinfo(target).max)
    return -float(jnp.finfo(target).max), float(jnp.finfo(target).max)


def _unrounded(x: Array, scale: Array, zero_point: Array, *, dtype: str, saturate: bool = True) -> Array:
    """The same without rounding; what is rounded to the first or last level is not beyond the range yet.

    So it goes on to half a step past both: a range found from the entries themselves, rounded as its zero point is,
    would otherwise end before the largest of them, and its derivative be lost.
    """
    levels, zero_point = _levels(x, scale, zero_point)
    place, (low, high) = levels + zero_point, _range(dtype)
    if jnp.issubdtype(jnp.dtype(dtype), jnp.integer):
        reach = 0.5 + (high - low) * 4 * float(jnp.finfo(place.dtype).eps)  # the division is rounded, too
        low, high = low - reach, high + reach
    return jnp.clip(place, low, high)


def dequantize(x: Array, scale: Array, zero_point: Array, *, dtype: str) -> Array:
    """What quantised numbers stand for: their distance from the zero point, times the scale."""
    wide = _wide(jnp.dtype(dtype))
    x, scale, zero_point = (_of_common_type(each).astype(wide) for each in same_rank(x, scale, zero_point))
    return ((x - zero_point) * scale).astype(jnp.dtype(dtype))


def dynamic_range(x: Array) -> tuple[Array, Array]:
    """Scale and zero point with which 8 bits without a sign hold all entries, and 0."""
    low, high = jnp.minimum(jnp.min(x), 0), jnp.maximum(jnp.max(x), 0)
    steps = jnp.asarray(255, x.dtype)
    scale = jnp.where(low == high, jnp.ones_like(low), _quotient(high - low, steps))
    return scale, jnp.clip(jnp.round(_quotient(-low, scale)), 0, steps).astype(jnp.uint8)


register(POINTWISE, {"cast": cast}, smooth=lambda x, **_: x)
register(POINTWISE, {"quantize": quantize}, carriers=(0,), smooth=_unrounded)
register(POINTWISE, {"dequantize": dequantize}, carriers=(0,), smooth=dequantize)
register(NONE, {"bitcast": bitcast})
register(NONE, {"dynamic_range": dynamic_range}, many=True)
