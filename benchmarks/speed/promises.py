"""What the project promises about its speed, as bounds on ratios of contestants in one run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .contestants import NO_MODE
from .results import Row

TOYS = ("digits_cnn",)
"""Networks so small that a call costs more than what it computes; nothing is promised about them."""


@dataclass(frozen=True)
class Promise:
    """A bound on one contestant's time over another's.

    Attributes:
        contestant: Whose time.
        against: Over whose.
        bound: The bound.
        at_most: Whether the ratio is to stay below it, or above.
        modes: In which modes.
        workloads: For which workloads; None: all but the toys.
    """

    contestant: str
    against: str
    bound: float
    at_most: bool = True
    modes: Sequence[str] = (NO_MODE,)
    workloads: Sequence[str] | None = None

    def __str__(self) -> str:
        modes = f" ({', '.join(self.modes)})" if any(self.modes) else ""
        where = f" on {', '.join(self.workloads)}" if self.workloads else ""
        return f"{self.contestant}{modes} / {self.against} {'≤' if self.at_most else '≥'} {self.bound}{where}"

    def concerns(self, row: Row) -> bool:
        """Whether the row holds the ratio that this promise is about."""
        chosen = row["workload"] in self.workloads if self.workloads else row["workload"] not in TOYS
        measured = self.against in row.get("ratios", {})
        return measured and chosen and row["contestant"] == self.contestant and row["mode"] in self.modes

    def kept_by(self, row: Row) -> bool:
        """Whether the median is within the bound."""
        found = row["ratios"][self.against]["median"]
        return found <= self.bound if self.at_most else found >= self.bound


PROMISES = (
    Promise("explanation", "forward", 3.0, modes=("default",)),
    Promise("explanation", "jax-gradient", 1.3, modes=("default",)),
    Promise("explanation", "jax-gradient", 1.2, modes=("lrp-epsilon", "attnlrp")),
    Promise("forward", "torch-forward", 1.3),
    Promise("zennit", "explanation", 2.0, False, modes=("lrp-epsilon-plus",), workloads=("resnet18", "vgg16")),
    Promise("lxt", "explanation", 1.5, False, modes=("attnlrp",)),
    Promise("dl-backtrace-0.1.24", "explanation", 50.0, False, modes=("default",), workloads=("resnet18",)),
    Promise("dl-backtrace-0.1.24", "explanation", 1000.0, False, modes=("default",), workloads=("bert_base",)),
)


def examined(rows: Sequence[Row]) -> Iterator[tuple[Promise, list[Row]]]:
    """Each promise with the rows it is about."""
    for promise in PROMISES:
        yield promise, [row for row in rows if promise.concerns(row)]
