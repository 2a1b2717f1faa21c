"""Reads what all examples of a call share: the reference input, and masks on inner values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from backtrace_jax.analysis.axes import Axes
from backtrace_jax.errors import SettingError
from backtrace_jax.errors.texts import shown
from backtrace_jax.ir import Var
from backtrace_jax.rules import Mode

from .targets import array_of, stays_finite

ZERO = "zero"


def named_conditions(conditions: Any) -> dict[str, Any]:
    """The conditions by name; none where there are none.

    Raises:
        SettingError: When they have no names.
    """
    if conditions is not None and not isinstance(conditions, Mapping):
        raise SettingError("conditions must be a dict: name of a value or module -> mask or list of channels")
    unnamed = [name for name in conditions or {} if not isinstance(name, str)]
    if unnamed:
        raise SettingError(f"conditions are named by values or modules, found the key {shown(unnamed[0], 60)}")
    return dict(conditions or {})


def read_baseline(baseline: Any, feeds: Mapping[str, np.ndarray], mode: Mode) -> dict[str, np.ndarray]:
    """The reference input, by name, one example [1, ...]; inputs that stand at zero (tokens: rows of zeros) left out.

    Args:
        baseline: None, "zero", an array for the only input, or a dict of these by input name. An array is one example,
            or, with one axis more, examples whose mean is the reference.
        feeds: The inputs.
        mode: The mode, which may not compare with a reference at all.

    Raises:
        SettingError: Naming what does not fit.
    """
    if baseline is None:
        return {}
    if not mode.compares:
        raise SettingError(f"mode {mode.name!r} compares with no baseline; leave baseline= out")
    given = baseline if isinstance(baseline, Mapping) else dict.fromkeys(_only(feeds, baseline), baseline)
    unknown = [name for name in given if name not in feeds]
    if unknown:
        raise SettingError(
            f"baseline: no input is called {', '.join(map(str, unknown))}; there are: {', '.join(feeds)}"
        )
    return {
        name: _reference(name, value, feeds[name]) for name, value in given.items() if not _is_zero(value, feeds[name])
    }


def _is_zero(value: Any, feed: np.ndarray) -> bool:
    """Whether a reference is left open or is zero, by name or as the number (which for tokens would be an id)."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and feed.dtype.kind not in "iub"
    return value is None or (isinstance(value, str) and value == ZERO) or (number and value == 0)


def _only(feeds: Mapping[str, np.ndarray], baseline: Any) -> list[str]:
    if len(feeds) > 1 and not isinstance(baseline, str):
        raise SettingError(f"the model has several inputs: pass baseline= as a dict by name ({', '.join(feeds)})")
    return list(feeds)


def _reference(name: str, value: Any, feed: np.ndarray) -> np.ndarray:
    array = array_of(f"baseline of input {name!r}", value)
    several = array.ndim == feed.ndim and array.shape[1:] == feed.shape[1:] and len(array) > 0
    if array.dtype.kind not in "fiu" or not (array.shape == feed.shape[1:] or several):
        raise SettingError(
            f"baseline of input {name!r} must be 'zero', one example {list(feed.shape[1:])}, or examples "
            f"[count, {', '.join(map(str, feed.shape[1:]))}] to take the mean of; found {shown(value)}"
        )
    if feed.dtype.kind in "iu" and (array.dtype.kind == "f" or (several and len(array) > 1)):
        raise SettingError(
            f"baseline of input {name!r}: token ids have no mean; pass the integers of one reference text"
        )
    if not stays_finite(array, feed.dtype):
        raise SettingError(f"baseline of input {name!r} holds NaN or Inf, or what does not fit {feed.dtype}")
    mean = array.mean(axis=0, dtype=np.float64) if several else array
    return mean[None].astype(feed.dtype)


def read_conditions(conditions: Mapping[str, Any], masked: Mapping[str, Var], axes: Axes) -> dict[str, np.ndarray]:
    """Masks by the names of the values, each in its value's shape; two conditions on one value hold both.

    Args:
        conditions: By the user's name of a value, a mask from 0 to 1 that broadcasts against the value without batch
            axis, or a list of the channels to keep.
        masked: The value each name stands for.
        axes: Axis of the channels, by the name of the value.

    Raises:
        SettingError: Naming the condition that does not fit.
    """
    found: dict[str, np.ndarray] = {}
    for name, var in masked.items():
        mask = _mask(name, conditions[name], var, axes.get(var.name))
        found[var.name] = found[var.name] * mask if var.name in found else mask
    return found


def _mask(name: str, condition: Any, var: Var, axis: int | None) -> np.ndarray:
    lead = int(var.shape[:1] == (1,))
    shape = var.shape[lead:]
    array = array_of(f"conditions[{name!r}]", condition)
    if array.ndim == 0 and array.dtype.kind in "iu" and shape:
        raise SettingError(
            f"conditions[{name!r}] is one whole number, {array}; pass [{array}] to keep a channel, or a mask as a float"
        )
    if array.ndim == 1 and array.dtype.kind in "iu" and shape:
        array = _channels(name, array, shape, None if axis is None else axis - lead)
    if array.dtype.kind not in "bfiu" or not ((array >= 0) & (array <= 1)).all():
        raise SettingError(
            f"conditions[{name!r}] must be a mask of numbers from 0 to 1 or a list of channels, "
            f"found {shown(condition)}"
        )
    try:
        return np.broadcast_to(array, shape).reshape(var.shape).astype(var.dtype)
    except ValueError:
        raise SettingError(
            f"conditions[{name!r}] has shape {list(array.shape)}, which does not broadcast against {list(shape)}"
        ) from None


def _channels(name: str, listed: np.ndarray, shape: tuple[int, ...], axis: int | None) -> np.ndarray:
    """A mask that keeps the channels of a list."""
    if axis is None or axis < 0:
        raise SettingError(
            f"conditions[{name!r}]: which axis of {list(shape)} holds channels cannot be told; pass a mask from 0 to 1 "
            "that broadcasts against it"
        )
    if len(set(listed.tolist())) < len(listed):
        raise SettingError(
            f"conditions[{name!r}] lists a channel twice; to pass it as a mask, make it floats or booleans"
        )
    if not len(listed) or listed.min() < 0 or listed.max() >= shape[axis]:
        raise SettingError(f"conditions[{name!r}]: channels go from 0 to {shape[axis] - 1}, found {listed.tolist()}")
    return np.isin(np.arange(shape[axis]), listed).reshape(-1, *(1,) * (len(shape) - 1 - axis))
