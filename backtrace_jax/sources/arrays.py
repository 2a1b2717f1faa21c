"""Plain arrays as a source: one, several in the model's order, or a dict by name; a memory map is read in slices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backtrace_jax.batch.layout import Axes
from backtrace_jax.errors import InputError
from backtrace_jax.errors.arguments import more_than_numbers
from backtrace_jax.errors.texts import shown
from backtrace_jax.ir.imported import InputType

from .matching import Columns, check_types, matched
from .protocol import Examples, Group, Schema, typed
from .reading import Carry, Reading
from .stored import ARRAYS, arrays_in, checked_zarr, is_zarr, zarr_in


@dataclass(frozen=True)
class Arrays:
    """Arrays of equal length as a source.

    Attributes:
        schema: What is known of them.
        count: How many examples there are.
        inputs: By input name, as the user has them.
        axes: Where each holds the examples; None for what all examples share.
        carried: Columns that are carried, batch first.
    """

    schema: Schema
    count: int
    inputs: Mapping[str, Any]
    axes: Axes
    carried: Mapping[str, Any]

    def read(self, first: int, last: int) -> Examples:
        """Examples from `first` to before `last`."""
        found = {name: self._part(name, first, last) for name in self.inputs}
        carried = {name: _native(_read(name, array, slice(first, last))) for name, array in self.carried.items()}
        return Examples(last - first, (Group(np.arange(last - first), found),), carried)

    def stream(self) -> Iterator[Examples]:
        """Nothing: these are read at random.

        Raises:
            InputError: Always.
        """
        raise InputError("arrays are read at random; they are no stream")

    def _part(self, name: str, first: int, last: int) -> np.ndarray:
        array, axis = self.inputs[name], self.axes[name]
        if axis is None:
            return np.broadcast_to(_read(name, array, ...), (last - first, *array.shape))
        chosen = _read(name, array, (slice(None),) * axis + (slice(first, last),))
        return np.ascontiguousarray(np.moveaxis(chosen, axis, 0))


def _read(name: str, array: Any, part: Any) -> np.ndarray:
    """A part of an array, which may lie on the disk.

    Raises:
        InputError: When it cannot be read.
    """
    try:
        return np.asarray(array[part])
    except Exception as error:  # of Zarr, HDF5: about anything, where a chunk is damaged
        raise InputError(f"array {name!r} cannot be read: {type(error).__name__}: {error!s:.150}") from error


def arrays_of(given: Any, declared: Sequence[InputType], axes: Axes, carry: Carry, reading: Reading) -> Arrays:
    """Arrays as a source.

    Args:
        given: An array, a tuple in the model's order, or a dict by name.
        declared: The model's inputs.
        axes: Where each holds the examples; None for what all examples share.
        carry: What is carried.
        reading: What the caller says of the arrays.

    Raises:
        InputError: Naming what is missing, too much, or of another length.
    """
    reading.refuse(_NO_ARRAYS, "says nothing about arrays of numbers")
    given = given if isinstance(given, Mapping) else dict(enumerate(given if isinstance(given, tuple) else (given,)))
    arrays = {str(name): _array(str(name), value) for name, value in given.items()}
    placed = frozenset(str(name) for name in given if not isinstance(name, str))
    columns = Columns("the source", tuple(arrays), placed=placed, strict=True)
    found = matched(columns, declared, {each.name: None for each in declared}, carry, reading)
    inputs = {name: arrays[place] for name, (place, *_) in found.inputs.items()}
    carried = {name: _carried(place, arrays[place]) for name, place in found.carried.items()}
    axes = {name: _axis(name, array, axes.get(name, 0)) for name, array in inputs.items()}
    count = _count(inputs, axes, carried)
    kinds = {name: (_one(array.shape, axes[name]), array.dtype.name) for name, array in inputs.items()}
    check_types(kinds, declared, axes)
    schema = Schema(kinds, {name: typed(_native(array[:1])) for name, array in carried.items()}, identity=_IDENTITY)
    return Arrays(schema, count if reading.limit is None else min(count, reading.limit), inputs, axes, carried)


_IDENTITY = {"kind": "arrays"}
_NO_ARRAYS = ("tokenizer", "text", "lengths", "size", "resize", "mean", "std", "layout")


def _count(inputs: Mapping[str, Any], axes: Axes, carried: Mapping[str, Any]) -> int:
    """How many examples there are."""
    sizes = {name: inputs[name].shape[axis] for name, axis in axes.items() if axis is not None}
    sizes |= {name: next(iter(array.shape), 1) for name, array in carried.items()}
    if len(set(sizes.values())) > 1:
        raise InputError(f"the arrays are of unequal lengths: {sizes}; an example needs an entry in each of them")
    count = next(iter(sizes.values()), 1)
    if not count:
        raise InputError("the source is empty: its arrays hold no example")
    return count


def _array(name: str, value: Any) -> Any:
    """An array as it is: what is memory-mapped, or read by chunks, stays so."""
    if isinstance(value, str | Path) and Path(value).suffix.lower() in ARRAYS:
        value = arrays_in(Path(value))
    if isinstance(value, str | Path) and is_zarr(Path(value)):
        value = zarr_in(Path(value))
    if type(value).__module__.partition(".")[0] == "zarr":
        value = checked_zarr(value)
    if isinstance(value, Mapping):
        raise InputError(f"{name!r} holds several arrays: {', '.join(value)!s:.100}; pass one of them")
    if all(hasattr(value, each) for each in ("shape", "dtype", "chunks")):  # of zarr, h5py, dask
        return value
    if more := more_than_numbers(value):
        raise InputError(f"{name!r} {more}")
    try:
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{name!r} is no array: {error!s:.150}") from error


def _native(values: Any) -> np.ndarray:
    """An array in this machine's order of bytes."""
    array = np.asarray(values)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _carried(name: str, array: Any) -> Any:
    """An array as it is carried: texts are texts, however they are held.

    Raises:
        InputError: When it holds objects that are no texts, or has no entry for every example.
    """
    if not array.shape:
        raise InputError(f"carry: {name!r} is a single value; it needs an entry for each example")
    if array.dtype.kind == "S":
        try:
            return np.char.decode(array[:], "utf-8")
        except UnicodeDecodeError:
            raise InputError(f"carry: {name!r} holds bytes that are no text in UTF-8; decode them first") from None
    if array.dtype.kind == "O":
        values = np.asarray(array[:]).reshape(-1).tolist()
        if others := [value for value in values if not isinstance(value, str)]:
            raise InputError(f"carry: {name!r} holds {shown(others[0])}; numbers, truths and texts are carried")
        return np.asarray(array[:], np.dtypes.StringDType())
    if array.dtype.kind == "V":
        raise InputError(f"carry: {name!r} holds {array.dtype}; numbers, truths and texts are carried")
    return array


def _axis(name: str, array: Any, axis: int | None) -> int | None:
    if axis is not None and not -array.ndim <= axis < array.ndim:
        raise InputError(f"{name!r} of shape {list(array.shape)} has no axis {axis}, where its examples should be")
    return axis if axis is None else axis % array.ndim


def _one(shape: tuple[int, ...], axis: int | None) -> tuple[int, ...]:
    return shape if axis is None else (*shape[:axis], *shape[axis + 1 :])
