"""`Run`: what was explained of a dataset, read from its store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from backtrace_jax.errors import BacktraceError, InputError, SettingError
from backtrace_jax.errors.arguments import as_path, is_whole, shown_path
from backtrace_jax.errors.libraries import DATASETS, library
from backtrace_jax.errors.texts import shown
from backtrace_jax.explanation.explanation import Explanation
from backtrace_jax.sources import Source

from .cautioning import cautions_of
from .identity import COLUMN
from .job import ASKED, INDICES, ROUNDING
from .layout import CARRIED, DONE, FAILED, LENGTH, REASON, STATUS
from .store import SUMMARY, Store, damaged
from .summary import Summary
from .tables import write_parquet
from .taking import explanation_of, key, named
from .viewing import views_of

if TYPE_CHECKING:
    import xarray


class Run:
    """The explanations of a dataset, finished or not.

    Attributes:
        path: The folder of the store.
        source: Where the examples came from, which `run[i]` reads inputs from that the store does not hold.
    """

    def __init__(self, path: Any, source: Source | None = None) -> None:
        """Open a store.

        Args:
            path: Its folder.
            source: The source as `Explainer.source` makes it; without it `run[i]` has the inputs that are stored.

        Raises:
            InputError: When there is none.
            MissingDependencyError: When zarr is not installed.
        """
        self.path, self.source = as_path("path", path), source
        self._store = Store(self.path)

    def __len__(self) -> int:
        """Count the examples; of a stream under way, those so far."""
        return len(self._store)

    @property
    def status(self) -> np.ndarray:
        """[examples], 0 where an example is still to be explained, 1 where it was, 2 where it could not be."""
        return self._store.rows(STATUS, 0, len(self))

    @property
    def finished(self) -> bool:
        """Whether every example was explained or failed."""
        return self._store.about["count"] is not None and bool(self.status.all())

    @property
    def failed(self) -> dict[int, str]:
        """By its index, why an example could not be explained."""
        indices = np.flatnonzero(self.status == FAILED).tolist()
        return {i: str(self._store.rows(REASON, i, i + 1)[0]) for i in indices}

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What the bytes of the store depend on, as JSON."""
        return self._store.about

    @property
    def rounding_error(self) -> float:
        """The largest difference that `store_dtype` made to a number of relevance; 0 where nothing was rounded."""
        return (
            float(np.max(self._store.summed(ROUNDING), initial=0.0))
            if self._store.about["stored"]["store_dtype"]
            else 0.0
        )

    def open(self) -> xarray.Dataset:
        """Everything by example, read when it is asked for: `run.open()["relevance.x"][17]`.

        Variables are called by what they hold and the name of the input, output or layer: `relevance.x`, `outputs.y`,
        `layers.conv1`, `inputs.ids`, `carried.label`; `target`, `ledger.signed`, `ledger.absolute`, `status`, `reason`.

        Raises:
            MissingDependencyError: When xarray is not installed.
        """
        xarray = library("xarray", "run.open() needs xarray", DATASETS)
        with self._read():
            return xarray.open_zarr(str(self.path), chunks=None, consolidated=False, drop_variables=SUMMARY)

    def to_parquet(self, path: Any) -> None:
        """Write a table for pandas, polars or a database: a row for each example, a column for each number of it.

        Columns are called like the variables of `open`, followed by the feature's name or the place of each number:
        `relevance.x.income`, `outputs.y.0`, `ledger.signed.bias`.

        Args:
            path: The Parquet file.

        Raises:
            SettingError: When there would be more columns than a table takes (`datasets.tables.MOST`), or the file
                cannot be written.
            MissingDependencyError: When pyarrow is not installed.
        """
        write_parquet(self._store, as_path("path", path))

    def summary(self) -> Summary:
        """Means of relevance by feature, channel, token, layer and predicted class, top examples, ledger totals.

        They were added up as the examples were explained, from relevance as it was, whatever of it is stored.
        """
        with self._read():
            views = views_of(self._store.about)
            return views.merged({name: self._store.summed(name) for name in views.shapes()})

    def __getitem__(self, index: int) -> Explanation:
        """One explanation, of the bytes that `explain` gives of this example.

        Raises:
            SettingError: When there is no such example, it is still to be explained, or the store does not hold enough.
            InputError: When it could not be explained, with the reason.
        """
        if not is_whole(index) or not -len(self) <= index < len(self):
            raise SettingError(f"run[{shown(index)}]: examples are numbered from 0 to {len(self) - 1}")
        i = int(index) % len(self)
        self._check_status(i)
        inputs = self._inputs(i)
        with self._read():
            return self._explanation(i, inputs)

    def _explanation(self, i: int, inputs: Mapping[str, np.ndarray]) -> Explanation:
        about = self._store.about
        rows = {key: self._store.rows(key, i, i + 1) for key in self._store.keys if key not in (STATUS, REASON)}
        arrays = {key: _cut(array, rows.get(f"{LENGTH}.{key}")) for key, array in rows.items()}
        fingerprint = {**about["fingerprint"], **self._asked(arrays)}
        given = {name: np.ascontiguousarray(inputs[name], kind) for name, kind in about["inputs"].items() if inputs}
        inputs = given | named(arrays, "inputs")
        found = explanation_of(arrays, inputs, about["nodes"], output=about["output"], fingerprint=fingerprint)
        return replace(found, warnings=(*about["cautions"]["notes"], *cautions_of(found, about), *self._rounded()))

    def __iter__(self) -> Iterator[Explanation]:
        """One explanation after the other, as `run[0]`, `run[1]`, ... are; none is left out without a word.

        Raises:
            BacktraceError: At the first that there is not.
        """
        return (self[i] for i in range(len(self)))

    def _asked(self, arrays: Mapping[str, np.ndarray]) -> dict[str, list[int]]:
        """What was asked of an example by an entry of its own, as its fingerprint has it."""
        question = self._store.about["question"]
        columns = {n: each[COLUMN] for n, each in question.items() if isinstance(each, dict) and n in INDICES}
        by_column = {name: arrays[key(CARRIED, column)].astype(int).tolist() for name, column in columns.items()}
        return by_column | {name: array.tolist() for name, array in named(arrays, ASKED).items()}

    def _rounded(self) -> tuple[str, ...]:
        kind, error = self._store.about["stored"].get("store_dtype"), self.rounding_error
        return (f"relevance was rounded to {kind} when it was stored, by {error:.2g} at most",) if error else ()

    def _check_status(self, index: int) -> None:
        status = self._store.rows(STATUS, index, index + 1)[0]
        if status == FAILED:
            raise InputError(f"example {index} could not be explained: {self._store.rows(REASON, index, index + 1)[0]}")
        if status != DONE:
            raise SettingError(
                f"example {index} is still to be explained; the call that made the store goes on with it"
            )
        if self._store.about["stored"].get("reduce") is not None:
            raise SettingError(
                f"run[{index}] would need relevance as it was, and the store has it reduced: run.open() gives that"
            )

    def _inputs(self, index: int) -> dict[str, np.ndarray]:
        """Inputs that the source still has.

        Raises:
            InputError: When they cannot be read any more.
        """
        if self.source is None or self.source.count is None:
            return {}
        found = self.source.read(index, index + 1)
        if not found.groups:
            raise InputError(f"example {index} cannot be read any more: {'; '.join(found.failed.values())}")
        return dict(found.groups[0].inputs)

    @contextmanager
    def _read(self) -> Iterator[None]:
        """Inside, what is wrong with the store is said of it.

        Raises:
            InputError: Instead of whatever a library makes of damaged files.
        """
        try:
            yield
        except BacktraceError:
            raise
        except Exception as error:  # of zarr, of what was edited: about anything
            raise damaged(self.path, error) from error

    def __repr__(self) -> str:
        """How many examples, and where."""
        counts = np.bincount(self.status, minlength=3).tolist()
        words = [f"{n} {word}" for n, word in zip(counts, ("pending", "explained", "failed"), strict=True) if n]
        return f"Run('{shown_path(self.path)}', {len(self)} examples: {', '.join(words) or 'none'})"


def _cut(array: np.ndarray, lengths: np.ndarray | None) -> np.ndarray:
    """An entry without the zeros behind it."""
    return array if lengths is None else array[(slice(None), *(slice(size) for size in lengths[0].tolist()))]
