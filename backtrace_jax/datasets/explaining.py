"""`explain_dataset`: a whole dataset in one call."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, Unpack

import numpy as np

from backtrace_jax.errors import InputError, SettingError
from backtrace_jax.errors.arguments import as_path, choice, fields_of, shown_path, takes, with_fields
from backtrace_jax.errors.texts import shown
from backtrace_jax.explainer.asking import Asked
from backtrace_jax.explainer.explainer import OPTIONS, Explainer, made
from backtrace_jax.explainer.explaining import kept_explainer
from backtrace_jax.explainer.given import GivenDataset
from backtrace_jax.explainer.stages import Known
from backtrace_jax.explainer.streaming import ON_ERROR, RECORD, Asking
from backtrace_jax.importers import parameters, read
from backtrace_jax.question.settings import ALL, Settings
from backtrace_jax.question.words import TOTAL
from backtrace_jax.sources import Carry, Reading, carrying

from .cluster import RAY, absolute, check_read_anywhere, check_sent, explain_by_ray
from .identity import refuse_other
from .job import Job
from .layout import STATUS
from .locking import written
from .probing import example_for
from .processes import share_of
from .reducing import Reducing
from .run import Run
from .store import Store, create, zarr_module


@with_fields(Asked, Settings, Reading, elsewhere=OPTIONS)
def explain_dataset(
    model: Any,
    source: Any,
    out: Any,
    *,
    carry: Carry = (),
    reduce: str | Callable[[str, np.ndarray], Any] | None = None,
    store_dtype: str | None = None,
    on_error: str = RECORD,
    cluster: str | None = None,
    process: tuple[int, int] | None = None,
    progress: Callable[[int, int | None], object] | None = None,
    **chosen: Unpack[GivenDataset],
) -> Run:
    """Explain a whole dataset into a folder, block by block; the same call goes on where it was stopped.

    The folder is a Zarr group that xarray, zarr and others read without this package (docs/datasets.md). It has the
    same bytes however often the call was stopped, and by however many threads and devices it was made.

    Args:
        model: As `explain` takes it; or an `Explainer`, which has its settings.
        source: Where the examples come from: arrays, files or folders of them, tables, pictures or texts, data frames,
            datasets and loaders, any iterable of batches (docs/sources.md lists them all).
        out: The folder. If it holds what this very call has begun, it goes on; anything else in it is refused.
        carry: Names of columns of the source (labels, say) that are stored beside; of tuples, names for what follows
            the inputs; or by the name to be stored under, the column or place.
        reduce: What relevance of inputs and layers is made smaller by: "channels", summed over them, or a function of
            (name, relevance with examples in front) that treats each example alone.
        store_dtype: "float16" or "float32": what relevance is stored in; the largest rounding error is recorded.
        on_error: "record": an example that cannot be read or explained gets status 2 and a reason; or "raise".
        cluster: "ray": workers of a Ray cluster explain and write the blocks (docs/datasets.md); model, source and
            folder are read there by the same paths.
        process: (k, n): this is process k of n, from 0, each of which is given the same call and explains every n-th
            block; by default those of `jax.distributed`. Each returns when its own blocks are stored.
        progress: Called with (examples done, examples in all; None for a stream) when a block has been written.
        chosen: The settings of `explain`, but that ledger is "total" and devices "all" where they are not given; and
            what it asks: target, against, position and start may be arrays with an entry for every example, and the
            first three the name of a column of the source. And how the source is read: columns (by input, its column,
            or those of its features), ignore (columns left out, or "rest"), limit (examples taken from the front),
            tokenizer, text (the column of texts, or two of pairs), lengths (that they are padded to), size, resize,
            mean, std, layout (of pictures).

    Returns:
        What was stored.

    Raises:
        BacktraceError: Naming what is wrong; what is stored already stays.
        MissingDependencyError: When zarr is not installed.
    """
    zarr_module()
    path = as_path("out", out)
    choice("on_error", on_error, ON_ERROR)
    if progress is not None and not takes(progress, 2):
        raise SettingError(f"progress must be a function of (examples done, examples in all), found {shown(progress)}")
    if cluster is not None:
        choice("cluster", cluster, (RAY,))
        check_sent(model)
        model, source, path = (absolute(given) for given in (model, source, path))
    prepare = partial(_job, model, source, carry, Reducing(reduce, store_dtype), on_error, chosen)
    job, share = prepare(), share_of(process)
    if cluster is not None and share.count > 1:
        raise SettingError("cluster= has workers of its own: leave process= out, and call it from one process")
    if cluster is not None:
        check_read_anywhere(job.source)
    share.check(job.source)
    with written(path, lambda folder: create(folder, job.about, job.layout, job.partials), share.number, share.count):
        store = Store(path, write=True)
        refuse_other(path, store.about, job.about)
        explain = share.of(job.explain) if cluster is None else partial(explain_by_ray, prepare, job)
        _explain(explain, store, job.about["count"], progress)
    return Run(path, None if job.source.count is None else job.source)


def _job(model: Any, source: Any, carry: Any, reducing: Reducing, on_error: str, chosen: Mapping[str, Any]) -> Job:
    """What a call has to do."""
    asking = Asking(Asked(**fields_of(Asked, chosen)))
    carried, reading = carrying(carry, asking.columns), Reading(**fields_of(Reading, chosen))
    example = None
    taken = None if isinstance(model, Explainer) else parameters(model)  # an explainer can be called as well
    if taken is not None:
        example, source = example_for(taken, source, carried, reading)
    explainer = _explainer(model, example, fields_of(Settings, chosen))
    opened = explainer.source(source, carried, reading)
    if opened.schema.unsteady:
        raise SettingError(
            f"{opened.schema.unsteady}, and a store has them in one order: shuffle=False, or the dataset"
        )
    return Job.of(explainer, opened, asking, reducing, on_error)


def _explainer(model: Any, example: Any, chosen: Mapping[str, Any]) -> Explainer:
    """What explains: an explainer that is given or kept, so that a second call compiles nothing, or a new one.

    Raises:
        SettingError: When settings are given that an explainer has already.
    """
    if isinstance(model, Explainer):
        if chosen:
            raise SettingError(
                f"an Explainer has its settings; pass {next(iter(chosen))}= to it: Explainer(model, ...)"
            )
        return model
    settings = Settings.of(**{"ledger": TOTAL, "devices": ALL, **chosen})
    imported = read(model, example, settings.axes, proven=False)
    return kept_explainer(Known.of(imported), settings) if imported.source is None else made(imported, settings)


def _explain(
    explain: Callable[..., int], store: Store, total: int | None, progress: Callable[[int, int | None], object] | None
) -> None:
    """Explain what is still to be done."""
    finished = store.finished()
    if store.about["count"] is not None and len(finished) == -(-len(store) // store.block):
        return
    done = sum(len(store.rows(STATUS, n * store.block, (n + 1) * store.block)) for n in finished)

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    try:
        reached = explain(store, lambda number: number not in finished, advance)
    except KeyboardInterrupt:
        of = "" if total is None else f" of {total}"
        raise KeyboardInterrupt(
            f"stopped: {done}{of} examples are stored in '{shown_path(store.path)}'; the same call goes on from there"
        ) from None
    if total is None:
        _check_end(reached, finished, store.block)
        store.end(reached)


def _check_end(reached: int, finished: Collection[int], block: int) -> None:
    """Refuse a stream that gave fewer examples than are stored.

    Raises:
        InputError: Naming both.
    """
    stored = (max(finished, default=-1) + 1) * block
    if reached < stored:
        raise InputError(
            f"the stream ends early: it gave {reached} examples, and {stored} of it are stored; give it from its front"
        )
