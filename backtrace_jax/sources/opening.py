"""The table of what a source can be: each kind is told by its class or its path, and only its own library is needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from backtrace_jax.batch.layout import Axes
from backtrace_jax.errors import InputError
from backtrace_jax.errors.arguments import as_path, shown_path
from backtrace_jax.errors.texts import shown
from backtrace_jax.ir.imported import InputType

from .arrays import arrays_of
from .arrow import names_of, rows_of, table_of
from .building import columnar
from .folders import files_in, kind_of, open_files
from .frames import pandas_of, polars_of
from .huggingface import mapped_of, refuse_splits, streamed_of
from .items import items_of, made_by, stream_of
from .matching import batch_first
from .protocol import Examples, Source
from .reading import Carry, Reading
from .rows import AtRandom, Reader, Rows, Stream
from .stored import ARRAYS, arrays_in, checked_zarr, is_zarr, zarr_in
from .undeclared import undeclared

_Known = Sequence[InputType]
_Open = Callable[[Any, _Known], Reader]


def _batches_of(given: Any, known: _Known) -> Stream:
    """Record batches of Arrow, one after the other."""
    called, names = f"the {type(given).__name__}", names_of(given.schema, "the batches")
    return Stream("arrow batches", called, (rows_of(batch, names) for batch in given))


def _loaded(given: Any, known: _Known) -> Stream:
    stream = stream_of("loader", given, known)
    if made_by(getattr(given, "sampler", None), *_SHUFFLING):
        stream.unsteady = "the loader shuffles its examples"
    return stream


_SHUFFLING = ("torch.RandomSampler", "torch.WeightedRandomSampler", "torch.SubsetRandomSampler")


CLASSES: Mapping[tuple[str, ...], _Open] = {
    ("pandas.DataFrame",): lambda given, known: pandas_of(given),
    ("polars.DataFrame", "polars.LazyFrame"): lambda given, known: polars_of(given),
    ("pyarrow.Table", "pyarrow.RecordBatch"): lambda given, known: table_of(given),
    ("pyarrow.RecordBatchReader",): _batches_of,
    ("datasets.DatasetDict", "datasets.IterableDatasetDict"): refuse_splits,
    ("datasets.IterableDataset",): streamed_of,
    ("datasets.Dataset",): mapped_of,
    ("torch.DataLoader",): _loaded,
    ("torch.IterableDataset",): lambda given, known: stream_of("torch dataset", given, known),
    ("torch.Dataset",): lambda given, known: items_of("torch dataset", given, known),
    ("grain.MapDataset",): lambda given, known: items_of("grain dataset", given, known),
    ("grain.IterDataset", "grain.DatasetIterator"): lambda given, known: stream_of("grain dataset", given, known),
    ("grain.DataLoader",): _loaded,
}
"""By library and class, how it is read. Whatever else has a length and items, or is iterated over, is read by them."""


@dataclass(frozen=True, eq=False)
class _Arrays:
    """Arrays: one, a tuple, or by name."""

    arrays: Any


@dataclass(frozen=True, eq=False)
class _Own:
    """A source of the user's own."""

    source: Source


_PLAIN = (bytes, tuple, range, memoryview)
_ARRAYS = ("__array__", "__array_interface__", "__dlpack__", "chunks")


def open_source(given: Any, declared: _Known, axes: Axes, carry: Carry, reading: Reading) -> Source:
    """Whatever the user has as a source.

    Args:
        given: A `Source`, which is taken as it is; a path, an object of the table, arrays, or what is iterated over.
        declared: The model's inputs, as the model has them.
        axes: Where each holds the examples.
        carry: What is carried.
        reading: What the caller says of the source.

    Raises:
        InputError: Naming what does not fit.
    """
    found = _found(given, [batch_first(each, axes) for each in declared], reading)
    if isinstance(found, _Arrays):
        return arrays_of(found.arrays, declared, axes, carry, reading)
    if isinstance(found, _Own):
        return found.source
    return columnar(found, declared, axes, carry, reading)


def open_undeclared(
    given: Any, names: Sequence[str], needed: int, carry: Carry, reading: Reading
) -> tuple[Any, Examples | None]:
    """Whatever the user has for a module, of which only the names of its parameters are known, with some examples.

    Args:
        given: As `open_source` takes it.
        names: Names of the parameters.
        needed: How many there have to be.
        carry: What is carried.
        reading: What the caller says of the source.

    Returns:
        The source, to be opened by `open_source`, and the first examples; arrays themselves, and None.

    Raises:
        InputError: Naming what does not fit.
    """
    found = _found(given, (), reading)
    if isinstance(found, _Arrays):
        return found.arrays, None
    if isinstance(found, _Own):
        return found.source, None
    source = undeclared(found, names, needed, carry, reading)
    return source, source.example()


def _found(given: Any, known: _Known, reading: Reading) -> Reader | _Arrays | _Own:
    if isinstance(given, str | PathLike):
        return _at(as_path("source", given))
    for names, opened in CLASSES.items():
        if made_by(given, *names):
            return opened(given, known)
    if isinstance(given, Source):
        return _Own(given)
    if made_by(given, "zarr.Group", "zarr.Array"):
        return _Arrays(checked_zarr(given))
    if isinstance(given, Mapping):
        return _columns_of(given) if reading.tokenizer is not None else _Arrays(given)
    if isinstance(given, list):
        return _listed(given, known, reading)
    if isinstance(given, _PLAIN) or any(hasattr(given, each) for each in _ARRAYS):
        return _Arrays(given)
    if hasattr(given, "__getitem__") and hasattr(given, "__len__"):
        return items_of("dataset", given, known)
    if hasattr(given, "__iter__"):
        return stream_of("iterable", given, known)
    raise InputError(f"{shown(given)} is no source of examples; docs/sources.md lists what is")


def _at(path: Path) -> Reader | _Arrays:
    """What lies at a path."""
    called = f"'{shown_path(path)}'"
    if is_zarr(path):
        return _Arrays(zarr_in(path))
    if path.suffix.lower() in ARRAYS:
        return _Arrays(arrays_in(path))
    return open_files(files_in(path), called, path) if path.is_dir() else open_files([path], called)


def _listed(given: list[Any], known: _Known, reading: Reading) -> Reader | _Arrays:
    """What a list holds: paths, texts, batches, examples, or the rows of an array."""
    first = next(iter(given), None)
    if all(isinstance(each, Path) or (isinstance(each, str) and kind_of(Path(each))) for each in given) and given:
        return open_files([Path(each) for each in given], f"the {len(given)} files")
    if isinstance(first, str):
        return _columns_of({"text": given})
    several = isinstance(first, Mapping | tuple) or hasattr(first, "shape")
    return items_of("list", given, known) if several else _Arrays(given)


@dataclass(frozen=True, eq=False)
class _Columns(AtRandom):
    """Columns in memory."""

    held: Mapping[str, Any] | None = None

    def read(self, first: int, last: int, columns: Any) -> Rows:
        assert self.held is not None
        return Rows(last - first, {name: self.held[name][first:last] for name in columns})


def _columns_of(given: Mapping[Any, Any]) -> _Columns:
    """Columns by name as a reader.

    Raises:
        InputError: When they are of unequal lengths.
    """
    held = {str(name): column for name, column in given.items()}
    if without := [name for name, column in held.items() if not hasattr(column, "__len__")]:
        raise InputError(f"column {without[0]!r} holds {shown(held[without[0]])}, not one value for each example")
    sizes = {name: len(column) for name, column in held.items()}
    if len(set(sizes.values())) != 1:
        raise InputError(f"the columns are of unequal lengths: {sizes}; an example needs an entry in each of them")
    return _Columns("columns", "the source", tuple(held), next(iter(sizes.values())), held=held)
