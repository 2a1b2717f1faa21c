"""What an adapter does: it reads rows of named columns, as they lie in the source, before a model is thought of."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from types import MappingProxyType
from typing import Any

import numpy as np

from backtrace_jax.errors import InputError


class Reached:
    """A lock, and what a reader has reached under it; a copy, pickled or not, begins anew."""

    def __init__(self) -> None:
        """Begin."""
        self.lock, self.state = threading.Lock(), {}

    def __reduce__(self) -> tuple[type[Reached], tuple[()]]:
        return Reached, ()


@dataclass(frozen=True, eq=False)
class Rows:
    """Consecutive rows.

    Attributes:
        count: How many.
        columns: By name, an array with one entry for each row, or a list of values, None where one is missing.
        failed: By place, why a row could not be read; whatever the columns hold there says nothing.
    """

    count: int
    columns: Mapping[str, Any]
    failed: Mapping[int, str] = field(default_factory=dict)

    def first(self, count: int) -> Rows:
        """The first rows of these."""
        columns = {name: column[:count] for name, column in self.columns.items()}
        return Rows(min(count, self.count), columns, {n: reason for n, reason in self.failed.items() if n < count})


SAMPLED = 16
"""Rows that are looked at to know what a source holds, where one row does not say."""


@dataclass(frozen=True, eq=False)
class AtRandom:
    """A reader at random: what all of them share. They define `read`.

    Attributes:
        kind: Of what kind it is.
        called: What to call it in messages.
        columns: Names of its columns, in its own order; "0", "1", ... where they have places only.
        count: How many rows there are.
        placed: Those of the columns that have places only.
        untyped: Whether its numbers have no types of their own, as those of a text file.
        offered: Columns that it makes up, which nobody has to leave out.
        said: What is to be known of it beside, as JSON.
        unsteady: Why a second reading gives other rows; empty where it does not.
    """

    kind: str
    called: str
    columns: tuple[str, ...]
    count: int
    placed: frozenset[str] = frozenset()
    untyped: bool = False
    offered: frozenset[str] = frozenset()
    said: Mapping[str, Any] = field(default_factory=dict)
    unsteady: str = ""

    def read(self, first: int, last: int, columns: Collection[str]) -> Rows:
        """Rows from `first` to before `last`, of these columns; several threads may read at once."""
        raise NotImplementedError

    def stream(self, columns: Collection[str]) -> Iterator[Rows]:
        """Nothing: this is no stream.

        Raises:
            InputError: Always.
        """
        raise InputError(f"{self.called} is read at random; it is no stream")

    def sample(self) -> Rows:
        """A few rows from the front, of all columns, to see what they hold."""
        return self.read(0, min(self.count, SAMPLED), self.columns)

    def spread(self, columns: Collection[str]) -> Iterator[Rows]:
        """Rows from all over, to see how long they are."""
        if self.count <= _SPREAD * _TOGETHER:
            yield self.read(0, self.count, columns)
            return
        for number in range(_SPREAD):
            first = number * (self.count - _TOGETHER) // (_SPREAD - 1)
            yield self.read(first, first + _TOGETHER, columns)


_SPREAD, _TOGETHER = 16, 64  # places that are looked at, and rows at each


class Stream:
    """A reader of batches that come one after the other, and are read once.

    The first batch is taken when this is made, since only batches tell what they hold. Attributes are as of `AtRandom`.
    """

    count = None
    untyped = False
    offered: frozenset[str] = frozenset()
    said: Mapping[str, Any] = MappingProxyType({})
    unsteady = ""

    def __init__(self, kind: str, called: str, batches: Iterator[Rows], placed: frozenset[str] = frozenset()) -> None:
        """Take the first batch.

        Raises:
            InputError: When there is none.
        """
        self.kind, self.called, self.placed, self._batches = kind, called, placed, batches
        self._first = next((batch for batch in batches if batch.count), None)
        if self._first is None:
            raise InputError(f"{called} is empty: it ended before its first example")
        self.columns = tuple(self._first.columns)

    def read(self, first: int, last: int, columns: Collection[str]) -> Rows:
        """Nothing: this is read from the front.

        Raises:
            InputError: Always.
        """
        raise InputError(f"{self.called} is a stream, which is read from the front")

    def stream(self, columns: Collection[str]) -> Iterator[Rows]:
        """Rows from the front, of these columns, any number at a time.

        Raises:
            InputError: When it was read before, or a later batch has not all of the columns.
        """
        first, self._first = self._first, None
        if first is None:
            raise InputError(f"{self.called} was read already; a stream is read once: pass a new one")
        yield first
        for number, batch in enumerate(self._batches, 1):
            if missing := [name for name in columns if name not in batch.columns]:
                raise InputError(
                    f"{self.called}: batch {number} has no {missing[0]!r}, which the first one has; it has "
                    f"{', '.join(batch.columns)!s:.100}"
                )
            yield batch

    def sample(self) -> Rows:
        """A few rows from the front, of all columns; they come again when the stream is read."""
        assert self._first is not None
        return self._first.first(SAMPLED)

    def spread(self, columns: Collection[str]) -> Iterator[Rows]:
        """Nothing: what is to come is not known."""
        yield from ()


Reader = AtRandom | Stream


def in_batches(rows: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """What comes one by one, so many at a time; fewer at the end."""
    while batch := list(islice(rows, size)):
        yield batch


def by_row(values: list[Any]) -> Any:
    """Values of one column as an array where they are numbers of one shape, else as they are."""
    if not all(isinstance(value, _NUMBERS) for value in values):
        return values
    try:
        arrays = [np.asarray(value) for value in values]
    except (ValueError, OverflowError):  # lists of unequal lengths, numbers that no type holds
        return values
    alike = len({(array.shape, array.dtype) for array in arrays}) == 1 and arrays[0].dtype.kind in "biufc"
    return np.stack(arrays) if alike else values


_NUMBERS = (int, float, np.generic, np.ndarray, list, tuple)
