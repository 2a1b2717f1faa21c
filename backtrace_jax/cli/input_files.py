"""Reading the command line's input files: .npy, .npz, .csv, .tsv and pictures, fitted to what the model declares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backtrace_jax.errors import InputError
from backtrace_jax.errors.arguments import check_plain_file
from backtrace_jax.ir.imported import InputType
from backtrace_jax.runtime.unpacking import read_arrays
from backtrace_jax.sources.cells import CELLS, cells_in
from backtrace_jax.sources.pictures import PICTURES, Preparation, opened
from backtrace_jax.sources.reading import PLAIN, Reading


@dataclass(frozen=True)
class InputFile:
    """What an input file holds.

    Attributes:
        inputs: One array, a tuple in the model's order, or arrays by input name; batch first.
        feature_names: Names of the columns of a table with a header row.
        ignored: Names of arrays in the file that are no inputs of the model.
        note: What was done to a picture.
    """

    inputs: Any
    feature_names: tuple[str, ...] | None = None
    ignored: tuple[str, ...] = ()
    note: str = ""


def read_input_file(path: Path, declared: Sequence[InputType], reading: Reading = PLAIN) -> InputFile:
    """Read a file by its suffix.

    Args:
        path: The file.
        declared: The model's inputs.
        reading: What is done to a picture.

    Raises:
        InputError: When the file is missing, broken, of an unknown kind, or does not fit the model.
        MissingDependencyError: When a picture is to be read and Pillow is not installed.
    """
    suffix = path.suffix.lower()
    check_plain_file(path, InputError)
    if suffix == ".npy":
        return InputFile(load_arrays(path))
    if suffix == ".npz":
        return _archive(path, declared)
    if suffix in CELLS:
        return _table(path, declared)
    if suffix in PICTURES:
        return _picture(path, _one_input(path, declared), reading)
    kinds = ", ".join([".npy", ".npz", *CELLS, *PICTURES])
    raise InputError(f"'{path}': inputs are read from {kinds}; save them in one of these")


def load_arrays(path: Path) -> Any:
    """One array (.npy), or arrays by name (.npz).

    Raises:
        InputError: When the file cannot be read as such.
    """
    try:
        return read_arrays(path)
    except (InputError, OSError) as error:
        advice = "write it with numpy.save or numpy.savez, from arrays of numbers"
        raise InputError(f"'{path}' cannot be read as {path.suffix}: {error}; {advice}") from error


def _archive(path: Path, declared: Sequence[InputType]) -> InputFile:
    arrays = load_arrays(path)
    if not isinstance(arrays, dict):
        return InputFile(arrays)  # an .npy file under another name
    names = [known.name for known in declared]
    positional = [f"arr_{number}" for number in range(len(names))]
    if list(arrays) == positional and not set(names) & set(arrays):
        return InputFile(tuple(arrays.values()))  # numpy.savez without names: the model's order
    extra = tuple(name for name in arrays if name not in names)
    if missing := [name for name in names if name not in arrays]:
        held = ", ".join(arrays) or "nothing"
        raise InputError(f"'{path}' holds {held}, but not the input {', '.join(missing)}; name arrays like inputs")
    return InputFile({name: arrays[name] for name in names}, ignored=extra)


def _table(path: Path, declared: Sequence[InputType]) -> InputFile:
    table = cells_in([path], f"'{path}'", strict=True)
    if not table.count:
        raise InputError(f"'{path}' holds no rows of numbers")
    rows = table.read(0, table.count, table.columns)
    for reason in rows.failed.values():
        raise InputError(reason)
    numbers = np.stack([rows.columns[name] for name in table.columns], axis=1)
    return InputFile(_integers_where_due(numbers, declared), None if table.placed else table.columns)


def _integers_where_due(values: np.ndarray, declared: Sequence[InputType]) -> np.ndarray:
    """Token ids come out of a table as floats; hand them on as integers where that loses nothing."""
    due = len(declared) == 1 and declared[0].dtype.kind in "iu"
    whole = due and bool((values == np.round(values)).all()) and bool(np.isfinite(values).all())
    return values.astype(np.int64) if whole else values


def _one_input(path: Path, declared: Sequence[InputType]) -> InputType:
    if len(declared) != 1:
        names = ", ".join(map(str, declared))
        raise InputError(
            f"'{path}' is one picture, the model takes {len(declared)} inputs ({names}); pass an .npz file"
        )
    return declared[0]


def _picture(path: Path, known: InputType, reading: Reading) -> InputFile:
    """One picture as a batch of one."""
    try:
        prepared = Preparation.of(known, reading)
    except InputError as error:
        raise InputError(f"'{path}': {error}") from error
    try:
        image = opened(path)
        array = prepared.array(image)[None]
    except InputError as error:
        raise InputError(f"'{path}' {error}") from error
    height, width = array.shape[1:3] if prepared.last else array.shape[2:]
    found, size = f"{image.width} x {image.height}", f"{width} x {height}"
    resized = "" if found == size else f"resized from {found} to {size}, "
    return InputFile(array, note=f"'{path}' was {resized}scaled to 0..1{prepared.described}")
