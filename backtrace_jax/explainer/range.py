"""Relevance that got lost because numbers left the range of floats: refused, at whatever level books are kept.

Books of nodes say where relevance got lost, those of the whole graph only that it did; without books it is noticed
where the strain of a node shows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

import numpy as np

from backtrace_jax.engine.books import rows_of
from backtrace_jax.engine.compile import Result
from backtrace_jax.engine.compiled import Compiled
from backtrace_jax.engine.strain import LOSS, VANISHED
from backtrace_jax.errors import NumericsError
from backtrace_jax.explanation.ledger import Ledger
from backtrace_jax.question.words import NODES, TOTAL
from backtrace_jax.runtime.numerics import below_normal

LARGEST_LOSS = 1e-3  # of the start, or of what a node received
_NAMED = 8  # examples named in a message


def check_range(compiled: Compiled, feeds: Mapping[str, np.ndarray], result: Result) -> None:
    """Refuse relevance that got lost because numbers overflowed, or vanished: dead for want of range, not of evidence.

    A rule of the user's own need not conserve, and its books may stay open.
    """
    conserving = compiled.request.mode.conserving
    lost, missing = _lost_relevance(compiled, result) if conserving else _lost_slopes(result)
    if not (lost.any() or missing.any()):
        return
    gone = _summed(result.strain[:, :, VANISHED]) > 0
    if missing.any():
        gone |= _flushed(compiled, feeds, len(gone))
    strained = lost | (missing[:, None] & gone)
    bad = np.flatnonzero(strained.any(axis=1))
    if len(bad):
        node, dtype = compiled.request.plan.nodes[int(strained[bad[0]].argmax())], compiled.output.dtype.name
        raise NumericsError(
            f"relevance is lost in examples {listed_few(bad)} at node {node!r}, whose numbers leave the range of "
            f"{dtype}; {wider(compiled)}{_surer(compiled)}"
        )


def _lost_relevance(compiled: Compiled, result: Result) -> tuple[np.ndarray, np.ndarray]:
    """The nodes that lost a part of the relevance, [runs, nodes], and the runs that may miss some."""
    start = result.start[..., 1].reshape(len(result.start), -1).sum(axis=1)
    losses, floor = _summed(result.strain[:, :, LOSS]), start[:, None]
    missing = (_missing(compiled, result) > LARGEST_LOSS * start) | (start == 0)
    if result.books is None or compiled.request.ledger != NODES:
        return losses > LARGEST_LOSS * floor if losses.any() else np.zeros(losses.shape, bool), missing
    signed, absolute = (np.moveaxis(book, 2, -1) for book in result.books[:2])  # [runs, nodes, channels, columns]
    lost = losses > LARGEST_LOSS * np.maximum(floor, _summed(absolute[..., 0]))
    gaps = np.abs(signed[..., 0] - signed[..., 1:].sum(axis=-1))
    open_ = _summed(gaps) > LARGEST_LOSS * np.maximum(floor, _summed(absolute.max(axis=-1)))
    return lost | (open_ & _closing(compiled)), missing


def _missing(compiled: Compiled, result: Result) -> np.ndarray:
    """What may be missing for want of range, [runs]: what is dead or stabilised, and what no book of a node tells."""
    books, request = result.books, compiled.request
    if books is None:
        return _not_arrived(result)
    rows = list(rows_of(request.plan, request.ledger))
    stabiliser, dead = (_summed(books.absolute[:, rows, column]).sum(axis=1) for column in (-2, -1))
    if request.ledger == NODES:
        return stabiliser + dead
    kept = books.signed[:, 0, 2:].sum(axis=1)
    return np.maximum(stabiliser + dead, _not_arrived(result, kept.reshape(len(kept), -1)))


def _closing(compiled: Compiled) -> np.ndarray:
    """Nodes whose books should close: all, or where a user's own rules take part those that hand on slopes."""
    plan = compiled.request.plan
    closing = np.full(len(plan.nodes), not compiled.request.mode.own_rules)
    closing[[row for row, step in zip(plan.own_rows, plan.steps, strict=True) if step.slopes]] = True
    return closing


def _not_arrived(result: Result, kept: np.ndarray | float = 0.0) -> np.ndarray:
    """What of the start did not reach the inputs and was not kept on the way, [runs]; without books nothing is known
    of what was kept."""
    start = result.start[..., 0].reshape(len(result.start), -1)  # [runs, channels]
    arrived = (array.reshape(*start.shape, -1).sum(axis=2, dtype=np.float64) for array in result.relevance.values())
    return np.abs(start - sum(arrived) - kept).sum(axis=1)


def check_closed(compiled: Compiled, books: Sequence[Ledger]) -> None:
    """Refuse books of the whole graph that do not close: relevance is lost somewhere, and they do not say where.

    Raises:
        NumericsError: Naming the examples, and the books that tell the node.
    """
    if compiled.request.ledger != TOTAL or compiled.request.mode.own_rules:
        return
    gaps = sum(np.abs(each.start - sum(each.signed[:, 1:].T)) for each in books)  # whole columns are added fast
    bad = np.flatnonzero(gaps > LARGEST_LOSS * sum(reduce(np.maximum, each.absolute.T) for each in books))
    if len(bad):
        raise NumericsError(
            f"the books do not close in examples {listed_few(bad)}: relevance is lost where numbers leave the range "
            f"of {compiled.output.dtype.name}; {wider(compiled)}, or with ledger='nodes', which tells the node"
        )


def _lost_slopes(result: Result) -> tuple[np.ndarray, np.ndarray]:
    """The same of slopes, of which there are no books: all may be missing where an input gets none at all."""
    none = [~array.reshape(len(array), -1).any(axis=1) for array in result.relevance.values()]
    return _summed(result.strain[:, :, LOSS]) > 0, np.any(none, axis=0)


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


def _summed(book: np.ndarray) -> np.ndarray:
    """Totals of nodes over channels, [runs, nodes]."""
    return book if book.ndim == 2 else book.sum(axis=tuple(range(2, book.ndim)))


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
