"""Sequences of unequal length, padded to a few lengths, so that a few compiled functions serve them all.

What a sequence is padded to depends on its own length alone, so its numbers are the same whatever it lies beside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backtrace_jax.errors import InputError

from .protocol import Typed
from .rows import Rows
from .values import Made, Maker, as_numbers

LENGTHS = (8, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512)
"""Lengths that `few` chooses from; longer texts are cut to the last, unless the tokenizer or the caller says more."""

MOST = 7
"""Lengths that are chosen: each is compiled, and an explainer keeps no more than eight compiled functions."""

PLAIN = (8, 16, 24, 32, 48, 64, 128, 512)
"""Lengths where it is not known how long texts will be: of streams."""

MASKS = ("attention_mask", "mask", "input_mask", "padding_mask")
"""Names of inputs and columns that tell tokens from padding."""


@dataclass(frozen=True)
class Padding:
    """How sequences are padded.

    Attributes:
        lengths: What to, increasing; none where each keeps its length.
        longest: The longest sequence that there may be.
        left: Whether the padding comes first.
    """

    lengths: tuple[int, ...]
    longest: int
    left: bool = False

    @property
    def several(self) -> tuple[int, ...]:
        """The lengths, where there are several; where each sequence keeps its own, the longest stands for them."""
        return () if len(self.lengths) == 1 else self.lengths or (self.longest,)

    def of(self, lengths: np.ndarray) -> np.ndarray:
        """What sequences of these lengths are padded to."""
        table = np.array(self.lengths or [self.longest], np.int64)
        return table[np.searchsorted(table, lengths)] if self.lengths else lengths

    def laid(self, sequences: Sequence[Any], width: int, pad: int, dtype: np.dtype) -> np.ndarray:
        """Sequences as rows of an array; None is a row of padding."""
        array = np.full((len(sequences), width), pad, dtype)
        for row, sequence in zip(array, sequences, strict=True):
            if sequence is not None and len(sequence):
                row[slice(-len(sequence), None) if self.left else slice(len(sequence))] = sequence
        return array


@dataclass(frozen=True)
class Sequences(Maker):
    """Inputs that are columns of sequences of unequal length, as a tokenizer leaves them: ids, mask, types.

    Attributes:
        by_input: The column of each input.
        types: The type of each input.
        pads: What each is padded with.
        padding: What it is padded to.
    """

    by_input: Mapping[str, str]
    types: Mapping[str, np.dtype]
    pads: Mapping[str, int]
    padding: Padding

    def needs(self) -> tuple[str, ...]:
        """As `Maker.needs`."""
        return tuple(self.by_input.values())

    @property
    def inputs(self) -> Mapping[str, Typed]:
        """As `Maker.inputs`; as long as the longest may be."""
        return {name: ((self.padding.longest,), dtype.name) for name, dtype in self.types.items()}

    @property
    def kept(self) -> Mapping[str, tuple[str, ...] | None]:
        """Token ids, whose words nobody told."""
        return {name: None for name, dtype in self.types.items() if dtype.kind in "iu" and name not in MASKS}

    @property
    def lengths(self) -> tuple[int, ...]:
        """As `Maker.lengths`."""
        return self.padding.several

    @property
    def identity(self) -> Mapping[str, Any]:
        """What they are padded to, and with."""
        return {
            "columns": {name: [column] for name, column in self.by_input.items()},
            "lengths": [*self.padding.lengths] or "exact",
            "padding": {**self.pads, "first": self.padding.left},
        }

    def make(self, rows: Rows) -> Made:
        """As `Maker.make`."""
        failed: dict[int, str] = {}
        found = {name: self._sequences(rows, name, failed) for name in self.by_input}
        lengths = np.zeros(rows.count, np.int64)
        for place in (n for n in range(rows.count) if n not in rows.failed and n not in failed):
            sizes = {name: len(sequences[place]) for name, sequences in found.items()}
            lengths[place] = next(iter(sizes.values()))
            if len(set(sizes.values())) > 1:
                failed[place] = f"its sequences are of unequal lengths: {sizes}"
            elif not 0 < lengths[place] <= self.padding.longest:
                failed[place] = f"a sequence of {lengths[place]}; from 1 to {self.padding.longest} there may be"
        good = np.array([n not in failed and n not in rows.failed for n in range(rows.count)], bool)
        lengths = np.where(good, self.padding.of(np.where(good, lengths, 1)), 0)
        return Made(
            {name: self._laid(name, each, lengths, good) for name, each in found.items()},
            failed,
            lengths,
            self.padding.left,
        )

    def _laid(self, name: str, sequences: list[Any], lengths: np.ndarray, good: np.ndarray) -> np.ndarray:
        kept = [each if fine else None for each, fine in zip(sequences, good, strict=True)]
        return self.padding.laid(kept, int(lengths.max(initial=1)), self.pads[name], self.types[name])

    def _sequences(self, rows: Rows, name: str, failed: dict[int, str]) -> list[Any]:
        values, column = rows.columns[self.by_input[name]], self.by_input[name]
        found: list[Any] = [None] * rows.count
        for place in (n for n in range(rows.count) if n not in rows.failed):
            found[place] = _sequence(values[place], self.types[name])
            if found[place] is None:
                failed.setdefault(place, f"column {column!r} holds no sequence of {self.types[name].name}")
        return found


def _sequence(value: Any, dtype: np.dtype) -> np.ndarray | None:
    """A sequence of whole numbers in their type; None where it is none."""
    if (array := as_numbers(value)) is None or array.ndim != 1 or (array.dtype.kind not in "iub" and array.size):
        return None
    converted = array.astype(dtype)
    return converted if np.array_equal(converted, array) else None


def few(found: Sequence[int], longest: int, most: int = MOST) -> tuple[int, ...]:
    """At most so many of `LENGTHS`, and the longest, that pad sequences of these lengths least.

    Args:
        found: Lengths of some of the sequences.
        longest: The longest that there may be.
        most: How many there may be.
    """
    table = [*(n for n in LENGTHS if n < longest), longest]
    counts = np.bincount(np.searchsorted(table, np.minimum(found, longest)), minlength=len(table))
    below = [0, *np.cumsum(counts).tolist()]
    best = {0: _Choice(0, ())}  # by how many of the table are settled
    for _ in range(most):
        settled = {end: [(start, best[start]) for start in best if start < end] for end in range(1, len(table) + 1)}
        best |= {
            end: min(
                (each.with_length(table[end - 1], below[end] - below[start]) for start, each in ways), key=_Choice.cost
            )
            for end, ways in settled.items()
        }
    return best[len(table)].lengths


@dataclass(frozen=True)
class _Choice:
    """Tokens that sequences take, and the lengths that they are padded to."""

    tokens: int
    lengths: tuple[int, ...]

    def with_length(self, length: int, count: int) -> _Choice:
        return _Choice(self.tokens + length * count, (*self.lengths, length))

    def cost(self) -> tuple[int, int]:
        return self.tokens, len(self.lengths)


def padding_for(
    size: int | None, lengths: Any, longest: int, found: Sequence[int] = (), *, masked: bool, left: bool = False
) -> Padding:
    """How sequences are padded.

    Args:
        size: The length that the model takes; None: any.
        lengths: What the caller says: lengths, "exact", or nothing.
        longest: The longest that there is, or that a tokenizer cuts to.
        found: Lengths of some sequences, by which a few are chosen; none where it is not known how long they will be.
        masked: Whether the model is told what is padding.
        left: Whether the padding comes first.

    Raises:
        InputError: When padding could change an answer, or the model takes no such length.
    """
    if size is not None:
        if lengths not in (None, "exact") and tuple(lengths) != (size,):
            raise InputError(f"lengths={[*lengths]}: the model takes sequences of {size}; leave it out")
        return Padding((size,), size, left)
    if lengths == "exact":
        return Padding((), longest, left)
    if lengths is not None:
        return Padding(tuple(map(int, lengths)), int(lengths[-1]), left)
    if not masked:
        raise InputError(
            "the model takes no attention mask, so padding could change its answers; pass lengths='exact' (each length "
            "is compiled for itself), or lengths=[...] if it was trained on texts padded so"
        )
    table = few(found, longest) if len(found) else (*(n for n in PLAIN if n < longest), longest)
    return Padding(table, longest, left)
