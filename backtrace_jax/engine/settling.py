"""What a call gives, as it is kept on the host: done call by call, in the thread that made it and in its cache."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from backtrace_jax.question.words import NODES, TOTAL

from .books import Books
from .compile import Request, Result
from .strain import LARGEST_LOSS, LOSS, VANISHED


class Settling(NamedTuple):
    """What of a request says how its results are settled.

    Attributes:
        ledger: Of what books are kept.
        paired: Whether relevance has two channels.
        conserving: Whether it is shared out; otherwise it is a derivative.
        inputs: Names of the inputs, in whose order relevance is added up.
    """

    ledger: str | None
    paired: bool
    conserving: bool
    inputs: tuple[str, ...]

    @classmethod
    def of(cls, request: Request) -> Settling:
        """How the results of a request are settled."""
        names = tuple(var.name for var in request.plan.graph.inputs)
        return cls(request.ledger, request.mode.paired, request.mode.conserving, names)


def settled(how: Settling, result: Result) -> Result:
    """The result with strain as truths, and in total the columns of the books that its start and its relevance fill.

    Args:
        how: How it is settled.
        result: What a call gave, examples first, on the host.
    """
    with np.errstate(invalid="ignore"):  # an example may have no answer; that is told later
        books = _filled(how, result) if how.ledger == TOTAL and result.books else result.books
        return result._replace(books=books, strain=_strained(how, result))


def _filled(how: Settling, result: Result) -> Books:
    """Books of the whole graph: what it received is the start, and what it handed on lies at the inputs."""
    assert result.books is not None
    found = []
    for k, (book, amounts) in enumerate(zip(result.books[:2], _arrived(how, result), strict=True)):
        whole = book.copy()
        whole[:, 0, 0], whole[:, 0, 1] = result.start[..., k], amounts
        found.append(whole)
    return Books(found[0], found[1], None)


def _arrived(how: Settling, result: Result) -> list[np.ndarray]:
    """Relevance of the inputs, signed and in magnitudes: [examples], in pairs [examples, 2]."""
    arrived = np.zeros((len(result.start), 2, 2) if how.paired else (len(result.start), 2))
    for array in (result.relevance[name] for name in how.inputs if name in result.relevance):
        arrived += np.stack([totals(array[:, 0]), totals(array[:, 1])], axis=1) if how.paired else totals(array)
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


def _strained(how: Settling, result: Result) -> np.ndarray:
    """Which nodes lost more than a thousandth of the relevance, and at which all products vanished: [runs, nodes, 2].

    Where derivatives travel any loss counts: it is told as 1 or 0.
    """
    strain, found = result.strain, np.empty(result.strain.shape[:3], bool)
    floor: np.ndarray | float = 0.0
    if how.conserving:
        floor = LARGEST_LOSS * _received(how, result)
    found[:, :, LOSS] = summed(strain[:, :, LOSS]) > floor
    found[:, :, VANISHED] = summed(strain[:, :, VANISHED]) > 0
    return found


def _received(how: Settling, result: Result) -> np.ndarray:
    """What every node received, [runs, nodes], or the start where that is more, or all that is known, [runs, 1]."""
    start = summed(result.start[..., 1][:, None])
    if result.books is None or how.ledger != NODES:
        return start
    return np.maximum(start, summed(result.books.absolute[:, :, 0]))


def summed(totals: np.ndarray) -> np.ndarray:
    """Totals of nodes over channels, [runs, nodes]."""
    return totals if totals.ndim == 2 else totals.sum(axis=tuple(range(2, totals.ndim)))
