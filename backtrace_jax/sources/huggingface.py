"""Datasets of the library `datasets`: those at random are Arrow tables, the iterable ones streams."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from backtrace_jax.errors import InputError
from backtrace_jax.ir.imported import InputType

from .arrow import rows_of
from .items import GATHERED, items_of, stream_of
from .rows import AtRandom, Reader, Rows, Stream


@dataclass(frozen=True, eq=False)
class Mapped(AtRandom):
    """A dataset at random, read as Arrow holds it: exactly, whatever format it would be given out in.

    Attributes:
        dataset: The dataset.
    """

    dataset: Any = None

    def read(self, first: int, last: int, columns: Collection[str]) -> Rows:
        """As `AtRandom.read`."""
        names = [*columns]
        if not names:
            return Rows(last - first, {})
        return rows_of(self.dataset.select_columns(names).with_format("arrow")[first:last], names)


def mapped_of(dataset: Any, declared: Sequence[InputType]) -> Reader:
    """A dataset at random as a reader; one that a function of the user's transforms is read by it.

    Raises:
        InputError: When it is empty.
    """
    if dataset.format["type"] == "custom":
        return items_of("datasets", dataset, declared)
    called = "the Dataset"
    columns = tuple(name for name in dataset.column_names if name in (dataset.format["columns"] or ()))
    return Mapped("datasets", called, columns, len(dataset), dataset=dataset)


def streamed_of(dataset: Any, declared: Sequence[InputType]) -> Stream:
    """An iterable dataset as a reader.

    Raises:
        InputError: When it ends at once.
    """
    return stream_of("datasets", dataset.iter(batch_size=GATHERED), declared, "the IterableDataset")


def refuse_splits(given: Any, declared: Sequence[InputType]) -> Reader:
    """Refuse several datasets in one.

    Raises:
        InputError: Naming them.
    """
    names = ", ".join(map(str, given))
    raise InputError(
        f"a {type(given).__name__} holds several datasets: {names!s:.100}; pass one: source[{next(iter(given), '')!r}]"
    )
