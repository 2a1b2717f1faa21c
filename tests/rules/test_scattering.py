"""What is scattered to one place shares by the rule of sums, or the winner takes all (RULES 1, 2)."""

from __future__ import annotations

import numpy as np
import pytest

from backtrace_jax.ops import evaluate_by_xla
from backtrace_jax.rules import CONSTANT
from tests.rules.oracles import default_rule, matrix, winner_rule
from tests.rules.running import agree, close, walk_op

CELLS = np.array([2, 0, 2, 7, 2, 4])  # cell 2 is written to three times, cell 7 does not exist
COUNT = 5
generator = np.random.default_rng(0)


def test_scattered_sums():
    def added(updates):
        z = np.zeros((COUNT, 3))
        for update, cell in zip(updates, CELLS, strict=True):
            if cell < COUNT:
                z[cell] += update
        return z

    updates, R = generator.normal(size=(6, 3)), generator.normal(size=(COUNT, 3))
    R[[1, 3]] = 0  # nothing is written there
    expected = default_rule(matrix(added, updates.shape), updates, None, R, None)
    walked = walk_op("scatter_add", [updates, CELLS], R, {1}, count=COUNT)
    close(walked.result, added(updates))
    close(walked.relevance["x0"], expected.share)
    assert (walked.relevance["x0"][3] == 0).all()


@pytest.mark.parametrize("which", ["max", "min"])
@pytest.mark.parametrize("constant", [set(), {0}, {1}])
def test_scattered_extremes(which, constant):
    """Few different values, so that ties are common."""
    data, updates = (generator.integers(-1, 2, size=(count, 4)).astype(float) for count in (COUNT, 6))
    R = generator.normal(size=data.shape)

    def candidates(at):
        return [(0, at), *((1, (i, at[1])) for i, cell in enumerate(CELLS) if cell == at[0])]

    values, shares = winner_rule(candidates, [data, updates], R, {"max": max, "min": min}[which])
    walked = walk_op(f"scatter_{which}", [data, updates, CELLS], R, {2} | constant)
    np.testing.assert_array_equal(walked.result, values)
    agree(walked, dict(enumerate(shares)), constant)
    assert (walked.kept(CONSTANT)[1] > 0.1) == bool(constant)


def test_the_last_writer_is_known_without_an_order_of_writing():
    writers = evaluate_by_xla("last_writers", [CELLS], {"count": COUNT})
    np.testing.assert_array_equal(writers, [1, -1, 4, -1, 5])


def test_cells_of_indices_that_count_from_the_end_or_reach_too_far():
    indices = np.array([[-1, 3], [0, -4]])
    cells = evaluate_by_xla("element_cells", [indices], {"shape": (2, 3), "axis": 1})
    np.testing.assert_array_equal(cells, [[2, 6], [3, 6]])
    cells = evaluate_by_xla("tuple_cells", [np.array([[1, -1], [-2, 0], [0, 3], [-3, 0]])], {"shape": (2, 3)})
    np.testing.assert_array_equal(cells, [5, 0, 6, 6])
    assert evaluate_by_xla("tuple_cells", [np.zeros((2, 0), np.int64)], {"shape": ()}).tolist() == [0, 0]
