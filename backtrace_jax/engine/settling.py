"""What a call gives, as it is kept on the host: done call by call, in the thread that made it and in its cache."""

from __future__ import annotations

import numpy as np

from backtrace_jax.question.words import NODES, TOTAL

from .books import Books
from .compile import Request, Result
from .strain import LARGEST_LOSS, LOSS, VANISHED


def settled(request: Request, result: Result) -> Result:
    """The result with strain as truths, and in total the columns of the books that its start and its relevance fill.

    Args:
        request: What was compiled.
        result: What a call gave, examples first, on the host.
    """
    with np.errstate(invalid="ignore"):  # an example may have no answer; that is told later
        books = _filled(request, result) if request.ledger == TOTAL and result.books else result.books
        return result._replace(books=books, strain=_strained(request, result))


def _filled(request: Request, result: Result) -> Books:
    """Books of the whole graph: what it received is the start, and what it handed on lies at the inputs."""
    assert result.books is not None
    names = [var.name for var in request.plan.graph.inputs if var.name in result.relevance]  # added up in this order
    found = []
    for k, (book, amounts) in enumerate(zip(result.books[:2], _arrived(request, result, names), strict=True)):
        whole = book.copy()
        whole[:, 0, 0], whole[:, 0, 1] = result.start[..., k], amounts
        found.append(whole)
    return Books(*found, None)


def _arrived(request: Request, result: Result, names: list[str]) -> list[np.ndarray]:
    """Relevance of the inputs, signed and in magnitudes: [examples], in pairs [examples, 2]."""
    arrived = np.zeros((len(result.start), 2, 2) if request.mode.paired else (len(result.start), 2))
    for name in names:
        array = result.relevance[name]
        if request.mode.paired:
            arrived += np.stack([totals(array[:, 0]), totals(array[:, 1])], axis=1)
        else:
            arrived += totals(array)
    return [arrived[..., 0], arrived[..., 1]]


_AT_ONCE = 2**15  # entries that are added up at a time, so that they stay in the cache


def totals(array: np.ndarray) -> np.ndarray:
    """Totals of examples, signed and of magnitudes, [examples, 2], in float64."""
    flat = array.reshape(len(array), -1)
    found, step = np.empty((len(flat), 2)), max(1, _AT_ONCE // max(1, flat.shape[1]))
    for first in range(0, len(flat), step):
        some, into = flat[first : first + step].astype(np.float64), found[first : first + step]
        some.sum(axis=1, out=into[:, 0])
        np.abs(some, out=some).sum(axis=1, out=into[:, 1])
    return found


def _strained(request: Request, result: Result) -> np.ndarray:
    """Which nodes lost more than a thousandth of the relevance, and at which all products vanished: [runs, nodes, 2].

    Where derivatives travel any loss counts: it is told as 1 or 0.
    """
    strain, found = result.strain, np.empty(result.strain.shape[:3], bool)
    floor: np.ndarray | float = 0.0
    if request.mode.conserving:
        floor = LARGEST_LOSS * _received(request, result)
    found[:, :, LOSS] = summed(strain[:, :, LOSS]) > floor
    found[:, :, VANISHED] = summed(strain[:, :, VANISHED]) > 0
    return found


def _received(request: Request, result: Result) -> np.ndarray:
    """What every node received, [runs, nodes], or the start where that is more, or all that is known, [runs, 1]."""
    start = summed(result.start[..., 1][:, None])
    if result.books is None or request.ledger != NODES:
        return start
    return np.maximum(start, summed(result.books.absolute[:, :, 0]))


def summed(totals: np.ndarray) -> np.ndarray:
    """Totals of nodes over channels, [runs, nodes]."""
    return totals if totals.ndim == 2 else totals.sum(axis=tuple(range(2, totals.ndim)))
