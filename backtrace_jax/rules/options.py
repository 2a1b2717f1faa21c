"""Checks of what users give to modes as options."""

from __future__ import annotations

from typing import Any

import numpy as np

from backtrace_jax.errors import SettingError
from backtrace_jax.errors.arguments import choice, is_finite, is_whole
from backtrace_jax.errors.texts import shown

KEEP, IGNORE = "keep", "ignore"
"""What becomes of a bias' share: booked in the ledger, or left to the operands."""


def number(name: str, value: Any) -> float:
    """A finite number that is not negative."""
    if not is_finite(value) or value < 0:
        raise SettingError(f"{name} must be a finite number from 0, found {shown(value)}")
    return float(value)


def count(name: str, value: Any, at_least: int = 1) -> int:
    """A whole number."""
    if not is_whole(value) or value < at_least:
        raise SettingError(f"{name} must be a whole number from {at_least}, found {shown(value)}")
    return int(value)


def bias(value: Any) -> str:
    """What becomes of a bias' share."""
    return choice("bias", value, (KEEP, IGNORE))


LINEAR_NORM, IDENTITY_NORM = "linear", "identity"
"""How relevance passes a normalisation: as through its linear part, or unchanged."""


def norm(value: Any) -> str:
    """How relevance passes a normalisation."""
    return choice("norm", value, (LINEAR_NORM, IDENTITY_NORM))


def bounds(low: Any, high: Any) -> dict[str, Any]:
    """Two finite bounds, each a number or an array as nested tuples, the first nowhere above the second."""
    arrays = {name: _finite(name, value) for name, value in (("low", low), ("high", high))}
    try:
        crossed = np.any(arrays["low"] > arrays["high"])
    except ValueError:
        raise SettingError(f"low {arrays['low'].shape} and high {arrays['high'].shape} have different shapes") from None
    if crossed:
        raise SettingError(f"low must not be above high, found {shown(low)} and {shown(high)}")
    return {name: hashable(array) for name, array in arrays.items()}


def _finite(name: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise SettingError(f"{name} is no array: {error}") from error
    if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise SettingError(f"{name} must be finite numbers, found {shown(value)}")
    return array


def hashable(value: Any) -> Any:
    """Arrays as nested tuples and scalars as Python's, so that modes can be compared and settings written down."""
    if isinstance(value, np.ndarray | np.generic):
        return hashable(value.tolist())
    return tuple(map(hashable, value)) if isinstance(value, list | tuple) else value
