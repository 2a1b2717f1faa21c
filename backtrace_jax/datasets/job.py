"""A run that has been prepared: what is explained, asked and kept; it explains blocks and writes them into a store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from backtrace_jax.errors import NumericsError
from backtrace_jax.explainer.explainer import Explainer
from backtrace_jax.explainer.streaming import RAISE, Asking, Explained, Part, blocks_of, explain_block
from backtrace_jax.explanation.explanation import Explanation
from backtrace_jax.sources import Source

from .cautioning import notes_of
from .identity import identity_of
from .layout import CARRIED, DONE, FAILED, REASON, STATUS, Stored, arrays_of, block_arrays
from .locking import file_errors
from .probing import beginning_of, probed
from .reducing import Reducing
from .sizes import block_size
from .store import SUMMARY, Store
from .taking import key, taken
from .viewing import described, views_of
from .views import Views

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
        one = taken(probe.explanation, _kept(source))
        reducing = reducing.among(probe.channels, one)
        one = {k: reducing.stored(k, reducing.reduced(k, array))[0] for k, array in one.items()}
        layout = arrays_of(one, source.schema)
        layout |= {f"{ASKED}.{name}": Stored((), "int64", ()) for name in asking.listed if name in INDICES}
        about = {
            "count": source.count,
            "block": block_size(sum(stored.size for stored in layout.values()), probe.flops),
            "views": described(probe),
            "cautions": {"notes": [], "convolutional": probe.convolutional},
            **_described(probe.explanation),
            **identity_of(probe, asking, source, reducing),
        }
        about["cautions"]["notes"] = notes_of(probe.explanation, about)
        return cls(explainer, source, asking, reducing, on_error, about, layout)

    @property
    def partials(self) -> dict[str, Stored]:
        """What is kept of each block as a whole: name -> shape and type of its entry."""
        found = {name: (shape, dtype.name) for name, (shape, dtype) in self.views.shapes().items()}
        if self.reducing.dtype is not None:
            found[ROUNDING] = (), "float64"
        return {name: Stored.of(kind, f"{SUMMARY}.{name}") for name, kind in found.items()}

    @cached_property
    def views(self) -> Views:
        """What is added up of every block."""
        return views_of(self.about)

    def explain(
        self, store: Store, wanted: Callable[[int], bool], progress: Callable[[int], object] = lambda done: None
    ) -> int:
        """Explain blocks of the source and write them; reading, explaining and writing go on side by side.

        Args:
            store: Where to.
            wanted: Whether a block, by its number, is to be done.
            progress: Called with the number of examples of each block that has been written.

        Returns:
            Where the examples ended that were read.
        """
        reached = 0
        with _writing(store, progress) as write, closing(blocks_of(self.source, store.block, wanted)) as blocks:
            for number, examples in blocks:
                first = number * store.block
                reached = first + examples.count
                if wanted(number):
                    call, asking = self.explainer.explain_first, self.asking
                    write(number, self, explain_block(call, asking, first, examples, self.on_error))
        return reached

    def stored(self, found: Explained) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """A block as the arrays of the store, and what is kept of it as a whole."""
        packed = [self._packed(part, found.first) for part in found.parts]
        failed = dict(
            sorted({**found.failed, **{place: why for each in packed for place, why in each.failed.items()}}.items())
        )
        partials = self.views.partial([(part.places, part.explanation) for part in found.parts], found.first, failed)
        if self.reducing.dtype is not None:
            partials[ROUNDING] = np.asarray(max((each.rounding for each in packed), default=0.0))
        arrays = block_arrays(self.layout, found.count, [(each.places, each.arrays) for each in packed])
        arrays |= {key(CARRIED, name): array for name, array in found.carried.items()}
        places = found.first + np.arange(found.count)
        arrays |= {f"{ASKED}.{name}": listed[places] for name, listed in self.asking.listed.items() if name in INDICES}
        return {**arrays, **journal(found.count, failed)}, partials

    def _packed(self, part: Part, first: int) -> _Packed:
        """What is stored of a part; examples whose relevance is beyond the range of what is stored are left out."""
        arrays = {k: self.reducing.reduced(k, a) for k, a in taken(part.explanation, _kept(self.source)).items()}
        beyond = self.reducing.beyond(arrays, len(part.places))
        if beyond.any():
            arrays = {k: array[~beyond] for k, array in arrays.items()}
        stored = {k: self.reducing.stored(k, array) for k, array in arrays.items()}
        failed = dict.fromkeys(part.places[beyond].tolist(), f"its relevance does not fit {self.reducing.dtype}")
        if failed and self.on_error == RAISE:
            raise NumericsError(f"example {first + min(failed)}: {failed[min(failed)]}")
        rounding = max(error for _, error in stored.values())
        return _Packed(part.places[~beyond], {k: array for k, (array, _) in stored.items()}, rounding, failed)


@dataclass(frozen=True, eq=False)
class _Packed:
    """What is stored of some examples of a block.

    Attributes:
        places: Which they are.
        arrays: By key, batch first.
        rounding: The largest rounding error.
        failed: By place, why examples are not among them.
    """

    places: np.ndarray
    arrays: dict[str, np.ndarray]
    rounding: float
    failed: Mapping[int, str] = field(default_factory=dict)


def journal(count: int, failed: Mapping[int, str]) -> dict[str, np.ndarray]:
    """What became of each example; there are reasons where one failed."""
    status = np.full(count, DONE, np.uint8)
    if not failed:
        return {STATUS: status}
    status[[*failed]] = FAILED
    reasons = np.full(count, "", object)
    reasons[[*failed]] = [*failed.values()]
    return {STATUS: status, REASON: reasons}


INDICES = ("against", "position")


def _kept(source: Source) -> Callable[[str], bool]:
    """Whether an input is stored: token ids, and whatever cannot be read again."""
    return lambda name: source.count is None or name in source.schema.kept


def _described(explanation: Explanation) -> dict[str, Any]:
    ledger = explanation.ledger
    inputs = {name: array.dtype.name for name, array in explanation.inputs.items()}
    return {"inputs": inputs, "output": explanation.output, "nodes": [] if ledger is None else [*ledger.by_node]}


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
