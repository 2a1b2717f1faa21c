"""Sums share in proportion to magnitudes (RULES 3), and masks take nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backtrace_jax.passes.build import Builder
from backtrace_jax.rules import CONSTANT, DEAD
from tests.rules.cases import broadcasts, entries, seeds
from tests.rules.oracles import sum_rule
from tests.rules.running import DOUBLE, agree, assert_books_close, close, walk_back, walk_op


@settings(max_examples=25)
@given(st.integers(2, 4).flatmap(broadcasts), seeds, st.booleans(), st.data())
def test_sum(shapes, generator, subtracted, data):
    op = "sub" if subtracted and len(shapes) == 2 else "add"
    constant = data.draw(st.sets(st.integers(0, len(shapes) - 1), max_size=len(shapes) - 1), label="constant")
    operands = [entries(generator, shape) for shape in shapes]
    R = generator.normal(size=np.broadcast_shapes(*shapes))
    shares, dead = sum_rule(operands, R)
    agree(walk_op(op, operands, R, constant), dict(enumerate(shares)), constant, dead)


def test_sum_worked_by_hand():
    walked = walk_op("sub", [np.array([3.0, 0.0, -1.0]), np.array([1.0, 0.0, 0.0])], np.array([4.0, 5.0, 6.0]))
    close(walked.relevance["x0"], np.array([3.0, 0.0, 6.0]))
    close(walked.relevance["x1"], np.array([1.0, 0.0, 0.0]))
    assert walked.kept(DEAD).tolist() == [5.0, 5.0]


def test_a_value_added_to_itself_gets_everything():
    builder = Builder()
    x = builder.input("x", (3,), DOUBLE)
    program = builder.finish({"y": builder.emit("add", x, x)})
    R = np.array([1.0, -2.0, 0.5])
    close(walk_back(program, {"x": np.array([1.0, 2.0, -3.0])}, R).relevance["x"], R)


def test_an_infinite_mask_takes_nothing():
    mask = np.array([0.0, -np.inf, 2.0, -np.inf])
    x, R = np.array([2.0, 3.0, 6.0, 0.0]), np.array([1.0, 1.0, 1.0, 1.0])
    shares, dead = sum_rule([x, mask], R)
    walked = walk_op("add", [x, mask], R, constant=(1,))
    agree(walked, dict(enumerate(shares)), {1}, dead)
    close(walked.relevance["x0"], np.array([1.0, 1.0, 0.75, 0.0]))


@pytest.mark.parametrize("low", [-np.inf, -1e4, float(np.finfo(np.float32).min)])
def test_masked_tokens_receive_exactly_nothing(low):
    """Attention with a mask: neither the mask nor what it hides takes part (RULES 3 and 7)."""
    builder, hidden, shape = Builder(), np.array([False, True, False, True]), (4, 3)
    q, k, v = (builder.input(name, shape, DOUBLE) for name in "qkv")
    scores = builder.emit("matmul", q, builder.emit("transpose", k, perm=(1, 0)))
    weights = builder.emit("softmax", builder.emit("add", scores, np.where(hidden, low, 0.0)[None]), axis=1)
    program = builder.finish({"y": builder.emit("matmul", weights, v)})
    generator = np.random.default_rng(0)
    inputs = {name: generator.normal(size=shape) for name in "qkv"}
    walked = walk_back(program, inputs, generator.normal(size=shape))
    assert_books_close(walked.books)
    assert walked.kept(CONSTANT).tolist() == walked.kept(DEAD).tolist() == [0, 0]
    for name in "kv":
        assert (walked.relevance[name][hidden] == 0).all()
        assert (walked.relevance[name][~hidden] != 0).all()
