"""The arrays of a store: what each holds of an example, and how it lies on the disk."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backtrace_jax.errors import InputError
from backtrace_jax.sources.protocol import Schema, Typed, typed

from .sizes import chunk_size
from .taking import input_of, is_of_books, key

EXAMPLE, BLOCK = "example", "block"
"""Names of first axes."""

STATUS, REASON, LENGTH, CARRIED = "status", "reason", "length", "carried"
PENDING, DONE, FAILED = 0, 1, 2
"""What the status of an example says."""

NODE, COLUMN = "node", "column"
"""Axes of books."""

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
    def of(cls, kind: Typed, base: str) -> Stored:
        """An array whose axes are called after this base."""
        shape, dtype = kind
        text = np.dtype(dtype).kind in "SU"
        return cls(tuple(shape), TEXT if text else dtype, tuple(f"{base}.{axis}" for axis in range(len(shape))))

    @property
    def size(self) -> int:
        """Bytes of the entry of one example."""
        return math.prod(self.shape) * (_OF_TEXT if self.dtype == TEXT else np.dtype(self.dtype).itemsize)


_OF_TEXT = 16  # bytes that a text is taken for


def arrays_of(taken: Mapping[str, np.ndarray], schema: Schema) -> dict[str, Stored]:
    """The arrays of a store.

    Args:
        taken: What is taken of an explanation at the longest shape.
        schema: What is known of the source.
    """
    found = {each: _taken(each, typed(array), schema) for each, array in taken.items()}
    found |= {key(CARRIED, name): Stored.of(kind, key(CARRIED, name)) for name, kind in schema.carried.items()}
    for each, array in taken.items() if schema.lengths else ():
        if array.ndim > 1 and found[each].axes[-1] != COLUMN:
            found[f"{LENGTH}.{each}"] = Stored((array.ndim - 1,), "int32", (f"axes.{each}",))
    return found | {STATUS: Stored((), "uint8", ()), REASON: Stored((), TEXT, ())}


def _taken(key: str, kind: Typed, schema: Schema) -> Stored:
    """An array of what is taken: an input and its relevance share their axes, and so do all books."""
    shape, dtype = kind
    if is_of_books(key):
        return Stored(tuple(shape), dtype, (NODE, COLUMN)[-len(shape) :])
    name = input_of(key)
    return Stored.of(kind, name if name in schema.inputs and tuple(schema.inputs[name][0]) == tuple(shape) else key)


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
    for each in parts[0][1] if parts else ():
        _check_shapes(each, layout, [taken[each].shape[1:] for _, taken in parts])
        found[each] = _joined(layout[each], count, [(places, taken[each]) for places, taken in parts], each)
        if f"{LENGTH}.{each}" in layout:
            lengths = [(places, np.asarray([taken[each].shape[1:]] * len(places), np.int32)) for places, taken in parts]
            found[f"{LENGTH}.{each}"] = _joined(layout[f"{LENGTH}.{each}"], count, lengths, each)
    return found


def _check_shapes(key: str, layout: Mapping[str, Stored], shapes: Sequence[tuple[int, ...]]) -> None:
    """Refuse shapes that differ where the source has said nothing of lengths.

    Raises:
        InputError: Naming both.
    """
    other = [shape for shape in shapes if shape != layout[key].shape]
    if other and f"{LENGTH}.{key}" not in layout:
        raise InputError(
            f"{key!r} has shape {list(other[0])} here, and {list(layout[key].shape)} in the first example: the source "
            "changes its shape halfway"
        )


def _joined(stored: Stored, count: int, parts: list[tuple[np.ndarray, np.ndarray]], key: str) -> np.ndarray:
    places, rows = parts[0]
    if len(parts) == 1 and len(places) == count and rows.shape[1:] == stored.shape:
        return rows.astype(stored.dtype, copy=False)
    into = np.zeros((count, *stored.shape), stored.dtype)
    for places, rows in parts:
        filled(into, places, rows, key)
    return into
