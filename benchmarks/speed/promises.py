"""What the project promises about its speed and its memory, as bounds on what was measured in one run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from .contestants import NO_MODE
from .results import Row, key_of

Rows = Mapping[tuple[Any, ...], Row]


@dataclass(frozen=True)
class Quantity:
    """Something that is measured of a contestant.

    Attributes:
        words: What it is.
        key: Of rows of results.
        unit: Of its bounds.
        size: The unit in that of the results.
    """

    words: str
    key: str
    unit: str
    size: float = 1.0


TIME = Quantity("time", "median", "s")
COMPILING = Quantity("compile time", "compile_seconds", "s")
MEMORY = Quantity("memory", "peak_bytes", "GiB", 2**30)


class Found(NamedTuple):
    """What a row says about a promise.

    Attributes:
        value: The quantity, or its ratio to that of whom the contestant is compared with.
        interleaved: Whether the two took turns, where that matters.
    """

    value: float
    interleaved: bool = True


@dataclass(frozen=True)
class Promise:
    """A bound on what a contestant takes, by itself or over what another one takes.

    Attributes:
        contestant: Whose.
        quantity: What of it.
        bound: The bound.
        against: Over whose; empty: in the quantity's unit.
        at_most: Whether it is to stay below the bound, or above.
        modes: In which modes.
        workloads: For which workloads.
        batches: At which batch sizes; None: all that are measured.
    """

    contestant: str
    quantity: Quantity
    bound: float
    against: str = ""
    at_most: bool = True
    modes: Sequence[str] = (NO_MODE,)
    workloads: Sequence[str] = ()
    batches: Sequence[int] | None = None

    def __str__(self) -> str:
        who = f"{self.contestant} ({', '.join(self.modes)})" if any(self.modes) else self.contestant
        bound = f"{'≤' if self.at_most else '≥'} {self.bound:g}"
        scale = f"/ {self.against} {bound}" if self.against else f"{bound} {self.quantity.unit}"
        return f"{self.quantity.words}: {who} {scale}"

    def found(self, row: Row, rows: Rows) -> Found | None:
        """What a row says, among all rows; None where it says nothing."""
        if not self._concerns(row):
            return None
        if self.quantity is TIME:
            ratio = row["ratios"].get(self.against)
            return ratio and Found(ratio["median"], ratio["interleaved"])
        if not self.against:
            return Found(row[self.quantity.key] / self.quantity.size)
        other = rows.get((*key_of(row)[:-1], self.against), {})
        return Found(row[self.quantity.key] / other[self.quantity.key]) if self.quantity.key in other else None

    def _concerns(self, row: Row) -> bool:
        sized = self.batches is None or row["batch"] in self.batches
        asked = row["contestant"] == self.contestant and row["mode"] in self.modes and row["workload"] in self.workloads
        return asked and sized and self.quantity.key in row

    def kept_by(self, found: Found) -> bool:
        """Whether it is within the bound."""
        return found.value <= self.bound if self.at_most else found.value >= self.bound


CONVOLUTIONAL, ATTENDING = ("resnet18", "resnet50", "vgg16"), ("vit_b16", "bert_base")
NETWORKS = (*CONVOLUTIONAL, *ATTENDING)
OURS, LLAMA = "explanation", ("llama_1b_128",)

PROMISES = (
    Promise(OURS, TIME, 3.0, "forward", modes=("default",), workloads=NETWORKS, batches=(8, 32)),
    Promise(OURS, TIME, 1.3, "jax-gradient", modes=("default",), workloads=NETWORKS, batches=(8, 32)),
    Promise(OURS, TIME, 1.2, "jax-gradient", modes=("lrp-epsilon",), workloads=CONVOLUTIONAL),
    Promise(OURS, TIME, 1.2, "jax-gradient", modes=("attnlrp",), workloads=ATTENDING),
    Promise("forward", TIME, 1.3, "torch-forward", workloads=NETWORKS),
    Promise("zennit", TIME, 2.0, OURS, False, modes=("lrp-epsilon-plus",), workloads=("resnet18", "vgg16")),
    Promise("lxt", TIME, 1.5, OURS, False, modes=("attnlrp",), workloads=ATTENDING),
    Promise("dl-backtrace-0.1.24", TIME, 50.0, OURS, False, modes=("default",), workloads=("resnet18",)),
    Promise("dl-backtrace-0.1.24", TIME, 1000.0, OURS, False, modes=("default",), workloads=("bert_base",)),
    Promise(OURS, MEMORY, 20.0, modes=("default", "attnlrp"), workloads=LLAMA),
    Promise(OURS, MEMORY, 1.0, "zennit", modes=("lrp-epsilon-plus",), workloads=("resnet50",), batches=(32,)),
    Promise(OURS, COMPILING, 5.0, modes=("default", "attnlrp"), workloads=("bert_base",)),
    Promise(OURS, COMPILING, 60.0, modes=("default", "attnlrp"), workloads=LLAMA),
)


def examined(rows: Sequence[Row]) -> Iterator[tuple[Promise, Row, Found]]:
    """Each promise with the rows it is about and what they say."""
    by_key = {key_of(row): row for row in rows}
    for promise in PROMISES:
        for row in rows:
            found = promise.found(row, by_key)
            if found is not None:
                yield promise, row, found
