"""Relevance follows moved entries back, and passes one-input functions and norms unchanged (RULES 2, 5, 6, 7)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from backtrace_jax.ops import NORM, POINTWISE, SOFTMAX
from backtrace_jax.rules import CONSTANT
from tests.ops.specimens import SPECIMENS, of_kind
from tests.rules.oracles import RANGES, move_rule
from tests.rules.running import DOUBLE, agree, walk_back, walk_op


@dataclass(frozen=True)
class Move:
    """A move beside what it does in NumPy; `condition` and `index` are its first and last operands, if any."""

    op: str
    function: Callable[..., np.ndarray]
    shapes: tuple[tuple[int, ...], ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    condition: np.ndarray | None = None
    index: np.ndarray | None = None


CHOICE = np.array([[True, False, True], [False, False, True]])
MOVES = {
    "reshape": Move("reshape", lambda x: x.reshape(3, 4), ((2, 6),), {"shape": (3, 4)}),
    "transpose": Move("transpose", lambda x: x.transpose(2, 0, 1), ((2, 3, 4),), {"perm": (2, 0, 1)}),
    "expand": Move("expand", lambda x: np.tile(x, (2, 1, 4)), ((3, 1),), {"shape": (2, 3, 4)}),
    "expand nothing": Move("expand", lambda x: x, ((3, 2),), {"shape": (3, 2)}),
    "slice": Move("slice", lambda x: x[1:4, 0:5:2], ((5, 6),), {"start": (1, 0), "limit": (4, 5), "stride": (1, 2)}),
    "reverse": Move("reverse", lambda x: x[::-1, :, ::-1], ((2, 3, 4),), {"axes": (0, 2)}),
    "concat": Move("concat", lambda *parts: np.hstack(parts), ((2, 3), (2, 1), (2, 2)), {"axis": 1}),
    "pad and cut": Move(
        "pad", lambda x, f: np.array([[f, f], [x[0, 1], f]]), ((1, 2), ()), {"low": (1, -1), "high": (0, 1)}
    ),
    "gather": Move("gather", lambda x: x[[[2, 0], [2, 2]]], ((3, 4),), {"axis": 0}, index=np.array([[2, 0], [-1, 2]])),
    "gather along axis 1": Move(
        "gather", lambda x: x[:, [1, 2, 1]], ((2, 3, 2),), {"axis": 1}, index=np.array([1, -1, -2])
    ),
    "gather one": Move("gather", lambda x: x[:, 1], ((2, 3),), {"axis": 1}, index=np.array(-2)),
    "gather_elements": Move(
        "gather_elements",
        lambda x: np.array([[x[0, 1], x[0, 1]], [x[1, 2], x[1, 0]]]),
        ((2, 3),),
        {"axis": 1},
        index=np.array([[1, -2], [2, 0]]),
    ),
    "gather_nd": Move(
        "gather_nd",
        lambda x: np.array([x[0, 1], x[2, 3], x[0, 1], x[0, 0]]),
        ((3, 4, 2),),
        {"batch_dims": 0},
        index=np.array([[0, 1], [2, -1], [0, 1], [-3, 0]]),
    ),
    "gather_nd of examples": Move(
        "gather_nd",
        lambda x: np.stack([x[0, 1, 0][None], x[1, 1, 2][None]]),
        ((2, 2, 3, 2),),
        {"batch_dims": 1},
        index=np.array([[[1, 0]], [[-1, 2]]]),
    ),
    "where": Move("where", lambda a, b: np.where(CHOICE, a, b), ((2, 3), (3,)), condition=CHOICE),
    "cast": Move("cast", lambda x: x, ((2, 3),), {"dtype": "float64"}),
}


def check_move(name, constant=()):
    """Hold a move against its oracle, with the operands counted in `constant` as constants."""
    move, generator = MOVES[name], np.random.default_rng(0)
    moved = [generator.normal(size=shape) for shape in move.shapes]
    operands = [x for x in (move.condition, *moved, move.index) if x is not None]
    first = 0 if move.condition is None else 1
    places = range(first, first + len(moved))
    R = generator.normal(size=move.function(*moved).shape)
    values, shares = move_rule(move.function, moved, R)
    fixed = {places[i] for i in constant}
    walked = walk_op(move.op, operands, R, fixed | (set(range(len(operands))) - set(places)), **move.params)
    np.testing.assert_array_equal(walked.result, values)
    agree(walked, dict(zip(places, shares, strict=True)), fixed)
    return walked


@pytest.mark.parametrize("name", MOVES)
def test_moves(name):
    check_move(name)


@pytest.mark.parametrize(
    ("name", "constant"), [("concat", {1}), ("concat", {0, 2}), ("pad and cut", {1}), ("where", {0}), ("where", {1})]
)
def test_relevance_that_lands_in_constants(name, constant):
    assert check_move(name, constant).kept(CONSTANT)[1] > 0.1


@pytest.mark.parametrize("name", of_kind(POINTWISE, NORM, SOFTMAX))
def test_identity(name):
    """The one operand takes all of it, bit by bit; statistics, scale, shift, slope and exponent take nothing."""
    specimen, generator = SPECIMENS[name], np.random.default_rng(0)
    inputs = {key: generator.normal(size=shape) for key, shape in specimen.inputs.items()}
    R = generator.normal(size=inputs["x0"].shape)
    walked = walk_back(specimen.program(DOUBLE), inputs, R)
    assert [var.name for var in walked.plan.inputs] == ["x0"]
    np.testing.assert_array_equal(walked.relevance["x0"], R)
    assert (walked.books.absolute[:, 2:] == 0).all()


def test_every_saturating_activation_is_among_them():
    assert set(RANGES) <= set(of_kind(POINTWISE, SOFTMAX))
