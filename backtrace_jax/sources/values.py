"""From columns to inputs: numbers are checked example by example, so that a bad one is known by place and reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backtrace_jax.errors import InputError
from backtrace_jax.errors.texts import shown

from .protocol import Typed
from .rows import Rows

TEXT = "str"
"""Name of the type of carried texts, whose arrays are `numpy.dtypes.StringDType`."""


@dataclass(frozen=True, eq=False)
class Made:
    """What became of rows.

    Attributes:
        arrays: By input name, one entry for each row.
        failed: By place, why there is none; what the arrays hold there says nothing.
        lengths: [rows], entries of each row that are in use along its first axis, where inputs are sequences.
        left: Whether those are the last ones, not the first.
        carried: By name, what was found out on the way, one entry for each row.
    """

    arrays: Mapping[str, np.ndarray]
    failed: Mapping[int, str]
    lengths: np.ndarray | None = None
    left: bool = False
    carried: Mapping[str, np.ndarray] = field(default_factory=dict)

    def part(self, places: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """The inputs of rows of one length."""
        if self.lengths is None:
            return {name: array[places] for name, array in self.arrays.items()}
        used = slice(-length, None) if self.left else slice(length)
        return {name: np.ascontiguousarray(array[places, used]) for name, array in self.arrays.items()}


class Maker:
    """Makes inputs from columns."""

    def needs(self) -> tuple[str, ...]:
        """Names of the columns that it makes them from."""
        raise NotImplementedError

    @property
    def inputs(self) -> Mapping[str, Typed]:
        """By the name of each input that it makes, shape and type of one example, the longest there may be."""
        raise NotImplementedError

    @property
    def carried(self) -> Mapping[str, Typed]:
        """The same of what it found out on the way."""
        return {}

    @property
    def kept(self) -> Mapping[str, tuple[str, ...] | None]:
        """Inputs that are token ids, and the word of every id, where that is known."""
        return {}

    @property
    def lengths(self) -> tuple[int, ...]:
        """What sequences are padded to, where there are several lengths."""
        return ()

    @property
    def identity(self) -> Mapping[str, Any]:
        """What it does, as JSON; "columns" are those of each input."""
        raise NotImplementedError

    def make(self, rows: Rows) -> Made:
        """The inputs of these rows."""
        raise NotImplementedError


@dataclass(frozen=True)
class Numbers(Maker):
    """An input that is a column of numbers, or columns side by side: its features."""

    input: str
    columns: tuple[str, ...]
    features: bool
    shape: tuple[int, ...]
    dtype: np.dtype

    def needs(self) -> tuple[str, ...]:
        """As `Maker.needs`."""
        return self.columns

    @property
    def inputs(self) -> Mapping[str, Typed]:
        """As `Maker.inputs`."""
        return {self.input: (self.shape, self.dtype.name)}

    @property
    def identity(self) -> Mapping[str, Any]:
        """Which columns they are."""
        return {"columns": {self.input: [*self.columns]}}

    def make(self, rows: Rows) -> Made:
        """As `Maker.make`."""
        failed: dict[int, str] = {}
        one = () if self.features else self.shape
        found = [column_of(rows, name, one, self.dtype, failed) for name in self.columns]
        return Made({self.input: np.stack(found, axis=1) if self.features else found[0]}, failed)


def column_of(rows: Rows, name: str, shape: tuple[int, ...], dtype: np.dtype, failed: dict[int, str]) -> np.ndarray:
    """A column as an array of entries of one shape and type; what does not fit is zero, and noted in `failed`."""
    values = rows.columns[name]
    if isinstance(values, np.ndarray) and _fits(values, shape, dtype):
        with np.errstate(all="ignore"):  # named where it is checked: by place here, or as the model takes it
            converted = values.astype(dtype, copy=False).reshape((rows.count, *shape))
        if (
            dtype.kind not in "iu"
            or values.dtype == dtype
            or np.array_equal(converted, values.reshape(converted.shape))
        ):
            return converted
    array = np.zeros((rows.count, *shape), dtype)
    for place in (n for n in range(rows.count) if n not in rows.failed):
        try:
            array[place] = _one(values[place], shape, dtype)
        except ValueError as error:
            failed.setdefault(place, f"column {name!r} {error}")
    return array


def _fits(values: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> bool:
    return values.shape[1:] in _shapes(shape) and (
        np.can_cast(values.dtype, dtype, "same_kind") or _quantity(values, dtype)
    )


def _shapes(shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    return (shape, ()) if shape == (1,) else (shape,)


def _quantity(values: np.ndarray, dtype: np.dtype) -> bool:
    """Whether whole numbers are written as floats."""
    return dtype.kind in "iu" and values.dtype.kind == "f"


def _one(value: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """One entry.

    Raises:
        ValueError: Saying what it is instead.
    """
    if value is None:
        if shape == () and dtype.kind == "f":
            return np.array(np.nan, dtype)
        raise ValueError("is missing")
    try:
        array = np.asarray(value)
    except Exception as error:  # of somebody else's object
        raise ValueError(f"holds {shown(value)}, no numbers") from error
    if array.dtype.kind not in "biuf" and not array.dtype.name.startswith(("bfloat", "float8")):
        raise ValueError(f"holds {shown(value)}, no numbers")
    if array.shape not in _shapes(shape):
        raise ValueError(f"has shape {list(array.shape)}, the first examples have {list(shape)}")
    with np.errstate(all="ignore"):
        converted = array.astype(dtype).reshape(shape)
    if not np.can_cast(array.dtype, dtype, "same_kind") and not _quantity(array, dtype):
        raise ValueError(f"holds {array.dtype.name}, the first examples hold {dtype.name}")
    if dtype.kind in "iu" and not np.array_equal(converted, array.reshape(shape)):
        raise ValueError(f"holds {shown(value)}, which is no {dtype.name}")
    return converted


def sampled(rows: Rows, name: str) -> Iterator[Any]:
    """Values of a column in the rows that could be read, those that are there."""
    values = rows.columns[name]
    for place in range(rows.count):
        if place not in rows.failed and values[place] is not None:
            yield values[place]


def numbers_in(
    rows: Rows, name: str, wanted: tuple[int | None, ...] | None = None
) -> tuple[tuple[int, ...], np.dtype] | None:
    """Shape and type of a column's entries; None where they are no numbers.

    Args:
        rows: A few rows.
        name: The column.
        wanted: The shape that the model takes: the first entry of such a shape tells, or else the first.
    """
    values = rows.columns[name]
    if isinstance(values, np.ndarray):
        return (values.shape[1:], values.dtype) if _is_number(values.dtype) else None
    arrays = [array for value in sampled(rows, name) if (array := as_numbers(value)) is not None]
    shape = next((array.shape for array in arrays if _takes(wanted, array.shape)), arrays[0].shape if arrays else None)
    if shape is None:
        return None
    return shape, np.result_type(*(array.dtype for array in arrays if array.shape == shape))


def as_numbers(value: Any) -> np.ndarray | None:
    """A value as numbers; None where it holds none."""
    try:
        array = np.asarray(value)
    except Exception:  # of somebody else's object
        return None
    return None if isinstance(value, str | bytes) or not _is_number(array.dtype) else array


def _takes(wanted: tuple[int | None, ...] | None, shape: tuple[int, ...]) -> bool:
    if wanted is None:
        return True
    return len(wanted) == len(shape) and all(a in (None, b) for a, b in zip(wanted, shape, strict=True))


def _is_number(dtype: np.dtype) -> bool:
    return dtype.kind in "biuf" or dtype.name.startswith(("bfloat", "float8"))


def carried_type(rows: Rows, name: str) -> Typed:
    """Shape and type of a column that is carried: numbers, or texts.

    Raises:
        InputError: When it holds neither.
    """
    if (found := numbers_in(rows, name)) is not None:
        return found[0], found[1].name
    if all(isinstance(value, str | np.str_) for value in sampled(rows, name)):
        return (), TEXT
    first = next(sampled(rows, name))
    raise InputError(f"carry: column {name!r} holds {shown(first)}; numbers, truths and texts are carried")


def carried_column(rows: Rows, name: str, typed: Typed, failed: dict[int, str]) -> np.ndarray:
    """A column that is carried; what is missing or does not fit fails its example."""
    shape, dtype = typed
    if dtype != TEXT:
        return column_of(rows, name, shape, np.dtype(dtype), failed)
    found, values = np.zeros(rows.count, np.dtypes.StringDType()), rows.columns[name]
    for place in (n for n in range(rows.count) if n not in rows.failed):
        value = values[place]
        if isinstance(value, str):
            found[place] = str(value)
        else:
            failed.setdefault(place, f"column {name!r} " + ("is missing" if value is None else f"holds {shown(value)}"))
    return found


def chosen_type(found: np.dtype, wanted: np.dtype, *, quantity: bool) -> np.dtype:
    """The type that a column is read in: its own, but that quantities are floats, or whole, as the model takes them."""
    if quantity and wanted.kind == "f" and found.kind in "biu":
        return np.dtype(np.float64)
    if quantity and wanted.kind in "iu" and found.kind == "f":
        return np.dtype(np.int64)
    return found
