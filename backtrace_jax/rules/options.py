"""Checks of what users give to modes as options."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import SettingError


def number(name: str, value: Any) -> float:
    """A finite number that is not negative."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 <= value < math.inf:
        raise SettingError(f"{name} must be a finite number from 0, found {value!r}")
    return float(value)


def count(name: str, value: Any, at_least: int = 1) -> int:
    """A whole number."""
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise SettingError(f"{name} must be a whole number from {at_least}, found {value!r}")
    return value


def bound(name: str, value: Any) -> Any:
    """A finite number, or an array as nested tuples."""
    array = np.asarray(value)
    if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise SettingError(
            f"{name} must be a finite number or array that broadcasts against the input, found {value!r}"
        )
    return hashable(array)


def hashable(value: Any) -> Any:
    """Arrays as nested tuples, so that modes can be compared and settings written down."""
    if isinstance(value, np.ndarray):
        return hashable(value.tolist())
    return tuple(map(hashable, value)) if isinstance(value, list | tuple) else value
