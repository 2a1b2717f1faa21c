"""Columns as a source: a reader gives rows, makers turn columns into inputs, and what failed is kept apart."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .protocol import Examples, Group, Schema, Typed
from .rows import Reader, Rows
from .values import Made, Maker, carried_column


@dataclass(frozen=True, eq=False)
class Columnar:
    """Columns of a reader as a source.

    Attributes:
        schema: What is known of them.
        count: How many examples there are; None for a stream.
        reader: What reads rows.
        makers: What makes inputs of them.
        carried: By the name that it has then, the column that is carried, and its type.
        limit: Examples that are taken of a stream; None: all.
    """

    schema: Schema
    count: int | None
    reader: Reader
    makers: tuple[Maker, ...]
    carried: Mapping[str, tuple[str, Typed]]
    limit: int | None

    def read(self, first: int, last: int) -> Examples:
        """Examples from `first` to before `last`."""
        return self._examples(self.reader.read(first, last, self._columns()))

    def stream(self) -> Iterator[Examples]:
        """Examples from the front."""
        left = self.limit
        for rows in self.reader.stream(self._columns()):
            rows = rows if left is None else rows.first(left)
            yield self._examples(rows)
            left = None if left is None else left - rows.count
            if left == 0:
                return

    def example(self) -> Examples:
        """The first examples; a stream gives them again."""
        return self._examples(self.reader.sample())

    def _columns(self) -> list[str]:
        needed = [name for maker in self.makers for name in maker.needs()]
        return [*dict.fromkeys([*needed, *(column for column, _ in self.carried.values())])]

    def _examples(self, rows: Rows) -> Examples:
        made, failed = [maker.make(rows) for maker in self.makers], dict(rows.failed)
        carried = {name: carried_column(rows, *each, failed) for name, each in self.carried.items()}
        for each in made:
            failed = {**each.failed, **failed}
            carried |= each.carried
        if failed:
            carried = {name: _emptied(array, [*failed]) for name, array in carried.items()}
        return Examples(rows.count, _groups(rows.count, made, failed), carried, dict(sorted(failed.items())))


def _emptied(array: np.ndarray, places: list[int]) -> np.ndarray:
    found = np.array(array)
    found[places] = np.zeros((), array.dtype)
    return found


def _groups(count: int, made: Sequence[Made], failed: Collection[int]) -> tuple[Group, ...]:
    """Examples of equal shapes: one group for each combination of lengths."""
    good = np.array([place for place in range(count) if place not in failed], np.int64)
    none = np.zeros(count, np.int64)
    keys = np.stack([none if each.lengths is None else each.lengths for each in made], axis=1)
    found = []
    for key in sorted({tuple(row) for row in keys[good].tolist()}):
        places = good[(keys[good] == key).all(axis=1)]
        inputs = [each.part(places, length) for each, length in zip(made, key, strict=True)]
        found.append(Group(places, {name: array for each in inputs for name, array in each.items()}))
    return tuple(found)
