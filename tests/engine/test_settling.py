"""What a call gives, settled: against the sums and comparisons written out example by example."""

import numpy as np
import pytest

from backtrace_jax.engine.books import Books
from backtrace_jax.engine.compile import Result
from backtrace_jax.engine.settling import Settling, settled
from backtrace_jax.engine.strain import LARGEST_LOSS, LOSS, VANISHED

EXAMPLES, NODES = 5, 3


def made(ledger, *, paired, conserving=True, nodes=NODES):
    """How to settle, and a result of random numbers."""
    rng, pair = np.random.default_rng(0), (2,) if paired else ()
    books = [np.abs(rng.normal(size=(EXAMPLES, nodes, 6, *pair))) for _ in range(2)]
    start = np.abs(rng.normal(size=(EXAMPLES, *pair, 2)))
    strain = rng.choice([0.0, 1e-9, 0.002, 1.0], (EXAMPLES, NODES, 2, *pair))
    relevance = {name: rng.normal(size=(EXAMPLES, *pair, 3, 4)).astype(np.float32) for name in ("a", "b")}
    given = Books(*books, None) if ledger else None
    how = Settling(ledger, paired, conserving, ("b", "a"))
    return how, Result({}, np.zeros(EXAMPLES), start, relevance, {}, given, strain, None, {})


@pytest.mark.parametrize("paired", [False, True])
def test_total_books_hold_the_start_and_what_lies_at_the_inputs(paired):
    how, result = made("total", paired=paired, nodes=1)
    books = settled(how, result).books
    for i in range(EXAMPLES):
        for channel in ((0,), (1,)) if paired else ((),):
            R = [array[(i, *channel)].astype(np.float64) for array in result.relevance.values()]
            signed, absolute = (book[(i, 0, slice(None), *channel)] for book in books[:2])
            np.testing.assert_allclose(signed[1], sum(each.sum() for each in R), rtol=1e-12)
            np.testing.assert_allclose(absolute[1], sum(np.abs(each).sum() for each in R), rtol=1e-12)
            assert (signed[0], absolute[0]) == tuple(result.start[(i, *channel)])
            assert signed[2:].tolist() == result.books.signed[(i, 0, slice(2, None), *channel)].tolist()


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("ledger", ["nodes", "total", None])
def test_strain_is_told_where_it_is_more_than_a_thousandth(ledger, paired):
    how, result = made(ledger, paired=paired, nodes=1 if ledger == "total" else NODES)
    strain = settled(how, result).strain
    assert strain.dtype == bool
    assert strain.shape == (EXAMPLES, NODES, 2)
    for i in range(EXAMPLES):
        for node in range(NODES):
            received = [result.start[i, ..., 1].sum()]
            received += [result.books.absolute[i, node, 0].sum()] if ledger == "nodes" else []
            assert strain[i, node, LOSS] == (result.strain[i, node, LOSS].sum() > LARGEST_LOSS * max(received))
            assert strain[i, node, VANISHED] == (result.strain[i, node, VANISHED].sum() > 0)
    assert 0 < strain[..., LOSS].sum() < strain[..., LOSS].size


def test_any_loss_of_a_derivative_counts():
    how, result = made(None, paired=False, conserving=False)
    assert settled(how, result).strain[..., LOSS].tolist() == (result.strain[..., LOSS] > 0).tolist()


def test_an_example_without_an_answer_is_no_warning():
    how, result = made("total", paired=False, nodes=1)
    result.relevance["a"][1] = [np.inf, -np.inf, np.nan, 0]
    result.start[1] = np.nan
    found = settled(how, result)
    assert np.isnan(found.books.signed[1, 0, :2]).all()
    assert not found.strain[1, :, LOSS].any()
    assert np.isfinite(found.books.signed[[0, 2, 3, 4]]).all()
