"""A run that has been prepared: what is explained, asked and kept; it explains blocks and writes them into a store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from backtrace_jax.explainer.explainer import Explainer
from backtrace_jax.explainer.streaming import Asking, Explained, blocks_of, explain_block
from backtrace_jax.explanation.explanation import Explanation
from backtrace_jax.sources import Source

from .identity import identity_of
from .layout import CARRIED, DONE, FAILED, REASON, STATUS, Stored, arrays_of, block_arrays
from .locking import file_errors
from .probing import beginning_of, probed
from .reducing import Reducing
from .sizes import block_size
from .store import Store
from .taking import taken

ASKED = "asked"
ROUNDING = "rounding_error"


@dataclass(frozen=True, eq=False)
class Job:
    """What is done of every block.

    Attributes:
        explainer: What explains.
        source: Where examples come from; all of them are still to come.
        asking: What is asked of them.
        reducing: How relevance is stored.
        on_error: "record" or "raise".
        about: What the store holds, as JSON; what it is known by.
        layout: The arrays of the store.
    """

    explainer: Explainer
    source: Source
    asking: Asking
    reducing: Reducing
    on_error: str
    about: Mapping[str, Any]
    layout: Mapping[str, Stored]

    @classmethod
    def of(cls, explainer: Explainer, source: Source, asking: Asking, reducing: Reducing, on_error: str) -> Job:
        """Prepare a run by explaining the first example that can be.

        Raises:
            BacktraceError: Whatever is wrong with all examples; nothing has been written then.
        """
        asking.check(source.count)
        examples, source = beginning_of(source)
        probe = probed(explainer, source, examples, asking)
        one = {key: reducing.reduced(key, a) for key, a in taken(probe.explanation, _kept(source)).items()}
        one = {key: reducing.stored(key, array)[0] for key, array in one.items()}
        layout = arrays_of(one, source.schema.carried, ragged=bool(source.schema.lengths))
        layout |= {f"{ASKED}.{name}": Stored((), "int64", ()) for name in asking.listed() if name in _INDICES}
        about = {
            "count": source.count,
            "block": block_size(sum(stored.size for stored in layout.values()), probe.flops),
            **_described(probe.explanation, explainer),
            **identity_of(probe, asking, source, reducing),
        }
        return cls(explainer, source, asking, reducing, on_error, about, layout)

    @property
    def partials(self) -> dict[str, Stored]:
        """What is kept of each block as a whole: name -> shape and type of its entry."""
        return {ROUNDING: Stored((), "float64", ())} if self.reducing.dtype else {}

    def explain(
        self, store: Store, wanted: Callable[[int], bool], progress: Callable[[int], object] = lambda done: None
    ) -> int:
        """Explain blocks of the source and write them; reading, explaining and writing go on side by side.

        Args:
            store: Where to.
            wanted: Whether a block, by its number, is to be done.
            progress: Called with the number of examples of each block that has been written.

        Returns:
            How many examples the blocks have reached, from the front.
        """
        reached = 0
        with _writing(store, progress) as write, closing(blocks_of(self.source, store.block, wanted)) as blocks:
            for number, examples in blocks:
                first = number * store.block
                found = explain_block(self.explainer.explain_first, self.asking, first, examples, self.on_error)
                reached = first + found.count
                write(number, self, found)
        return reached

    def stored(self, found: Explained) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """A block as the arrays of the store, and what is kept of it as a whole."""
        kept = _kept(self.source)
        parts = [
            (part.places, {k: self.reducing.reduced(k, a) for k, a in taken(part.explanation, kept).items()})
            for part in found.parts
        ]
        failed, rounding = dict(found.failed), 0.0
        for _, arrays in parts:
            for key, array in arrays.items():
                arrays[key], error = self.reducing.stored(key, array)
                rounding = max(rounding, error)
        arrays = block_arrays(self.layout, found.count, parts)
        arrays |= {f"{CARRIED}.{name}": array for name, array in found.carried.items()}
        places = found.first + np.arange(found.count)
        arrays |= {
            f"{ASKED}.{name}": listed[places] for name, listed in self.asking.listed().items() if name in _INDICES
        }
        arrays[STATUS] = np.full(found.count, DONE, np.uint8)
        if failed:
            arrays[STATUS][[*failed]] = FAILED
            arrays[REASON] = np.full(found.count, "", object)
            arrays[REASON][[*failed]] = [*failed.values()]
        return arrays, ({ROUNDING: np.asarray(rounding)} if self.reducing.dtype else {})


_INDICES = ("against", "position")


def _kept(source: Source) -> Callable[[str], bool]:
    """Whether an input is stored: token ids, and whatever cannot be read again."""
    return lambda name: source.count is None or name in source.schema.kept


def _described(explanation: Explanation, explainer: Explainer) -> dict[str, Any]:
    ledger = explanation.ledger
    return {"output": explanation.output, "nodes": [] if ledger is None else [*ledger.by_node]}


@contextmanager
def _writing(store: Store, progress: Callable[[int], object]) -> Iterator[Callable[[int, Job, Explained], None]]:
    """What writes blocks in a thread of its own, one behind the one that is being explained."""
    pending: list[tuple[int, Future]] = []

    def wait() -> None:
        while pending:
            count, future = pending.pop()
            future.result()
            progress(count)

    def write(number: int, job: Job, found: Explained) -> None:
        wait()
        pending.append((found.count, writer.submit(_write, store, number, job, found)))

    with ThreadPoolExecutor(1, "writing") as writer:
        try:
            yield write
        finally:
            wait()  # what has been explained is kept, whatever ended the rest


def _write(store: Store, number: int, job: Job, found: Explained) -> None:
    arrays, partials = job.stored(found)
    with file_errors(store.path, "; what is stored stays, and the same call goes on from there"):
        store.write(number, arrays, partials)
