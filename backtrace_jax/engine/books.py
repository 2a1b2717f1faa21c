"""The books of a walk: what every node received, handed on and kept, as totals in float64.

A walk books one total after the other; together they become arrays at the end. Books of the whole graph need what is
kept alone: what it receives is the start, and what it hands on lies at the inputs. At every level the strain of each
node is told: whether relevance is right does not depend on how it is accounted for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from backtrace_jax.question.words import NODES
from backtrace_jax.rules import BIAS, CONSTANT, DEAD, STABILISER

from .steps import Plan
from .tracing import Traces

KEPT = (BIAS, CONSTANT, STABILISER, DEAD)
_COLUMNS = 2 + len(KEPT)
_STRAIN = 2
_TOGETHER = 32  # arrays that XLA concatenates at once


class Books(NamedTuple):
    """What happened to the relevance, by the nodes of the plan.

    Attributes:
        signed: [nodes, 6] totals: received, handed on, then what was kept back by cause (`KEPT`); in pairs
            [nodes, 6, 2]. Of the graph as a whole one row, which holds nothing but what was kept until it is settled;
            None: no books.
        absolute: The same of magnitudes, so that errors that cancel show.
        strain: [nodes, 2] what was lost because the range is too small, and whether all products vanished; in pairs
            [nodes, 2, 2].
    """

    signed: Any
    absolute: Any
    strain: Any


def rows_of(plan: Plan, ledger: str | None) -> tuple[int, ...]:
    """Rows of the books that add up to those of the whole graph."""
    return plan.own_rows if ledger == NODES else (0,)


def kept_in(books: Books, plan: Plan, ledger: str | None) -> dict[str, list[Total]]:
    """What a body has kept, by cause."""
    if ledger is None:
        return {cause: [] for cause in KEPT}
    rows = jnp.array(rows_of(plan, ledger), jnp.int32)
    own = [jnp.sum(book[rows], axis=0) for book in (books.signed, books.absolute)]
    return {cause: [Total(*(each[2 + i] for each in own))] for i, cause in enumerate(KEPT)}


class Total(NamedTuple):
    """A sum, and the sum of magnitudes; in pairs one for each channel, [2]."""

    signed: Array
    absolute: Array


def total(array: Array, nonnegative: bool = False, *, paired: bool = False, value: Array | None = None) -> Total:
    """Sums over all axes but that of pairs, in float64: the books show the rules' rounding and not their own.

    Args:
        array: Relevance, or slopes.
        nonnegative: Whether no relevance is negative.
        paired: Whether there are two channels.
        value: Of which the array has the slopes; None: it holds relevance.
    """
    axes = tuple(range(1, array.ndim)) if paired else None
    array = array if value is None else relevance_of(array, value)
    signed = jnp.sum(array.astype(jnp.float64), axes)
    # the magnitude is taken before widening: a shared float64 copy of the array would be written to memory
    return Total(signed, signed if nonnegative else jnp.sum(jnp.abs(array).astype(jnp.float64), axes))


def relevance_of(slopes: Array, value: Array) -> Array:
    """Relevance R = x g; what has no slope has none, also where a mask has made x infinite."""
    return jnp.where(slopes == 0, 0, slopes * value.astype(slopes.dtype))


class Table:
    """Rows of scalars that are written one after the other, and become an array at the end.

    An array for every row on its way would cost more to compile than the walk itself. Books have two of them: modes may
    keep only the second.
    """

    def __init__(self, traces: Traces, blank: Array, columns: int) -> None:
        self._traces, self._blank, self._columns = traces, blank, columns
        self._entries: dict[int, tuple[int, Array]] = {}  # by identity: most entries stand in several places
        self._open: list[tuple[int, ...]] = []  # rows since the last body
        self._parts: list[list[tuple[int, ...]] | Array] = [self._open]

    def row(self, entries: Sequence[Array]) -> None:
        """Write a row."""
        self._open.append(tuple(map(self._place, entries)))

    def blank(self) -> None:
        """Write a row of nothing."""
        self.row((self._blank,) * self._columns)

    def body(self, rows: Array) -> None:
        """Write the rows of a body."""
        self._open = []
        self._parts += [rows, self._open]

    def closed(self) -> Array:
        """All rows together, [rows, columns, ...]."""
        self._place(self._blank)
        entries = _joined(self._traces, [entry for _, entry in self._entries.values()])
        parts = [entries[self._found(part)] if isinstance(part, list) else part for part in self._parts]
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts)

    def _found(self, places: list[tuple[int, ...]]) -> np.ndarray:
        return np.reshape(np.array(places, np.int32), (-1, self._columns))

    def _place(self, entry: Array) -> int:
        return self._entries.setdefault(id(entry), (len(self._entries), entry))[0]


class Booking:
    """Books that are being written, row by row.

    Attributes:
        nothing: The total of nothing.
        ledger: Of what they are kept.
    """

    def __init__(self, traces: Traces, ledger: str | None, *, paired: bool) -> None:
        zero = jnp.zeros((2,) if paired else (), jnp.float64)
        self.nothing, self.ledger = Total(zero, zero), ledger
        self._totals, self._strain = (Table(traces, zero, columns) for columns in (2 * _COLUMNS, _STRAIN))

    def sum(self, entries: Sequence[Total]) -> Total:
        """Totals added up."""
        return jax.tree.map(lambda *each: sum(each[1:], each[0]), *entries) if entries else self.nothing

    def row(self, *columns: Sequence[Total], strain: Sequence[Array] = ()) -> None:
        """Book a node: what it received, handed on and kept by cause, as totals to be added up, and its strain."""
        if self.ledger is not None:
            totals = [self.sum(each) for each in columns]
            self._totals.row([each[i] for i in range(2) for each in totals])
        self._strain.row(strain or (self.nothing.signed,) * _STRAIN)

    def blank(self, rows: int) -> None:
        """Book nodes that nothing has reached."""
        for _ in range(rows):
            if self.ledger == NODES:
                self._totals.blank()
            self._strain.blank()

    def body(self, books: Books) -> None:
        """Book the nodes of a body, which in the books of the whole graph are part of its step's."""
        if self.ledger == NODES:
            self._totals.body(jnp.concatenate(books[:2], axis=1))
        self._strain.body(books.strain)

    def closed(self) -> Books:
        """All rows together, or added up."""
        if self.ledger is None:
            return Books(None, None, self._strain.closed())
        rows = self._totals.closed()
        rows = rows if self.ledger == NODES else jnp.sum(rows, axis=0, keepdims=True)
        signed, absolute = jnp.split(rows, 2, axis=1)
        return Books(signed, absolute, self._strain.closed())


def _joined(traces: Traces, entries: list[Array]) -> Array:
    """Entries one after the other, a few at a time: XLA takes the square of their number."""
    how = _stacked
    while len(entries) > 1 or how is _stacked:
        groups = [entries[i : i + _TOGETHER] for i in range(0, len(entries), _TOGETHER)]
        entries, how = [traces.call(how, how, group) for group in groups], _concatenated
    return entries[0]


def _stacked(entries: list[Array]) -> Array:
    return _concatenated([entry[None] for entry in entries])


def _concatenated(arrays: list[Array]) -> Array:
    return jnp.concatenate(lax.optimization_barrier(arrays))
