"""Arrow tables in memory and in files (Parquet, Feather, Arrow): read in slices, columns as NumPy has them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from backtrace_jax.errors import BacktraceError, InputError
from backtrace_jax.errors.arguments import shown_path
from backtrace_jax.errors.libraries import library
from backtrace_jax.runtime.unpacking import check_unpacked

from .rows import AtRandom, Reached, Rows

PARQUET = (".parquet", ".pq")
IPC = (".arrow", ".feather", ".ipc")
BATCH = 4096
"""Rows that are decoded at a time."""
_PAGE = 2**16


def needed(path: Path) -> Any:
    """The library.

    Raises:
        MissingDependencyError: When it is not installed.
    """
    return library("pyarrow", f"reading {shown_path(path)} needs pyarrow", "pip install pyarrow")


def values_of(column: Any) -> Any:
    """A column of Arrow as an array where it holds numbers of one shape, else as a list; None where one is missing."""
    import pyarrow as pa

    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    kind = column.type
    if pa.types.is_dictionary(kind):
        return values_of(column.dictionary_decode())
    if pa.types.is_decimal(kind):
        return values_of(column.cast(pa.float64()))
    numeric = pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    if numeric and (not column.null_count or pa.types.is_floating(kind)):
        return column.to_numpy(zero_copy_only=False)
    nested = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return _nested(column) if nested and not column.null_count else column.to_pylist()


def _nested(column: Any) -> Any:
    """Lists without missing ones: an array where all are of one length, else one value for each."""
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    inner = values_of(column.flatten())
    if isinstance(inner, np.ndarray) and len(set(lengths.tolist())) == 1:
        return inner.reshape((len(column), int(lengths[0]), *inner.shape[1:]))
    ends = np.cumsum(lengths)
    return [inner[end - length : end] for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)]


def rows_of(table: Any, columns: Collection[str]) -> Rows:
    """Rows of a table or a batch."""
    return Rows(table.num_rows, {name: values_of(table.column(name)) for name in columns})


def names_of(schema: Any, called: str) -> tuple[str, ...]:
    """Names of columns.

    Raises:
        InputError: When two have one name.
    """
    names = tuple(map(str, schema.names))
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"two columns of {called} are called {twice!r}; rename one")
    return names


@dataclass(frozen=True, eq=False)
class Table(AtRandom):
    """A table in memory, or memory-mapped.

    Attributes:
        table: The table.
    """

    table: Any = None

    def read(self, first: int, last: int, columns: Collection[str]) -> Rows:
        """As `AtRandom.read`."""
        return rows_of(self.table.slice(first, last - first), columns)


def table_of(table: Any) -> Table:
    """A table of pyarrow as a reader."""
    import pyarrow as pa

    table = pa.Table.from_batches([table]) if isinstance(table, pa.RecordBatch) else table
    called = "the table"
    return Table("table", called, names_of(table.schema, called), table.num_rows, table=table)


@dataclass(frozen=True, eq=False)
class Part:
    """What is decoded from its beginning: a row group of a Parquet file, a batch of an Arrow file.

    Attributes:
        path: The file.
        number: Which of its parts.
        first: The first of its rows, in the whole.
        count: How many it has.
    """

    path: Path
    number: int
    first: int
    count: int


@dataclass(frozen=True, eq=False)
class Files(AtRandom):
    """Files of tables, one behind the other, decoded in small batches.

    Reading on from where the last one ended goes on with its decoder; anywhere else starts at the beginning of a part.

    Attributes:
        parts: Their parts.
    """

    parts: tuple[Part, ...] = ()
    _reached: Reached = field(default_factory=Reached)

    def read(self, first: int, last: int, columns: Collection[str]) -> Rows:
        """As `AtRandom.read`."""
        import pyarrow as pa

        names = [*columns]
        with self._reached.lock:
            at, batches, rest = self._reached.state.pop("at", (None, None, None))
            if at != (first, names):
                batches, rest = self._batches(first, names), None
            found, missing = [], last - first
            while missing:
                batch = next(batches) if rest is None else rest
                found.append(batch.slice(0, missing))
                rest = batch.slice(missing) if batch.num_rows > missing else None
                missing -= found[-1].num_rows
            self._reached.state["at"] = (last, names), batches, rest
        return rows_of(pa.Table.from_batches(found), columns)

    def _batches(self, first: int, names: Sequence[str]) -> Iterator[Any]:
        """What is decoded from a row on."""
        for part in self.parts:
            if part.first + part.count <= first:
                continue
            skipped = max(first - part.first, 0)
            for batch in _decoded(part, names):
                if batch.num_rows > skipped:
                    yield batch.slice(skipped)
                skipped = max(skipped - batch.num_rows, 0)


def _decoded(part: Part, names: Sequence[str]) -> Iterator[Any]:
    """Batches of a part.

    Raises:
        InputError: When it is damaged.
    """
    count = 0
    try:
        for batch in _FORMATS[part.path.suffix.lower() in PARQUET].batches(part, names):
            count += batch.num_rows
            yield batch
    except BacktraceError:
        raise
    except Exception as error:  # of the library: about anything, where bytes are not as they should be
        raise InputError(f"'{shown_path(part.path)}' is damaged: {error!s:.150}") from error
    if count != part.count:
        raise InputError(f"'{shown_path(part.path)}' holds {count} rows where it says {part.count}; it was changed")


class _Parquet:
    """Parquet: parts are row groups."""

    @staticmethod
    def opened(path: Path) -> tuple[Any, list[int]]:
        """Its schema, and the rows of each part."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            groups = [file.metadata.row_group(n) for n in range(file.metadata.num_row_groups)]
            check_unpacked(max((group.total_byte_size for group in groups), default=0), path.stat().st_size)
            return file.schema_arrow, [group.num_rows for group in groups]

    @staticmethod
    def batches(part: Part, names: Sequence[str]) -> Iterator[Any]:
        """What it holds."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(part.path, buffer_size=_PAGE, pre_buffer=False) as file:  # by pages, not whole columns
            yield from file.iter_batches(BATCH, row_groups=[part.number], columns=[*names], use_threads=False)


class _Ipc:
    """Arrow's own format, as a file or as a stream: parts are batches."""

    @staticmethod
    def _open(path: Path) -> Any:
        import pyarrow as pa

        try:
            return pa.ipc.open_file(pa.memory_map(str(path)))
        except pa.ArrowInvalid:
            return _Listed(pa.ipc.open_stream(pa.memory_map(str(path))))

    @staticmethod
    def opened(path: Path) -> tuple[Any, list[int]]:
        """Its schema, and the rows of each part."""
        file = _Ipc._open(path)
        return file.schema, [file.get_batch(n).num_rows for n in range(file.num_record_batches)]

    @staticmethod
    def batches(part: Part, names: Sequence[str]) -> Iterator[Any]:
        """What it holds."""
        yield _Ipc._open(part.path).get_batch(part.number).select([*names])


class _Listed:
    """A stream in a file, as if it were one of batches at random: they are mapped, not read."""

    def __init__(self, stream: Any) -> None:
        self.schema, self._batches = stream.schema, [*stream]
        self.num_record_batches = len(self._batches)

    def get_batch(self, number: int) -> Any:
        return self._batches[number]


_FORMATS: dict[bool, Any] = {True: _Parquet, False: _Ipc}


def files_of(paths: Sequence[Path], called: str) -> Files:
    """Files of tables as a reader.

    Raises:
        InputError: When one is damaged, or has other columns than the first.
        MissingDependencyError: When pyarrow is not installed.
    """
    needed(paths[0])
    parts: list[Part] = []
    schema, count = None, 0
    for path in paths:
        own, rows = _opened(path)
        schema = own if schema is None else schema
        _check_same(schema, own, paths[0], path)
        for number, size in enumerate(rows):
            parts += [Part(path, number, count, size)] if size else []
            count += size
    kind = "parquet" if paths[0].suffix.lower() in PARQUET else "arrow"
    return Files(kind, called, names_of(schema, called), count, parts=tuple(parts))


def _opened(path: Path) -> tuple[Any, list[int]]:
    try:
        return _FORMATS[path.suffix.lower() in PARQUET].opened(path)
    except BacktraceError as error:
        raise InputError(f"'{shown_path(path)}' cannot be read: {error}") from error
    except Exception as error:  # of the library: about anything, where bytes are not as they should be
        what = "Parquet" if path.suffix.lower() in PARQUET else "Arrow or Feather (version 2)"
        raise InputError(f"'{shown_path(path)}' cannot be read as {what}: {error!s:.150}") from error


def _check_same(first: Any, own: Any, first_path: Path, path: Path) -> None:
    """Refuse a file whose columns are others than those of the first."""
    for name in first.names:
        if name not in own.names:
            raise InputError(f"'{shown_path(path)}' has no column {name!r}, which {first_path.name} has")
        if not own.field(name).type.equals(first.field(name).type):
            raise InputError(
                f"column {name!r} holds {own.field(name).type} in '{shown_path(path)}', {first.field(name).type} in "
                f"{first_path.name}; write them with one schema"
            )
