"""The books of a walk: what every node received, handed on and kept, as totals in float64.

A walk books one total after the other; together they become arrays at the end. An array for every node on its way
would cost more to compile than the walk itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ..rules import BIAS, CONSTANT, DEAD, STABILISER

KEPT = (BIAS, CONSTANT, STABILISER, DEAD)
_COLUMNS = 2 + len(KEPT)
_STRAIN = 2
_TOGETHER = 32  # arrays that XLA concatenates at once


class Books(NamedTuple):
    """What happened to the relevance, by the nodes of the plan.

    Attributes:
        signed: [nodes, 6] totals: received, handed on, then what was kept back by cause (`KEPT`); in pairs
            [nodes, 6, 2].
        absolute: The same of magnitudes, so that errors that cancel show.
        strain: [nodes, 2] what was lost because the range is too small, and whether all products vanished; in pairs
            [nodes, 2, 2].
    """

    signed: Any
    absolute: Any
    strain: Any


class Total(NamedTuple):
    """A sum, and the sum of magnitudes; in pairs one for each channel, [2]."""

    signed: Array
    absolute: Array


def total(array: Array, nonnegative: bool = False, *, paired: bool = False) -> Total:
    """Sums over all axes but that of pairs, in float64: the books show the rules' rounding and not their own."""
    axes = tuple(range(1, array.ndim)) if paired else None
    signed = jnp.sum(array.astype(jnp.float64), axes)
    # the magnitude is taken before widening: a shared float64 copy of the array would be written to memory
    return Total(signed, signed if nonnegative else jnp.sum(jnp.abs(array).astype(jnp.float64), axes))


class Booking:
    """Books that are being written, row by row.

    Attributes:
        nothing: The total of nothing.
    """

    def __init__(self, *, paired: bool) -> None:
        zero = jnp.zeros((2,) if paired else (), jnp.float64)
        self.nothing = Total(zero, zero)
        self._entries: dict[int, tuple[int, Array]] = {}  # by identity: most totals stand in several places
        self._open: list[tuple[int, ...]] = []  # rows since the last body
        self._parts: list[list[tuple[int, ...]] | Books] = [self._open]

    def sum(self, entries: Sequence[Total]) -> Total:
        """Totals added up."""
        return jax.tree.map(lambda *each: sum(each[1:], each[0]), *entries) if entries else self.nothing

    def row(self, *columns: Sequence[Total], strain: Sequence[Array] = ()) -> None:
        """Book a node: what it received, handed on and kept by cause, as totals to be added up, and its strain."""
        totals = [self.sum(each) for each in columns]
        strain = strain or (self.nothing.signed,) * _STRAIN
        booked = (*(each[i] for i in range(2) for each in totals), *strain)
        self._open.append(tuple(map(self._place, booked)))

    def blank(self, rows: int) -> None:
        """Book nodes that nothing has reached."""
        for _ in range(rows):
            self.row(*((),) * _COLUMNS)

    def body(self, books: Books) -> None:
        """Book the nodes of a body."""
        self._open = []
        self._parts += [books, self._open]

    def closed(self) -> Books:
        """All rows together."""
        self._place(self.nothing.signed)
        entries = _joined([entry[None] for _, entry in self._entries.values()])
        parts = [part if isinstance(part, Books) else _rows(entries, part) for part in self._parts]
        return parts[0] if len(parts) == 1 else Books(*map(jnp.concatenate, zip(*parts, strict=True)))

    def _place(self, entry: Array) -> int:
        return self._entries.setdefault(id(entry), (len(self._entries), entry))[0]


def _rows(entries: Array, places: Sequence[tuple[int, ...]]) -> Books:
    found = np.reshape(np.array(places, np.int32), (-1, 2 * _COLUMNS + _STRAIN))
    return Books(*(entries[each] for each in np.split(found, [_COLUMNS, 2 * _COLUMNS], axis=1)))


def _joined(arrays: Sequence[Array]) -> Array:
    """Arrays one after the other, a few at a time: XLA takes the square of their number."""
    while len(arrays) > 1:
        groups = [arrays[i : i + _TOGETHER] for i in range(0, len(arrays), _TOGETHER)]
        arrays = [jnp.concatenate(lax.optimization_barrier(group)) for group in groups]
    return arrays[0]
