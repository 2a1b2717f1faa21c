"""Past one machine: blocks of a store explained by Ray Data, and a callable class for a user's own `map_batches`.

Ray hands out numbers of blocks, and each of its workers reads, explains and writes the blocks it is given. A block's
files are written by one worker only and its status last, so that the store has the bytes that one process would have
given it, and a run that was stopped goes on where it was, on Ray or without it.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from backtrace_jax.errors import BacktraceError, SettingError
from backtrace_jax.errors.arguments import choice, fields_of, with_fields
from backtrace_jax.errors.libraries import library
from backtrace_jax.errors.texts import shown
from backtrace_jax.explainer.asking import Asked
from backtrace_jax.explainer.explainer import OPTIONS, Explainer
from backtrace_jax.explainer.given import GivenDataset
from backtrace_jax.explainer.streaming import ON_ERROR, RAISE, RECORD, Asking, explain_block
from backtrace_jax.question.settings import Settings
from backtrace_jax.question.words import TOTAL
from backtrace_jax.sources import Reading, Source
from backtrace_jax.sources.reading import REST

from .identity import refuse_other
from .job import Job, journal
from .layout import REASON
from .store import Store
from .taking import taken

RAY = "ray"
_NUMBER, _COUNT, _ERROR = "block", "examples", "error"


def check_sent(model: Any) -> None:
    """Find out that there is no Ray, or that a model cannot be sent to other machines, before anything is done.

    Raises:
        SettingError: Saying what to pass instead.
        MissingDependencyError: Ray Data is not installed.
    """
    import onnx  # not needed to import the package

    if not isinstance(model, str | Path | onnx.ModelProto):
        raise SettingError(f"a cluster takes the model's file, found {shown(model)}; export(model, path) writes one")
    ray_data()


def check_read_anywhere(source: Source) -> None:
    """Refuse a stream, which only one process can read.

    Raises:
        SettingError: Saying what to pass instead.
    """
    if source.count is None:
        raise SettingError("a stream is read by one process; on a cluster give a source that is read at any place")


def absolute(given: Any) -> Any:
    """A path that means the same in every working folder; anything else as it is."""
    return Path(given).absolute() if isinstance(given, str | Path) else given


def ray_data() -> Any:
    """Ray Data.

    Raises:
        MissingDependencyError: When it is not installed.
    """
    return library("ray.data", "cluster='ray' needs Ray Data", "pip install 'backtrace-jax[ray]'")


def explain_by_ray(
    prepare: Callable[[], Job],
    job: Job,
    store: Store,
    wanted: Callable[[int], bool],
    progress: Callable[[int], object],
) -> int:
    """Explain blocks of a source on a Ray cluster; what `Job.explain` does in this process.

    Args:
        prepare: Makes the job in a worker.
        job: The same, here.
        store: Where to; every worker writes into this folder.
        wanted: Whether a block, by its number, is to be done.
        progress: Called with the number of examples of each block that has been written.

    Returns:
        How many examples there are.

    Raises:
        BacktraceError: What a worker raises.
    """
    data, count = ray_data(), job.about["count"]
    blocks = [{_NUMBER: number} for number in range(-(-count // store.block)) if wanted(number)]
    handed_out = data.from_items(blocks, override_num_blocks=len(blocks))
    written = handed_out.map_batches(
        BlockWriter,
        fn_constructor_args=(prepare, store.path),
        batch_size=1,
        compute=data.ActorPoolStrategy(min_size=1, max_size=len(blocks)),
        num_cpus=1,
        num_gpus=int(job.explainer.device.platform == "gpu"),
    )
    for batch in written.iter_batches(batch_size=None):
        for examples, error in zip(batch[_COUNT].tolist(), batch[_ERROR].tolist(), strict=True):
            if error:
                raise pickle.loads(error)  # from our own worker
            progress(examples)
    return count


class BlockWriter:
    """Explains blocks in a worker of Ray and writes them into the store."""

    def __init__(self, prepare: Callable[[], Job], path: Path) -> None:
        self._prepare, self._path = prepare, path

    @cached_property
    def _ready(self) -> tuple[Job, Store]:
        """The job and the store, made at the first call: what goes wrong there is handed on."""
        job, store = self._prepare(), Store(self._path, write=True)
        refuse_other(self._path, store.about, job.about)
        return job, store

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """How many examples a block has, by its number; or the error, which Ray would wrap in its own."""
        counts: list[int] = []
        try:
            job, store = self._ready
            job.explain(store, set(batch[_NUMBER].tolist()).__contains__, counts.append)
        except BacktraceError as error:
            return {_COUNT: [0], _ERROR: [pickle.dumps(error)]}
        return {_COUNT: counts, _ERROR: [b""] * len(counts)}


class ExplainBatches:
    """Explains batches of a user's own Ray dataset: `dataset.map_batches(ExplainBatches, ...)`.

    ```python
    dataset.map_batches(
        ExplainBatches,
        fn_constructor_args=("model.onnx",),
        fn_constructor_kwargs={"mode": "lrp-epsilon", "target": "label"},
        compute=ray.data.ActorPoolStrategy(size=4),
        batch_size=1024,
    ).write_parquet("relevance")
    ```

    Columns of a batch are matched to the model's inputs as `explain_dataset` does. To them are added what a store holds
    (`relevance.x`, `outputs.y`, `target`, `ledger.signed`, ...), under the same names. An example has the same bytes in
    a batch of any size.
    """

    @with_fields(Asked, Settings, Reading, elsewhere=OPTIONS)
    def __init__(self, model: Any, *, on_error: str = RAISE, **chosen: Unpack[GivenDataset]) -> None:
        """Read the model; a worker does so once.

        Args:
            model: As `explain` takes it.
            on_error: "raise"; or "record": then `status` is 1, or 2 of an example that could not be explained, and
                `reason` says why.
            chosen: Settings, question and how columns are read, as `explain_dataset` takes them; columns that are no
                inputs are left alone.

        Raises:
            BacktraceError: What `explain_dataset` raises of a model and its settings.
        """
        choice("on_error", on_error, ON_ERROR)
        self._on_error, self._asking = on_error, Asking(Asked(**fields_of(Asked, chosen)))
        settings: dict[str, Any] = {"ledger": TOTAL, **fields_of(Settings, chosen)}
        self._explainer = Explainer(model, **settings)
        self._reading = Reading(**{"ignore": REST, **fields_of(Reading, chosen)})

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A batch, columns of NumPy arrays by name, and what was explained beside them.

        Raises:
            BacktraceError: What is wrong with the batch, or with an example if `on_error` is "raise".
        """
        source = self._explainer.source(dict(batch), self._asking.columns, self._reading)
        examples = source.read(0, len(next(iter(batch.values()))))
        found = explain_block(self._explainer.explain_first, self._asking, 0, examples, self._on_error)
        parts = [(part.places, taken(part.explanation, lambda name: False)) for part in found.parts]
        added = {key: _joined(found.count, [(places, arrays[key]) for places, arrays in parts]) for key in _keys(parts)}
        if self._on_error == RECORD:
            added |= {REASON: np.full(found.count, "", object), **journal(found.count, found.failed)}
        return {**batch, **added}


def _keys(parts: Sequence[tuple[np.ndarray, Mapping[str, np.ndarray]]]) -> Sequence[str]:
    """What there is of each part."""
    return [*parts[0][1]] if parts else []


def _joined(count: int, parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Entries of some examples as those of a batch, zeros where there is nothing, and behind what is shorter."""
    shape = np.max([rows.shape[1:] for _, rows in parts], axis=0).astype(int)
    into = np.zeros((count, *shape), parts[0][1].dtype)
    for places, rows in parts:
        into[(places, *map(slice, rows.shape[1:]))] = rows
    return into
