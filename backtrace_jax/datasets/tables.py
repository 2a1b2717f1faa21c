"""A store as one table: a row for each example, a column for each number of it, by the names of features and nodes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from backtrace_jax.errors import SettingError
from backtrace_jax.errors.libraries import library
from backtrace_jax.explanation.ledger import COLUMNS
from backtrace_jax.runtime.files import replacing

from .layout import EXAMPLE
from .store import ATTRIBUTE, Store
from .taking import shared_out

MOST = 2**14
"""Columns that a table may have; what has more (pictures at full size) is read better as arrays."""


def write_parquet(store: Store, path: Path) -> None:
    """Write everything that is stored by example into a Parquet file, whole or not at all.

    Raises:
        SettingError: When it would have too many columns, or the file cannot be written.
        MissingDependencyError: When pyarrow is not installed.
    """
    need, install = "a Parquet file needs pyarrow", "pip install pyarrow"
    pyarrow, parquet = library("pyarrow", need, install), library("pyarrow.parquet", need, install)
    names = {key: _columns(store, key) for key in store.keys}
    count = sum(map(len, names.values()))
    if count > MOST:
        key = max(names, key=lambda key: len(names[key]))
        raise SettingError(
            f"a table would have {count} columns, {len(names[key])} of them of {key!r}, and takes {MOST} at most; "
            "run.open() reads arrays of any shape, and reduce= makes them smaller"
        )
    twice = [name for name, times in Counter(name for each in names.values() for name in each).items() if times > 1]
    if twice:
        raise SettingError(f"two columns of a table would be called {twice[0]!r}; run.open() reads both")
    about = {ATTRIBUTE: json.dumps(store.about, sort_keys=True)}
    schema = pyarrow.table(_rows(store, names, 0, 0)).schema.with_metadata(about)
    with replacing(path) as file, parquet.ParquetWriter(file, schema) as writer:
        for first in range(0, len(store), store.block):
            rows = _rows(store, names, first, min(first + store.block, len(store)))
            writer.write_table(pyarrow.table(rows, schema=schema))


def _columns(store: Store, key: str) -> list[str]:
    """Names of the columns of an array: its key alone where an example has one number of it."""
    shape, features = store.shape(key), store.about["source"]["features"]
    axes: list[Sequence[Any]] = [range(size) for size in shape]
    named = features.get(shared_out(key))
    if named is not None and len(shape) == 1 and len(named) == shape[0]:
        axes = [named]
    elif "ledger." in key or "nodes." in key:
        axes = [store.about["nodes"], COLUMNS][-len(shape) :]
    return [".".join(map(str, (key, *place))) for place in product(*axes)]


def _rows(store: Store, names: Mapping[str, list[str]], first: int, last: int) -> dict[str, Any]:
    """Columns of some examples, by name."""
    found: dict[str, Any] = {EXAMPLE: np.arange(first, last)}
    for key, columns in names.items():
        found |= zip(columns, _parts(store.rows(key, first, last), len(columns)), strict=True)
    return found


def _parts(rows: np.ndarray, count: int) -> Iterator[Any]:
    flat = rows.reshape(len(rows), count)
    flat = flat.astype(object).astype(str) if rows.dtype.kind in "OT" else flat  # texts of a type that Arrow knows
    return (flat[:, i] for i in range(count))
