"""Data frames of pandas and polars, read in slices."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from backtrace_jax.errors import InputError

from .rows import AtRandom, Rows


@dataclass(frozen=True, eq=False)
class Frame(AtRandom):
    """A frame.

    Attributes:
        frame: The frame, its columns called by texts.
        values: A part of one of its columns as an array, or as a list.
    """

    frame: Any = None
    values: Any = None

    def read(self, first: int, last: int, columns: Collection[str]) -> Rows:
        """As `AtRandom.read`."""
        return Rows(last - first, {name: self.values(self.frame, name, first, last) for name in columns})


def pandas_of(frame: Any) -> Frame:
    """A frame of pandas as a reader; its index is no column.

    Raises:
        InputError: When two columns have one name.
    """
    names = tuple(map(str, frame.columns))
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"two columns of the frame are called {twice!r}; rename one")
    return Frame("pandas", "the frame", names, len(frame), frame=frame.set_axis([*names], axis=1), values=_pandas)


def _pandas(frame: Any, name: str, first: int, last: int) -> Any:
    column = frame[name].iloc[first:last]
    if column.dtype.name == "category":
        column = column.astype(column.cat.categories.dtype)
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "biuf":
        return column.to_numpy()
    plain = getattr(column.dtype, "numpy_dtype", None)  # of nullable types, and of those of Arrow
    if plain is not None and plain.kind in "biuf" and not column.hasnans:
        return column.to_numpy(dtype=plain)
    missing = column.isna().to_numpy()
    return [None if none else value for value, none in zip(column.tolist(), missing, strict=True)]


def polars_of(frame: Any) -> Frame:
    """A frame of polars as a reader.

    Raises:
        InputError: For a lazy one, which would be computed anew for each slice.
    """
    if type(frame).__name__ == "LazyFrame":
        raise InputError(
            "a LazyFrame would be computed for each slice; pass .collect(), or a file by .sink_parquet(...)"
        )
    return Frame("polars", "the frame", tuple(frame.columns), len(frame), frame=frame, values=_polars)


def _polars(frame: Any, name: str, first: int, last: int) -> Any:
    column = frame.get_column(name).slice(first, last - first)
    if (column.dtype.is_numeric() and not column.dtype.is_decimal()) or column.dtype.is_(_boolean()):
        return column.to_numpy() if not column.null_count() or column.dtype.is_float() else column.to_list()
    if type(column.dtype).__name__ == "Array" and not column.null_count():
        return column.to_numpy()
    if column.dtype.is_decimal():
        return [None if value is None else float(value) for value in column.to_list()]
    return column.to_list()


def _boolean() -> Any:
    import polars

    return polars.Boolean
