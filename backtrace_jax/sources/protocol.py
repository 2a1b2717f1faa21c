"""What a source of examples is: how many there are, and examples i to j of them; or a stream, read from the front."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

Typed = tuple[tuple[int, ...], str]
"""Shape of one example, and the name of its type."""


@dataclass(frozen=True, eq=False)
class Group:
    """Examples of one shape.

    Attributes:
        places: [examples], which of the block's examples these are, from 0, increasing.
        inputs: By input name, batch first (whatever axis the model has it on), one entry for each of the places.
    """

    places: np.ndarray
    inputs: Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Examples:
    """Consecutive examples of a source.

    Attributes:
        count: How many, the failed ones included.
        groups: Those that could be read: one group where all have one shape, several where lengths differ.
        carried: Columns asked for by name (labels, say), batch first, of all examples.
        failed: By place, why an example could not be read. It is in no group; its carried values are zeros, or empty.
    """

    count: int
    groups: tuple[Group, ...]
    carried: Mapping[str, np.ndarray] = field(default_factory=dict)
    failed: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Schema:
    """What is known of a source before its first example is explained; goes into the fingerprint of what is made of it.

    Attributes:
        inputs: By input name, shape of one example (the longest, where lengths differ) and type.
        carried: The same of the columns that are carried.
        features: By input name, what its columns are called, where they have names.
        kept: Names of integer inputs (token ids) that are stored beside the relevance, and the word of every id, where
            that is known.
        lengths: Where texts are padded to several lengths, these; shapes of examples differ then.
        identity: Of what kind the source is, and what it does to examples (size, mean, tokenizer ...), as JSON.
        unsteady: Why a second reading gives examples in another order; empty where it does not.
    """

    inputs: Mapping[str, Typed]
    carried: Mapping[str, Typed] = field(default_factory=dict)
    features: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    kept: Mapping[str, tuple[str, ...] | None] = field(default_factory=dict)
    lengths: tuple[int, ...] = ()
    identity: Mapping[str, Any] = field(default_factory=dict)
    unsteady: str = ""


def typed(array: np.ndarray, *, batched: bool = True) -> Typed:
    """Shape of one of the examples, and the name of their type."""
    kind = array.dtype
    name = "str" if kind.kind == "T" else kind.str if kind.kind in "SUmM" else kind.name
    return array.shape[batched:], name


@runtime_checkable
class Source(Protocol):
    """Where examples come from."""

    @property
    def schema(self) -> Schema:
        """What is known of the examples."""
        ...

    @property
    def count(self) -> int | None:
        """How many there are; None for a stream, which is read once, from the front."""
        ...

    def read(self, first: int, last: int) -> Examples:
        """Examples from `first` to before `last`; several threads may read at once. Not of streams."""
        ...

    def stream(self) -> Iterator[Examples]:
        """Examples from the front, any number at a time. Of streams only."""
        ...
