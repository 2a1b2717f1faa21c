"""The arrays of a store: what each holds of an example, and how it lies on the disk."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backtrace_jax.errors import InputError
from backtrace_jax.sources.protocol import Typed, typed

from .sizes import chunk_size
from .taking import RELEVANCE

EXAMPLE, BLOCK = "example", "block"
"""Names of first axes."""

STATUS, REASON, LENGTH, CARRIED = "status", "reason", "length", "carried"
PENDING, DONE, FAILED = 0, 1, 2
"""What the status of an example says."""

TEXT = "str"


@dataclass(frozen=True)
class Stored:
    """An array of the store.

    Attributes:
        shape: Of the entry of one example.
        dtype: Name of the type; "str" of texts.
        axes: Names of its axes, without that of the examples.
    """

    shape: tuple[int, ...]
    dtype: str
    axes: tuple[str, ...]

    @classmethod
    def of(cls, key: str, kind: Typed) -> Stored:
        """An array of this key."""
        shape, dtype = kind
        name = np.dtype(dtype)
        return cls(tuple(shape), TEXT if name.kind in "SU" else dtype, _axes(key, len(shape)))

    @property
    def size(self) -> int:
        """Bytes of the entry of one example."""
        return math.prod(self.shape) * (_OF_TEXT if self.dtype == TEXT else np.dtype(self.dtype).itemsize)


_OF_TEXT = 16  # bytes that a text is taken for


def _axes(key: str, rank: int) -> tuple[str, ...]:
    """Names of axes: an input and its relevance share them, columns of books have one name."""
    if "ledger." in key or "nodes." in key:
        return ("node", "column")[-rank:]
    for kind in ("inputs.", f"{RELEVANCE}."):
        key = key.rpartition(kind)[2] if kind in key else key
    return tuple(f"{key}.{axis}" for axis in range(rank))


def arrays_of(taken: Mapping[str, np.ndarray], carried: Mapping[str, Typed], *, ragged: bool) -> dict[str, Stored]:
    """The arrays of a store.

    Args:
        taken: What is taken of an explanation at the longest shape.
        carried: Columns that travel along.
        ragged: Whether shapes of examples differ.
    """
    found = {key: Stored.of(key, typed(array)) for key, array in taken.items()}
    found |= {f"{CARRIED}.{name}": Stored.of(f"{CARRIED}.{name}", kind) for name, kind in carried.items()}
    if ragged:
        for key, array in taken.items():
            if array.ndim > 1 and not key.rpartition(".")[0].endswith(("ledger", "nodes")):
                found[f"{LENGTH}.{key}"] = Stored.of("axis", ((array.ndim - 1,), "int32"))
    return found | {STATUS: Stored((), "uint8", ()), REASON: Stored((), TEXT, ())}


def chunks_of(stored: Stored, block: int) -> tuple[int, ...]:
    """Shape of what is compressed together."""
    return (chunk_size(stored.size, block), *stored.shape)


def filled(into: np.ndarray, places: np.ndarray, rows: np.ndarray, key: str) -> None:
    """Write the entries of some examples into those of a block; what is shorter is followed by zeros.

    Raises:
        InputError: When an entry is larger than what the store holds.
    """
    if rows.ndim != into.ndim or any(a > b for a, b in zip(rows.shape[1:], into.shape[1:], strict=True)):
        raise InputError(
            f"{key!r} has shape {list(rows.shape[1:])} here, and {list(into.shape[1:])} in the first example: the "
            "source changes its shape halfway"
        )
    if rows.shape[1:] == into.shape[1:] and len(places) == len(into):
        into[...] = rows
    else:
        into[(places, *(slice(size) for size in rows.shape[1:]))] = rows


def block_arrays(
    layout: Mapping[str, Stored], count: int, parts: Sequence[tuple[np.ndarray, Mapping[str, np.ndarray]]]
) -> dict[str, np.ndarray]:
    """The arrays of a block from what was taken of its parts, zeros where there is nothing."""
    found: dict[str, Any] = {}
    for key in parts[0][1] if parts else ():
        found[key] = _joined(layout[key], count, [(places, taken[key]) for places, taken in parts], key)
        if f"{LENGTH}.{key}" in layout:
            lengths = [(places, np.asarray([taken[key].shape[1:]] * len(places), np.int32)) for places, taken in parts]
            found[f"{LENGTH}.{key}"] = _joined(layout[f"{LENGTH}.{key}"], count, lengths, key)
    return found


def _joined(stored: Stored, count: int, parts: list[tuple[np.ndarray, np.ndarray]], key: str) -> np.ndarray:
    places, rows = parts[0]
    if len(parts) == 1 and len(places) == count and rows.shape[1:] == stored.shape:
        return rows.astype(stored.dtype, copy=False)
    into = np.zeros((count, *stored.shape), stored.dtype)
    for places, rows in parts:
        filled(into, places, rows, key)
    return into
