"""Relevance that got lost because numbers left the range of floats: refused, at whatever level books are kept.

Books of nodes say where relevance got lost, those of the whole graph only that it did; without books it is noticed
where the strain of a node shows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

import numpy as np

from backtrace_jax.engine.compile import Result
from backtrace_jax.engine.compiled import Compiled
from backtrace_jax.engine.settling import summed
from backtrace_jax.engine.strain import LARGEST_LOSS, LOSS, VANISHED
from backtrace_jax.errors import NumericsError
from backtrace_jax.explanation.ledger import Ledger
from backtrace_jax.question.words import NODES, TOTAL
from backtrace_jax.runtime.numerics import below_normal

_NAMED = 8  # examples named in a message


def check_range(compiled: Compiled, feeds: Mapping[str, np.ndarray], result: Result) -> bool:
    """Refuse relevance that got lost because numbers overflowed, or vanished: dead for want of range, not of evidence.

    A rule of the user's own need not conserve, and its books may stay open.

    Returns:
        Whether some may be missing all the same, in which case books of the whole graph have to close.
    """
    request, lost = compiled.request, result.strain[:, :, LOSS]
    missing = _missing(compiled, result) if request.mode.conserving else _without_slopes(result)
    if request.ledger == NODES and result.books is not None:
        lost = lost | _open(compiled, result)
    doubtful = bool(missing.any())
    if not (lost.any() or doubtful):
        return False
    gone = result.strain[:, :, VANISHED]
    if doubtful:
        gone = gone | _flushed(compiled, feeds, len(gone))
    strained = lost | (missing[:, None] & gone)
    bad = np.flatnonzero(strained.any(axis=1))
    if len(bad):
        node, dtype = compiled.request.plan.nodes[int(strained[bad[0]].argmax())], compiled.output.dtype.name
        raise NumericsError(
            f"relevance is lost in examples {listed_few(bad)} at node {node!r}, whose numbers leave the range of "
            f"{dtype}; {wider(compiled)}{_surer(compiled)}"
        )
    return doubtful


def _open(compiled: Compiled, result: Result) -> np.ndarray:
    """The nodes whose books should close and do not, [runs, nodes]."""
    assert result.books is not None
    signed, absolute = (np.moveaxis(book, 2, -1) for book in result.books[:2])  # [runs, nodes, channels, columns]
    gaps = summed(np.abs(signed[..., 0] - signed[..., 1:].sum(axis=-1)))
    largest = np.maximum(_started(result)[:, None], summed(absolute.max(axis=-1)))
    return (gaps > LARGEST_LOSS * largest) & _closing(compiled)


def _started(result: Result) -> np.ndarray:
    """Magnitude of the start, [runs]."""
    return _added(result.start[..., 1])


def _added(totals: np.ndarray) -> np.ndarray:
    """Totals over channels, [runs]."""
    return totals if totals.ndim == 1 else totals.sum(axis=1)


def _missing(compiled: Compiled, result: Result) -> np.ndarray:
    """The runs in which a part may be missing for want of range: it is dead, stabilised, or no book of a node tells."""
    start, books = _started(result), result.books
    if books is None:
        amount = _not_arrived(result)
    elif compiled.request.ledger == NODES:
        rows = list(compiled.request.plan.own_rows)
        stabiliser, dead = (summed(books.absolute[:, rows, column]).sum(axis=1) for column in (-2, -1))
        amount = stabiliser + dead
    else:
        signed, absolute = books.signed[:, 0], books.absolute[:, 0]
        amount = np.maximum(_added(absolute[:, -2]) + _added(absolute[:, -1]), _added(np.abs(_gap(signed))))
    return (amount > LARGEST_LOSS * start) | (start == 0)


_AT_ONCE = 2**12  # runs whose books stay in the cache


def _gap(signed: np.ndarray) -> np.ndarray:
    """What books of the whole graph [runs, 6, ...] do not account for; whole columns are added fast."""
    found, columns = signed[:, 0].copy(), range(1, signed.shape[1])
    for first in range(0, len(signed), _AT_ONCE):
        some = signed[first : first + _AT_ONCE]
        found[first : first + _AT_ONCE] -= sum(some[:, column] for column in columns)
    return found


def _closing(compiled: Compiled) -> np.ndarray:
    """Nodes whose books should close: all, or where a user's own rules take part those that hand on slopes."""
    plan = compiled.request.plan
    closing = np.full(len(plan.nodes), not compiled.request.mode.own_rules)
    closing[[row for row, step in zip(plan.own_rows, plan.steps, strict=True) if step.slopes]] = True
    return closing


def _not_arrived(result: Result) -> np.ndarray:
    """What of the start did not reach the inputs, [runs]: without books nothing is known of what was kept."""
    start = result.start[..., 0].reshape(len(result.start), -1)  # [runs, channels]
    arrived = (array.reshape(*start.shape, -1).sum(axis=2, dtype=np.float64) for array in result.relevance.values())
    return np.abs(start - sum(arrived)).sum(axis=1)


def check_closed(compiled: Compiled, books: Sequence[Ledger]) -> None:
    """Refuse books of the whole graph that do not close: relevance is lost somewhere, and they do not say where.

    Raises:
        NumericsError: Naming the examples, and the books that tell the node.
    """
    if compiled.request.ledger != TOTAL or compiled.request.mode.own_rules:
        return
    gaps = sum(np.abs(_gap(each.signed)) for each in books)
    bad = np.flatnonzero(gaps > LARGEST_LOSS * sum(reduce(np.maximum, each.absolute.T) for each in books))
    if len(bad):
        raise NumericsError(
            f"the books do not close in examples {listed_few(bad)}: relevance is lost where numbers leave the range "
            f"of {compiled.output.dtype.name}; {wider(compiled)}, or with ledger='nodes', which tells the node"
        )


def _without_slopes(result: Result) -> np.ndarray:
    """The runs in which an input gets no slope at all, of which there are no books: all of it may be missing."""
    none = [~array.reshape(len(array), -1).any(axis=1) for array in result.relevance.values()]
    return np.any(none, axis=0)


def _flushed(compiled: Compiled, feeds: Mapping[str, np.ndarray], runs: int) -> np.ndarray:
    """The nodes that read weights or inputs of which XLA's CPU backend sees nothing but zeros, [runs, nodes]."""
    plan = compiled.request.plan
    found = np.zeros((runs, len(plan.nodes)), bool)
    floats = [var for var in plan.graph.inputs if var.is_float]
    inputs = {var.name: below_normal(compiled.grouped(feeds[var.name]), var.dtype) for var in floats}
    for row, step in zip(plan.own_rows, plan.steps, strict=True):
        for var in step.eqn.invars:
            found[:, row] |= inputs.get(var.name, var.name in compiled.flushed)
    return found


def wider(compiled: Compiled) -> str:
    """What keeps numbers within their range."""
    double = compiled.output.dtype == np.float64
    return "scale the model or its inputs" if double else "explain with dtype='float64' or a smaller scaler"


def listed_few(examples: np.ndarray) -> str:
    """Examples, of many the first."""
    more = ", ..." if len(examples) > _NAMED else ""
    return f"{', '.join(map(str, examples[:_NAMED]))}{more}"


def _surer(compiled: Compiled) -> str:
    """What tells for sure where only the start and the inputs are known."""
    unsure = compiled.request.mode.conserving and compiled.request.ledger is None
    return ", or with ledger='total', which tells what was kept" if unsure else ""
