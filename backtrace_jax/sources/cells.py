"""Tables of cells, .csv and .tsv: columns of numbers, and of texts where no number is among the first cells."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from backtrace_jax.errors import InputError
from backtrace_jax.errors.arguments import shown_path

from .lines import LineFiles, Lines
from .rows import SAMPLED, Rows

CELLS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class _Kinds:
    """What cells hold: the names of all columns, those of texts, and whether a number may be missing."""

    names: tuple[str, ...]
    texts: frozenset[str]
    strict: bool


def cells_in(paths: Sequence[Path], called: str, *, strict: bool = False) -> LineFiles:
    """Files of cells as a reader; the first row holds the names of columns where none of them is a number.

    Args:
        paths: The files.
        called: What to call them.
        strict: Whether every cell has to be a number; otherwise columns may hold texts, and numbers may be missing.

    Raises:
        InputError: When they cannot be read, or have different columns.
    """
    files = tuple(Lines.of(path, cells=True) for path in paths)
    heads = [_parsed(lines, 0, 1)[0] if len(lines) else [] for lines in files]
    header = bool(heads[0]) and not any(map(is_number, heads[0]))
    names = tuple(cell.strip() for cell in heads[0]) if header else tuple(map(str, range(len(heads[0]))))
    for path, head in zip(paths, heads, strict=True):
        _check_head(names, [cell.strip() for cell in head] if header else [*map(str, range(len(head)))], path)
    texts = frozenset() if strict else frozenset(_text_columns(files, header, names))
    count = sum(len(lines) - header for lines in files)
    rows = partial(_rows, of=_Kinds(names, texts, strict))
    kind = paths[0].suffix.lower()[1:]
    return Cells(
        kind,
        called,
        names,
        count,
        frozenset() if header else frozenset(names),
        True,
        files=files,
        skipped=int(header),
        rows=rows,
    )


class Cells(LineFiles):
    """Files of cells; columns whose first cells are whole numbers are of whole numbers."""

    def sample(self) -> Rows:
        """As `AtRandom.sample`."""
        rows = self.read(0, min(self.count, _KNOWN), self.columns)
        whole = {name: _whole(column) for name, column in rows.columns.items()}
        return replace(rows, columns=whole).first(SAMPLED)


_KNOWN = 1024
"""Rows by which it is known what a column holds."""


def _whole(column: np.ndarray | list) -> np.ndarray | list:
    if isinstance(column, list) or not (np.isfinite(column) & (column == np.round(column))).all():
        return column
    return column.astype(np.int64)


def is_number(cell: str) -> bool:
    """Whether a cell holds a number that a float is exact enough for; a long number is a name."""
    try:
        number = float(cell)
    except ValueError:
        return False
    if "_" in cell:  # Python's own way to group digits
        return False
    return abs(number) < _LONG or not cell.strip().lstrip("+-").isdigit()


_LONG = 2**53  # from here on floats leave whole numbers out


def _check_head(names: Sequence[str], own: Sequence[str], path: Path) -> None:
    where = f"'{shown_path(path)}'"
    if twice := next((name for name in own if [*own].count(name) > 1), None):
        raise InputError(f"two columns of {where} are called {twice!r}; rename one")
    if [*own] != [*names]:
        other = next(
            (f"{b!r} where it has {a!r}" for a, b in zip(names, own, strict=False) if a != b), f"{len(own)} of them"
        )
        raise InputError(f"the columns of {where} are not those of the first file: {other}; write all with one header")


def _text_columns(files: Sequence[Lines], header: bool, names: Sequence[str]) -> list[str]:
    """Columns without a number in the first rows."""
    lines = next((lines for lines in files if len(lines) > header), None)
    if lines is None:
        return []
    found = _parsed_each(lines, int(header), min(len(lines), _KNOWN + header))
    rows = [row for row in found if isinstance(row, list) and len(row) == len(names)]
    return [
        name
        for name, cells in zip(names, zip(*rows, strict=True), strict=False)
        if any(cell.strip() for cell in cells) and not any(map(is_number, cells))
    ]


def _parsed(lines: Lines, first: int, last: int) -> list[list[str]]:
    """Rows of cells.

    Raises:
        InputError: When they are no cells.
    """
    delimiter = CELLS[lines.path.suffix.lower()]
    try:
        text = lines.data(first, last).decode()
        return [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        suffix = lines.path.suffix
        raise InputError(
            f"'{shown_path(lines.path)}' cannot be read as a table: {error}; save it as UTF-8 {suffix}"
        ) from error


def _rows(lines: Lines, first: int, last: int, columns: Sequence[str], *, of: _Kinds) -> Rows:
    """Lines as rows: at once where all is well, else one by one, so that it is known which are not."""
    if not of.texts and (numbers := _numbers(lines, first, last, len(of.names))) is not None:
        return Rows(last - first, {name: numbers[:, of.names.index(name)] for name in columns})
    found, failed = [], {}
    for place, cells in enumerate(_parsed_each(lines, first, last)):
        try:
            found.append(_row(cells, f"'{shown_path(lines.path)}', row {first + place + 1}", of))
        except InputError as error:
            failed[place] = str(error)
            found.append({})
    values = {name: [row.get(name) for row in found] for name in columns}
    typed = {name: each if name in of.texts else _floats(each) for name, each in values.items()}
    return Rows(last - first, typed, failed)


def _floats(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _numbers(lines: Lines, first: int, last: int, width: int) -> np.ndarray | None:
    """Rows of numbers, [rows, columns]; None where some of them are none."""
    delimiter = CELLS[lines.path.suffix.lower()]
    try:
        data = io.StringIO(lines.data(first, last).decode(), newline="")
        found = np.loadtxt(data, np.float64, comments=None, delimiter=delimiter, quotechar='"', ndmin=2)
    except ValueError:
        return None
    exact = found.shape == (last - first, width) and not (np.abs(found) >= _LONG).any()
    return found if exact else None


def _parsed_each(lines: Lines, first: int, last: int) -> list[list[str] | InputError]:
    """The cells of each line, or what is wrong with it."""
    with suppress(InputError):
        found = _parsed(lines, first, last)
        if len(found) == last - first:
            return [*found]
    return [_parsed_one(lines, number) for number in range(first, last)]


def _parsed_one(lines: Lines, number: int) -> list[str] | InputError:
    try:
        return next(iter(_parsed(lines, number, number + 1)), [])
    except InputError as error:
        return error


def _row(cells: list[str] | InputError, where: str, of: _Kinds) -> dict[str, float | str | None]:
    """The cells of one row by column; an empty one is missing.

    Raises:
        InputError: When there are too few or too many, or one is no number.
    """
    if isinstance(cells, InputError):
        raise cells
    if len(cells) != len(of.names):
        raise InputError(f"{where}: {len(cells)} cells where the first row has {len(of.names)}")
    found: dict[str, float | str | None] = {}
    for column, (name, cell) in enumerate(zip(of.names, cells, strict=True), 1):
        if name in of.texts or is_number(cell):
            found[name] = cell if name in of.texts else float(cell)
        elif cell.strip() or of.strict:
            wrong = repr(cell) if cell.strip() else "an empty cell"
            advice = "cells are numbers with a decimal point, and only the first row may hold names"
            raise InputError(f"{where}, column {column}: {wrong} is not a number; {advice}")
    return found
