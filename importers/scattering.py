"""Writes rows to places given by cells (see `ops/scattering.py`): the last of them, their sum, product or extreme."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from backtrace_jax.errors import UnsupportedError
from backtrace_jax.passes.build import Builder, Value

_MOST_FACTORS = 64  # updates multiplied into one entry: each is a step of the graph


def _last(builder: Builder, data: Value, updates: Value, cells: Value) -> Value:
    """The last update written to each cell, or what was there."""
    writers = builder.emit("last_writers", cells, count=data.shape[0])
    return _written(builder, data, updates, writers, lambda candidates: candidates)


def _written(builder: Builder, data: Value, updates: Value, writers: Value, combine: Callable[[Value], Value]) -> Value:
    """Data, but where a cell has a writer, what `combine` makes of the update that it is."""
    if isinstance(writers, np.ndarray) and (writers < 0).all():
        return data
    zero = np.zeros((), np.int64)
    candidates = builder.emit("gather", updates, builder.emit("maximum", writers, zero), axis=0)
    column = builder.reshape(writers, (*writers.shape, *(1,) * (len(data.shape) - 1)))
    return builder.emit("where", builder.emit("greater_equal", column, zero), combine(candidates), data)


def _add(builder: Builder, data: Value, updates: Value, cells: Value) -> Value:
    total = builder.emit("scatter_add", updates, cells, count=data.shape[0])
    empty = isinstance(data, np.ndarray) and not data.any()  # sums of messages usually start from zeros
    return total if empty else builder.emit("add", data, total)


def _multiply(builder: Builder, data: Value, updates: Value, cells: Value) -> Value:
    """Factor after factor: the first one that each cell is multiplied by, then the second, ..."""
    for writers in _rounds(builder.known(cells, "where factors are scattered to"), data.shape[0]):
        before = data
        data = _written(builder, before, updates, writers, lambda factor, x=before: builder.emit("mul", x, factor))
    return data


def _rounds(cells: np.ndarray, count: int) -> list[np.ndarray]:
    """Writers of each cell, one to a cell and round, in the order of the updates."""
    inside = np.flatnonzero(cells < count)
    order = inside[np.argsort(cells[inside], kind="stable")]
    targets = cells[order]
    turn = np.arange(targets.size) - np.searchsorted(targets, targets)
    most = int(turn.max(initial=-1)) + 1
    if most > _MOST_FACTORS:
        raise UnsupportedError(
            f"{most} factors scattered to one entry, more than {_MOST_FACTORS}; multiply them before they are scattered"
        )
    rounds = np.full((most, count), -1, np.int64)
    rounds[turn, targets] = order
    return list(rounds)


def _extreme(op: str) -> Callable[[Builder, Value, Value, Value], Value]:
    return lambda builder, data, updates, cells: builder.emit(op, data, updates, cells)


_REDUCTIONS: dict[str, Callable[[Builder, Value, Value, Value], Value]] = {
    "none": _last,
    "add": _add,
    "mul": _multiply,
    "max": _extreme("scatter_max"),
    "min": _extreme("scatter_min"),
}


def scatter_rows(builder: Builder, data: Value, updates: Value, cells: Value, reduction: str) -> Value:
    """Rows of data [count, ...] with updates [n, ...] written to cells [n].

    Args:
        builder: What builds the graph.
        data: The rows.
        updates: What is written.
        cells: The row that each update is written to; beyond the last row: to none.
        reduction: "none": the last update stays; "add", "mul", "max", "min": combined with what is there.
    """
    return _REDUCTIONS[reduction](builder, data, updates, cells)
