"""What global views say of a whole dataset: tables of means by unit and predicted class, and how they are printed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from backtrace_jax.errors.libraries import DATASETS, library
from backtrace_jax.errors.texts import printable, shown
from backtrace_jax.explanation.describe import number, position
from backtrace_jax.explanation.ledger import COLUMNS, Named

if TYPE_CHECKING:
    import xarray

FEATURE, CHANNEL, TOKEN, VALUE = "feature", "channel", "token", "value"
"""What the units of a table are: values of an input, channels, tokens of a vocabulary, or a value as a whole."""

_LISTED, _VALUES_LISTED, _TABLES_LISTED = 10, 20, 8  # units of a table, whole values, and tables that are printed
_TOPS_LISTED = 3
_CLASSES_LISTED = 12


_AXES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("count", "mean", "magnitude"), ()),
    **dict.fromkeys(("mean_by_class", "magnitude_by_class"), ("class",)),
    **dict.fromkeys(("top_examples", "top_relevance"), ("rank",)),
}
"""The arrays of a table, and their axes in front of the units."""


@dataclass(frozen=True, eq=False)
class Table:
    """Means over all examples, by unit.

    Attributes:
        kind: What the units are: "feature", "channel", "token" or "value".
        of: Name of the input or layer.
        layer: Whether it is a layer.
        shape: Shape of the relevance of one example; features are its entries, in order.
        labels: Names of the units; empty where they have none.
        count: [units], what the means are of: examples, or occurrences of a token.
        mean: [units], mean of the relevance: per example the sum over the unit's entries, per occurrence of a token.
        magnitude: [units], mean of the sum of |relevance| over the unit's entries.
        mean_by_class: [classes, units], the mean over the examples for which this class was predicted; NaN where there
            are none. None where classes are not told apart.
        magnitude_by_class: [classes, units], likewise.
        top_examples: [k, units], numbers of the examples in which a feature has the largest |relevance|, largest first,
            the earlier example where two are equal; -1 where there are fewer. None but for features.
        top_relevance: [k, units], their relevance.
    """

    kind: str
    of: str
    layer: bool
    shape: tuple[int, ...]
    labels: tuple[str, ...]
    count: np.ndarray
    mean: np.ndarray
    magnitude: np.ndarray
    mean_by_class: np.ndarray | None = None
    magnitude_by_class: np.ndarray | None = None
    top_examples: np.ndarray | None = None
    top_relevance: np.ndarray | None = None

    @property
    def axis(self) -> str:
        """What the axis of its units is called."""
        return f"{self.kind}.layers.{self.of}" if self.layer else f"{self.kind}.{self.of}"

    def variables(self) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
        """Its arrays with the names of their axes."""
        found = {f"{self.axis}.{name}": ((*axes, self.axis), getattr(self, name)) for name, axes in _AXES.items()}
        return {name: variable for name, variable in found.items() if variable[1] is not None}

    def name(self, unit: int) -> str:
        """What a unit is called."""
        if self.labels:
            return printable(self.labels[unit])
        if self.kind == VALUE:
            return printable(self.of)
        return position(self.of, unit, self.shape) if self.kind == FEATURE else f"{self.kind} {unit}"

    def largest(self, count: int) -> list[int]:
        """The units of largest mean magnitude."""
        return [int(unit) for unit in np.argsort(-np.nan_to_num(self.magnitude), kind="stable")[:count]]

    def __repr__(self) -> str:
        """What it is about."""
        return f"Table({len(self.mean)} x {self.kind} of {printable(self.of)!r})"


@dataclass(frozen=True, eq=False)
class Summary:
    """What the relevance of a dataset adds up to; printed as a short report.

    Attributes:
        examples: How many examples were explained; those that failed are in no mean.
        by_class: [classes], how many were predicted to be of each class. None where the output is no row of classes.
        tables: The means.
        ledger: [2, 6] float64, totals of the ledgers of all examples, signed and absolute, columns as in a `Ledger`.
            None where there are no books.
    """

    examples: int
    by_class: np.ndarray | None
    tables: tuple[Table, ...]
    ledger: np.ndarray | None

    @property
    def features(self) -> dict[str, Table]:
        """Means by value of an input, by name of the input."""
        return self._of_kind(FEATURE)

    @property
    def channels(self) -> dict[str, Table]:
        """Means by channel, by name of the input or layer (`layers.x` where an input has the layer's name)."""
        return self._of_kind(CHANNEL)

    @property
    def tokens(self) -> dict[str, Table]:
        """Means by token id, by name of the input."""
        return self._of_kind(TOKEN)

    @property
    def values(self) -> dict[str, Table]:
        """Means of whole inputs and layers, by their names, as those of `channels`."""
        return self._of_kind(VALUE)

    def open(self) -> xarray.Dataset:
        """All tables as one dataset: `feature.x.mean`, `channel.layers.conv1.magnitude_by_class`, ..., `ledger`.

        Raises:
            MissingDependencyError: When xarray is not installed.
        """
        xarray = library("xarray", "open() needs xarray", DATASETS)
        found = {name: array for table in self.tables for name, array in table.variables().items()}
        if self.by_class is not None:
            found["by_class"] = ("class",), self.by_class
        if self.ledger is not None:
            found["ledger"] = ("sums", "column"), self.ledger
        names = {"sums": ["signed", "absolute"], "column": [*COLUMNS]} if self.ledger is not None else {}
        return xarray.Dataset(found, coords=names | self._labels(), attrs={"examples": self.examples})

    def _labels(self) -> dict[str, list[str]]:
        """The names of units that have some."""
        return {table.axis: [*table.labels] for table in self.tables if table.labels}

    def _of_kind(self, kind: str) -> dict[str, Table]:
        tables = [table for table in self.tables if table.kind == kind]
        found = {table.of: table for table in tables if not table.layer}
        layers = {table.of: table for table in tables if table.layer}
        return Named(found | {f"layers.{name}" if name in found else name: table for name, table in layers.items()})

    def __str__(self) -> str:
        """A short report: examples, ledger, and of each table the units that count most."""
        values = [table for table in self.tables if table.kind == VALUE]
        others = [table for table in self.tables if table.kind != VALUE]
        shown = values[:_VALUES_LISTED]
        heading = "relevance" if len(shown) == len(values) else f"relevance (first {len(shown)} of {len(values)})"
        parts = [self._counts(), *self._books(), _listing(heading, [(table, 0) for table in shown])]
        parts += [
            _listing(_heading(table), [(table, unit) for unit in table.largest(_LISTED)])
            for table in others[:_TABLES_LISTED]
        ]
        return "\n\n".join(parts)

    def __repr__(self) -> str:
        """How much there is."""
        return f"Summary({self.examples} examples, {len(self.tables)} tables)"

    def _counts(self) -> str:
        line = f"examples     {self.examples}"
        if self.by_class is None:
            return line
        most = [
            int(each) for each in np.argsort(-self.by_class, kind="stable")[:_CLASSES_LISTED] if self.by_class[each]
        ]
        listed = ", ".join(f"{each}: {self.by_class[each]}" for each in sorted(most))
        more = ", ..." if np.count_nonzero(self.by_class) > len(most) else ""
        return f"{line}\npredicted    {listed or 'none'}{more}"

    def _books(self) -> Iterator[str]:
        if self.ledger is None or not self.examples:
            return
        lines = [f"{'ledger, mean':<14}  {'signed':>12}  {'absolute':>12}"]
        for name, (signed, absolute) in zip(COLUMNS, (self.ledger / self.examples).T, strict=True):
            lines.append(f"  {name:<12}  {number(signed):>12}  {number(absolute).lstrip('+'):>12}")
        yield "\n".join(lines)


def means(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Sums divided by how many there are; NaN where there are none."""
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def _heading(table: Table) -> str:
    every = f" (largest of {len(table.mean)})" if len(table.mean) > _LISTED else ""
    return f"{table.kind}s of {shown(table.of)}{every}"


def _listing(heading: str, entries: list[tuple[Table, int]]) -> str:
    names = [table.name(unit) for table, unit in entries]
    width = max(len(heading) - 2, *map(len, names)) if names else len(heading)
    lines = [f"{heading:<{width + 2}}  {'mean':>12}  {'magnitude':>12}"]
    for name, (table, unit) in zip(names, entries, strict=True):
        mean, size = number(table.mean[unit]), number(table.magnitude[unit]).lstrip("+")
        lines.append(f"  {name:<{width}}  {mean:>12}  {size:>12}{_tops(table, unit)}")
    return "\n".join(lines)


def _tops(table: Table, unit: int) -> str:
    if table.top_examples is None:
        return ""
    found = [str(each) for each in table.top_examples[:_TOPS_LISTED, unit] if each >= 0]
    return f"  most in {', '.join(found)}" if found else ""
