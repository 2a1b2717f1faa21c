"""Checks the user's inputs and brings them into the model's types; every mistake is named before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from .errors import InputError
from .importers import InputType

Inputs: TypeAlias = Any
"""An array, a tuple of arrays in the model's order, or a dict by input name; batch first."""


def read_inputs(inputs: Inputs, declared: Sequence[InputType]) -> dict[str, np.ndarray]:
    """The inputs by name, each in the type the model declares, all with the same batch size.

    Raises:
        InputError: Naming the input, what was expected, and what to do.
    """
    arrays = {name: _as_array(name, value) for name, value in _by_name(inputs, declared).items()}
    feeds = {known.name: _converted(arrays[known.name], known) for known in declared}
    _check_batch(feeds)
    return feeds


def _by_name(inputs: Inputs, declared: Sequence[InputType]) -> dict[str, Any]:
    expected = ", ".join(map(str, declared))
    if isinstance(inputs, Mapping):
        return _checked_names(dict(inputs), declared, expected)
    values = inputs if isinstance(inputs, tuple) else (inputs,)
    if len(values) != len(declared):
        raise InputError(f"the model takes {len(declared)} inputs ({expected}), found {len(values)}")
    return {known.name: value for known, value in zip(declared, values, strict=True)}


def _checked_names(inputs: dict[str, Any], declared: Sequence[InputType], expected: str) -> dict[str, Any]:
    names = [known.name for known in declared]
    unknown = [str(name) for name in inputs if name not in names]
    missing = [name for name in names if name not in inputs]
    if unknown or missing:
        problem = f"no input is called {', '.join(unknown)}" if unknown else f"input {', '.join(missing)} is missing"
        raise InputError(f"{problem}; the model takes {expected}")
    return inputs


def _as_array(name: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise InputError(f"input {name!r} is no array: {error}") from error
    if array.dtype.kind in "OSUVMm" and array.dtype.names is None and not _is_extended_float(array.dtype):
        raise InputError(f"input {name!r} holds {array.dtype}, not numbers; pass an array of numbers with equal rows")
    return array


def _kind(dtype: np.dtype) -> str:
    """NumPy's letter for the kind of numbers; bfloat16 and its kin are floats."""
    return "f" if _is_extended_float(dtype) else dtype.kind


def _is_extended_float(dtype: np.dtype) -> bool:
    return dtype.name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")


def _converted(array: np.ndarray, declared: InputType) -> np.ndarray:
    _check_shape(array, declared)
    if array.dtype != declared.dtype and _kind(array.dtype) != _kind(declared.dtype):
        raise InputError(
            f"input {declared.name!r} holds {array.dtype.name}, the model takes {declared.dtype.name}; convert it with "
            f".astype(np.{declared.dtype.name}), scaled as the model was trained"
        )
    with np.errstate(over="ignore"):  # named below
        converted = array.astype(declared.dtype)
    if declared.dtype.kind in "iu" and not np.array_equal(converted, array):
        raise InputError(f"input {declared.name!r} has values that do not fit {declared.dtype.name}")
    wrong = (
        ~np.isfinite(converted) & ~(np.isnan(converted) & declared.missing) if _kind(declared.dtype) == "f" else None
    )
    if wrong is not None and wrong.any():
        raise InputError(f"input {declared.name!r} has {_position(converted, wrong)}; clean or impute it first")
    return np.ascontiguousarray(converted)


def _position(array: np.ndarray, wrong: np.ndarray) -> str:
    where = tuple(int(i) for i in np.argwhere(wrong)[0])
    return f"{array[where]} at index {where}"


def _check_shape(array: np.ndarray, declared: InputType) -> None:
    if array.ndim == 0:
        raise InputError(f"input {declared.name!r} is a single number; the first axis must be the batch")
    if array.shape[0] == 0:
        raise InputError(f"input {declared.name!r} is an empty batch; pass at least one example")
    if declared.dims is None:
        return
    fits = array.ndim == len(declared.dims) and all(
        size in (None, found) for size, found in zip(declared.dims[1:], array.shape[1:], strict=True)
    )
    if not fits:
        hint = "; the batch axis is missing: x[None]" if array.ndim == len(declared.dims) - 1 else ""
        raise InputError(f"input {declared.name!r} has shape {list(array.shape)}, the model takes {declared}{hint}")


def _check_batch(feeds: Mapping[str, np.ndarray]) -> None:
    sizes = {name: len(array) for name, array in feeds.items()}
    if len(set(sizes.values())) > 1:
        raise InputError(f"inputs disagree on the batch size: {sizes}")
