"""What a verification found: checks, the first difference of each, and the hash that all explanations share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from backtrace_jax.errors.texts import printable

Arrays: TypeAlias = Sequence[tuple[str, np.ndarray]]
"""Arrays by name, batch first."""


@dataclass(frozen=True)
class Difference:
    """The first entry in which two explanations of one example differ.

    Attributes:
        part: The array, as `relevance['image']`.
        example: The example, as the inputs number them.
        index: The entry within the example; None where types or shapes differ.
        one: What is there.
        other: What is there in the other one.
    """

    part: str
    example: int
    index: tuple[int, ...] | None
    one: str
    other: str

    def __str__(self) -> str:
        """In a line."""
        place = "" if self.index is None else f" at {list(self.index)}"
        return f"{self.part} of example {self.example}{place}: {self.one} against {self.other}"


@dataclass(frozen=True)
class Check:
    """One way to explain the examples once more.

    Attributes:
        name: What was done.
        difference: The first difference; None where all bytes are equal.
        failure: Why it could not be done; empty where it was.
        skipped: Why it was not done; empty where it was.
        found: What a comparison within a tolerance found; empty where bytes were compared.
    """

    name: str
    difference: Difference | None = None
    failure: str = ""
    skipped: str = ""
    found: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against it."""
        return self.difference is None and not self.failure

    def __str__(self) -> str:
        """In a line."""
        if self.difference is not None:
            said = f"DIFFERS: {self.difference}"
        elif self.failure:
            said = f"FAILED: {self.failure}"
        else:
            said = f"left out: {self.skipped}" if self.skipped else self.found or "same bytes"
        return printable(f"{self.name:<28}{said}")


@dataclass(frozen=True)
class Verification:
    """What `verify` found; prints as a line for each check, and the hash that all explanations share.

    Attributes:
        sha256: Of relevance, outputs, layers, target and books of all examples together.
        examples: How many there are.
        checks: What was compared.
    """

    sha256: str
    examples: int
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether no check found a difference."""
        return all(check.ok for check in self.checks)

    def __str__(self) -> str:
        """The report."""
        return "\n".join([*map(str, self.checks), self.conclusion])

    @property
    def conclusion(self) -> str:
        """The last line."""
        count = f"{self.examples} example{'s' if self.examples > 1 else ''}"
        if self.ok:
            return f"SHA-256 {self.sha256} in all of them, {count}"
        differ, failed = ([c.name for c in self.checks if getattr(c, part)] for part in ("difference", "failure"))
        said = [f"{what}: {', '.join(names)}" for what, names in (("differs", differ), ("failed", failed)) if names]
        return f"{'; '.join(said)} ({count})"


def first_difference(together: Arrays, other: Arrays, places: np.ndarray) -> Difference | None:
    """The first entry whose bytes differ.

    Args:
        together: Of all examples.
        other: Of some of them, the same arrays in the same order.
        places: Which examples these are.
    """
    for (name, array), (_, found) in zip(together, other, strict=True):
        expected = array[places]
        if (found.shape, found.dtype) != (expected.shape, expected.dtype):
            kinds = (f"{each.dtype.name} {list(each.shape)}" for each in (expected, found))
            return Difference(name, int(places[0]), None, *kinds)
        if expected.tobytes() != found.tobytes():
            where = tuple(map(int, np.argwhere(_bits(expected) != _bits(found))[0]))
            return Difference(name, int(places[where[0]]), where[1:], *_values(expected[where], found[where]))
    return None


def _bits(array: np.ndarray) -> np.ndarray:
    """The entries as whole numbers of the same bytes."""
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")


def _values(one: Any, other: Any) -> tuple[str, str]:
    """Two entries as text; with their bytes, where they read alike."""
    texts = [str(each) for each in (one, other)]
    if texts[0] == texts[1]:
        texts = [f"{text} (0x{each.tobytes().hex()})" for text, each in zip(texts, (one, other), strict=True)]
    return texts[0], texts[1]
