"""Text files of one example a line: texts, JSON records. Where each line begins is noted once."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backtrace_jax.errors import InputError
from backtrace_jax.errors.arguments import check_plain_file, shown_path
from backtrace_jax.errors.texts import shown

from .rows import SAMPLED, AtRandom, Rows, by_row

TEXTS = (".txt",)
RECORDS = (".jsonl", ".ndjson")
LONGEST_LINE = 2**26
"""Bytes of one line; longer ones are refused, since each has to be in memory as a whole."""
_BLOCK = 2**22


@dataclass(frozen=True, eq=False)
class Lines:
    """Where the lines of a file are.

    Attributes:
        path: The file.
        starts: [lines + 1], the byte at which each begins, and the end of the last.
    """

    path: Path
    starts: np.ndarray

    @classmethod
    def of(cls, path: Path, *, cells: bool = False) -> Lines:
        """The lines of a file; of cells, ends of lines within quotes are none, and empty lines do not count.

        Raises:
            InputError: When the file cannot be read, or a line is too long.
        """
        check_plain_file(path, InputError)
        try:
            starts = np.concatenate([np.zeros(1, np.int64), *_ends(path, quoted=cells)])
        except OSError as error:
            raise InputError(f"'{shown_path(path)}' cannot be read: {error.strerror}") from error
        size = path.stat().st_size
        starts = starts if starts[-1] == size else np.append(starts, size)
        if len(starts) > 1 and (widest := int(np.diff(starts).max())) > LONGEST_LINE:
            raise InputError(f"'{shown_path(path)}' has a line of {widest} bytes; it is to hold one example a line")
        return cls(path, _without_empty(path, starts) if cells and size else starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def data(self, first: int, last: int) -> bytes:
        """Lines from `first` to before `last`."""
        with open(self.path, "rb") as file:
            file.seek(int(self.starts[first]))
            data = file.read(int(self.starts[last] - self.starts[first]))
        return data.removeprefix(b"\xef\xbb\xbf") if first == 0 else data


def _ends(path: Path, *, quoted: bool) -> Iterator[np.ndarray]:
    """Where lines end, block by block."""
    at, within = 0, 0
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            data = np.frombuffer(block, np.uint8)
            ends = data == ord("\n")
            if quoted:
                inside = (np.cumsum(data == ord('"')) + within) % 2 == 1
                ends, within = ends & ~inside, int(inside[-1])
            yield np.flatnonzero(ends) + at + 1
            at += len(block)


def _without_empty(path: Path, starts: np.ndarray) -> np.ndarray:
    """The same without lines that hold nothing but their end; they become part of the line before."""
    data, sizes = np.memmap(path, np.uint8, "r"), np.diff(starts)
    first = data[starts[:-1]]
    empty = ((sizes == 1) & (first == ord("\n"))) | ((sizes == 2) & (first == ord("\r")))
    return np.append(starts[:-1][~empty], starts[-1])


@dataclass(frozen=True, eq=False)
class LineFiles(AtRandom):
    """Files of lines, one behind the other.

    Attributes:
        files: Where the lines are.
        skipped: Lines at the beginning of each file that are no examples.
        rows: Lines from the first to before the last of a file to rows of some columns.
    """

    files: tuple[Lines, ...] = ()
    skipped: int = 0
    rows: Any = None

    def read(self, first: int, last: int, columns: Collection[str]) -> Rows:
        """As `AtRandom.read`."""
        found, at = [], 0
        for lines in self.files:
            size = len(lines) - self.skipped
            begin, end = max(first - at, 0), min(last - at, size)
            if begin < end:
                found.append(self.rows(lines, begin + self.skipped, end + self.skipped, [*columns]))
            at += size
        return found[0] if len(found) == 1 else _joined(found, columns)


def _joined(found: Sequence[Rows], columns: Collection[str]) -> Rows:
    """Rows of several files as one."""
    failed, at = {}, 0
    for rows in found:
        failed |= {at + place: reason for place, reason in rows.failed.items()}
        at += rows.count
    return Rows(at, {name: _chained([rows.columns[name] for rows in found]) for name in columns}, failed)


def _chained(parts: Sequence[Any]) -> Any:
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts)
    return [value for part in parts for value in part]


def _decoded(lines: Lines, first: int, last: int) -> Iterator[tuple[int, str, str]]:
    """The place, text and fault of each line."""
    for place, line in enumerate(lines.data(first, last).split(b"\n")[: last - first]):
        try:
            yield place, line.removesuffix(b"\r").decode(), ""
        except UnicodeDecodeError:
            yield place, "", f"line {first + place + 1} of '{shown_path(lines.path)}' is not UTF-8"


def texts_in_lines(paths: Sequence[Path], called: str) -> LineFiles:
    """Lines that are texts: the column `text`."""
    files = tuple(map(Lines.of, paths))
    return LineFiles("text lines", called, ("text",), sum(map(len, files)), files=files, rows=_texts)


def _texts(lines: Lines, first: int, last: int, columns: Sequence[str]) -> Rows:
    found = [*_decoded(lines, first, last)]
    texts = [text for _, text, _ in found]
    return Rows(last - first, dict.fromkeys(columns, texts), {place: fault for place, _, fault in found if fault})


def records_in_lines(paths: Sequence[Path], called: str) -> LineFiles:
    """Lines that are records of JSON; the columns are those of the first lines.

    Raises:
        InputError: When none of the first lines is a record.
    """
    files = tuple(map(Lines.of, paths))
    known: dict[str, None] = {}
    for lines in files:
        known |= {name: None for record, _ in _records(lines, 0, min(len(lines), SAMPLED)) for name in record}
    if not known and any(map(len, files)):
        raise InputError(f"{called} holds no records of JSON, one a line: {{...}}")
    return LineFiles("jsonl", called, tuple(known), sum(map(len, files)), untyped=True, files=files, rows=_of_records)


def _of_records(lines: Lines, first: int, last: int, columns: Sequence[str]) -> Rows:
    found = _records(lines, first, last)
    values = {name: by_row([record.get(name) for record, _ in found]) for name in columns}
    return Rows(last - first, values, {place: fault for place, (_, fault) in enumerate(found) if fault})


def _records(lines: Lines, first: int, last: int) -> list[tuple[dict[str, Any], str]]:
    """Lines as records, and what is wrong with each."""
    return [
        ({}, fault) if fault else _record(text, lines, first + place)
        for place, text, fault in _decoded(lines, first, last)
    ]


def _record(text: str, lines: Lines, number: int) -> tuple[dict[str, Any], str]:
    where = f"line {number + 1} of '{shown_path(lines.path)}'"
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return {}, f"{where} is no JSON: {error!s:.100}"
    return (value, "") if isinstance(value, dict) else ({}, f"{where} is no record, but {shown(value)}")
