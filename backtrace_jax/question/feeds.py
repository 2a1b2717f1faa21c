"""Checks the user's inputs and brings them into the model's types; every mistake is named before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from backtrace_jax.batch.layout import Axes, own_shape
from backtrace_jax.errors import InputError
from backtrace_jax.errors.arguments import more_than_numbers
from backtrace_jax.errors.texts import shown
from backtrace_jax.ir.imported import InputType

Inputs: TypeAlias = Any
"""An array, a tuple of arrays in the model's order, or a dict by input name; batch first."""


def read_inputs(inputs: Inputs, declared: Sequence[InputType], axes: Axes | None = None) -> dict[str, np.ndarray]:
    """The inputs by name, each in the type the model declares, all with the same batch size.

    Args:
        inputs: The inputs, batch first.
        declared: What the model declares of them, batch first as well.
        axes: Where the batch is in the user's own arrays, by which mistakes are told; by default first.

    Raises:
        InputError: Naming the input, what was expected, and what to do.
    """
    axes = {known.name: (axes or {}).get(known.name, 0) for known in declared}
    own = [_in_place(known, axes[known.name]) for known in declared]
    arrays = {name: _as_array(name, value) for name, value in _by_name(inputs, own).items()}
    feeds = {known.name: _converted(arrays[known.name], known, axes[known.name]) for known in declared}
    _check_batch(feeds, axes)
    return feeds


def _in_place(declared: InputType, axis: int | None) -> InputType:
    """The input with its batch where the model itself has it."""
    if axis == 0 or declared.dims is None:
        return declared
    return replace(declared, dims=own_shape(declared.dims, axis))


def _by_name(inputs: Inputs, declared: Sequence[InputType]) -> dict[str, Any]:
    if isinstance(inputs, Mapping):
        return _checked_names(dict(inputs), declared)
    values = inputs if isinstance(inputs, tuple) else (inputs,)
    if len(values) != len(declared):
        advice = "; pass several as a tuple, or as a dict by name" if isinstance(inputs, list) else ""
        raise InputError(f"the model takes {len(declared)} inputs ({_listed(declared)}), found {len(values)}{advice}")
    return {known.name: value for known, value in zip(declared, values, strict=True)}


def _checked_names(inputs: dict[str, Any], declared: Sequence[InputType]) -> dict[str, Any]:
    names = [known.name for known in declared]
    unknown = [str(name) for name in inputs if name not in names]
    missing = [name for name in names if name not in inputs]
    if unknown or missing:
        problem = f"no input is called {', '.join(unknown)}" if unknown else f"input {', '.join(missing)} is missing"
        raise InputError(f"{problem}; the model takes {_listed(declared)}")
    return inputs


def _listed(declared: Sequence[InputType]) -> str:
    return ", ".join(map(str, declared))


_ARRAYS = ("__array__", "__array_interface__", "__dlpack__")
_FILES = (".npy", ".npz", ".csv", ".png", ".jpg", ".jpeg", ".json", ".parquet", ".pt", ".txt")
_PLAIN = (Path, str, bytes, list, tuple, Mapping, range, memoryview)


def refuse_datasets(inputs: Inputs) -> None:
    """Refuse what gives examples one after the other, before it is read through.

    Raises:
        InputError: With the calls that take it.
    """
    gives = hasattr(inputs, "__iter__") or hasattr(inputs, "__getitem__")
    if gives and not isinstance(inputs, _PLAIN) and not any(hasattr(inputs, each) for each in _ARRAYS):
        raise InputError(
            f"inputs is a {type(inputs).__name__}, no array; explain it whole: explain_dataset(model, source, 'folder')"
            ", or `for explanation in Explainer(model).stream(source)`"
        )


def _as_array(name: str, value: Any) -> np.ndarray:
    if value is None:
        raise InputError(f"input {name!r} is None; pass an array, a tuple of arrays, or a dict by input name")
    if isinstance(value, Path) or (isinstance(value, str) and Path(value).suffix in _FILES):
        raise InputError(f"input {name!r} is the name of a file, {shown(str(value))}; load it first: np.load(...)")
    if more := more_than_numbers(value):
        raise InputError(f"input {name!r} {more}")
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        if "inhomogeneous" in str(error):
            raise InputError(f"input {name!r} has rows of unequal length; pad the rows (and pass the mask)") from error
        raise InputError(f"input {name!r} is no array: {error}") from error
    if array.dtype.kind in "OSUVMm" and not _is_extended_float(array.dtype):
        raise InputError(f"input {name!r} holds {array.dtype}, not numbers; pass an array of numbers with equal rows")
    return array


def _kind(dtype: np.dtype) -> str:
    """NumPy's letter for the kind of numbers; bfloat16 and its kin are floats."""
    return "f" if _is_extended_float(dtype) else dtype.kind


def _is_extended_float(dtype: np.dtype) -> bool:
    return dtype.kind not in "fiub" and dtype.name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")


def _converted(array: np.ndarray, declared: InputType, axis: int | None) -> np.ndarray:
    _check_shape(array, declared, axis)
    if array.dtype != declared.dtype and _kind(array.dtype) != _kind(declared.dtype):
        if array.dtype.kind == "c":
            raise InputError(f"input {declared.name!r} is complex, the model is real; pass x.real, x.imag or abs(x)")
        scaled = ", scaled as the model was trained" if _kind(declared.dtype) == "f" else ""
        raise InputError(
            f"input {declared.name!r} holds {array.dtype.name}, the model takes {declared.dtype.name}; convert it with "
            f".astype(np.{declared.dtype.name}){scaled}"
        )
    with np.errstate(over="ignore"):  # named below
        converted = array.astype(declared.dtype)
    if declared.dtype.kind in "iu" and not np.array_equal(converted, array):
        raise InputError(f"input {declared.name!r} has values that do not fit {declared.dtype.name}")
    if _kind(declared.dtype) == "f" and not (finite := np.isfinite(converted)).all():
        wrong = ~finite & ~(np.isnan(converted) & declared.missing)
        if wrong.any():
            raise InputError(f"input {declared.name!r} has {_position(converted, wrong)}; clean or impute it first")
    return np.ascontiguousarray(converted)


def _position(array: np.ndarray, wrong: np.ndarray) -> str:
    where = tuple(int(i) for i in np.argwhere(wrong)[0])
    return f"{array[where]} at index {where}"


def _check_shape(array: np.ndarray, declared: InputType, batch: int | None) -> None:
    if array.ndim == 0:
        raise InputError(
            f"input {declared.name!r} is a single number; the first axis must be the batch, or, if all examples share "
            f"it, pass batch_axis={{{declared.name!r}: None}}"
        )
    if array.shape[0] == 0:
        raise InputError(f"input {declared.name!r} is an empty batch; pass at least one example")
    if declared.dims is None:
        return
    fits = array.ndim == len(declared.dims) and all(
        size in (None, found) for size, found in zip(declared.dims[1:], array.shape[1:], strict=True)
    )
    if not fits:
        shape, own = own_shape(array.shape, batch), _in_place(declared, batch)
        raise InputError(
            f"input {own.name!r} has shape {list(shape)}, the model takes {own}{_hint(shape, own.dims or (), batch)}"
        )


_MENDING = {  # from a shape with zeros for new axes, and what the user would write
    "the batch axis is missing: x[None]": lambda n: (None, *range(n)),
    "batch and channel axes are missing: x[None, None]": lambda n: (None, None, *range(n)),
    "the channel axis is missing: x[:, None]": lambda n: (0, None, *range(1, n)),
    "channels last? x.transpose(0, 3, 1, 2)": lambda n: (0, 3, 1, 2) if n == 4 else (),
    "channels first? x.transpose(0, 2, 3, 1)": lambda n: (0, 2, 3, 1) if n == 4 else (),
    "channels last, and no batch? x.transpose(2, 0, 1)[None]": lambda n: (None, 2, 0, 1) if n == 3 else (),
    "the other axis first? x.transpose(0, 2, 1)": lambda n: (0, 2, 1) if n == 3 else (),
    "the channel axis is missing: x[..., None]": lambda n: (*range(n), None),
    "batch and channel axes are missing: x[None, ..., None]": lambda n: (None, *range(n), None),
}


def _hint(shape: Sequence[int], dims: Sequence[int | None], batch: int | None) -> str:
    """What would make an array of this shape fit; nothing where no simple thing does, or the batch is not in front."""
    sizes = dims if batch is None else (None, *dims[1:])
    for advice, axes in _MENDING.items() if batch in (0, None) else ():
        mended = [1 if axis is None else shape[axis] for axis in axes(len(shape))]
        fits = (size in (None, found) for size, found in zip(sizes, mended, strict=False))
        if len(mended) == len(sizes) and all(fits):
            return f"; {advice}"
    return ""


def _check_batch(feeds: Mapping[str, np.ndarray], axes: Axes) -> None:
    sizes = {name: len(array) for name, array in feeds.items()}
    if len(set(sizes.values())) > 1:
        last = next(name for name in reversed(sizes) if axes[name] is not None)
        others = [axis for axis in (0, 1, None) if axis != axes[last]]
        ways = ", ".join(f"batch_axis={{{last!r}: {axis}}}" for axis in others)
        raise InputError(
            f"inputs disagree on the batch size: {sizes}; name the axis of each whose batch is another one, or None "
            f"for what all examples share: {ways}"
        )


def check_indices(feeds: Mapping[str, np.ndarray], tables: Sequence[tuple[str, int]]) -> None:
    """Refuse ids that look up a row that their table does not have.

    Args:
        feeds: The inputs.
        tables: Inputs that look up a table, with the number of its rows.

    Raises:
        InputError: Naming the id and where it is.
    """
    for name, rows in tables:
        wrong = (feeds[name] >= rows) | (feeds[name] < -rows)
        if wrong.any():
            found = _position(feeds[name], wrong)
            raise InputError(f"input {name!r} has {found}; its table has {rows} rows, numbered from 0 to {rows - 1}")
