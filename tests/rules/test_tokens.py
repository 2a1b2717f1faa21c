"""Relevance of integer inputs: per token, the sum over what was looked up for it (RULES 9)."""

from __future__ import annotations

import numpy as np
import pytest

from backtrace_jax.passes.build import Builder
from backtrace_jax.rules import CONSTANT
from tests.rules.oracles import sum_rule, token_rule
from tests.rules.running import INDEX, assert_books_close, close, walk_back, walk_op


@pytest.mark.parametrize(("shape", "axis"), [((3,), 0), ((1, 3), 0), ((2, 2), 1), ((), 0), ((3,), 1)])
def test_a_token_gets_the_sum_over_what_was_looked_up(shape, axis):
    generator = np.random.default_rng(0)
    table, tokens = generator.normal(size=(5, 5)), generator.integers(-5, 5, size=shape)
    looked_up = np.take(table, tokens, axis=axis)
    R = generator.normal(size=looked_up.shape)
    walked = walk_op("gather", [table, tokens], R, constant=(0,), axis=axis)
    np.testing.assert_array_equal(walked.result, looked_up)
    close(walked.relevance["x1"], token_rule(tokens, axis, R))
    assert_books_close(walked.books)


def test_tokens_are_followed_through_moves_of_integers():
    """[CLS] is put before the tokens, padding is cut off, the order is reversed, then the table is read."""
    builder, generator = Builder(), np.random.default_rng(0)
    table, cls = generator.normal(size=(9, 4)), np.array([[7]])
    ids = builder.input("ids", (6,), INDEX)
    rows = builder.emit("reshape", ids, shape=(1, 6))
    kept = builder.emit("slice", rows, start=(0, 0), limit=(1, 5), stride=(1, 2))
    read = builder.emit("cast", builder.emit("concat", cls, kept, axis=1), dtype="int32")
    program = builder.finish({"y": builder.emit("gather", table, builder.emit("reverse", read, axes=(1,)), axis=0)})
    R = generator.normal(size=(1, 4, 4))
    walked = walk_back(program, {"ids": np.arange(6)}, R)
    each = R.sum(-1)[0, ::-1]
    close(walked.relevance["ids"], np.array([each[1], 0, each[2], 0, each[3], 0]))
    np.testing.assert_allclose(walked.kept(CONSTANT)[0], each[0], rtol=1e-12)
    assert_books_close(walked.books)


def test_a_position_table_takes_its_share_of_the_sum():
    builder, generator = Builder(), np.random.default_rng(0)
    words, places, segments = (generator.normal(size=(5, 4)) for _ in range(3))
    ids, kinds = builder.input("ids", (1, 3), INDEX), builder.input("kinds", (1, 3), INDEX)
    word, segment, place = (
        builder.emit("gather", table, index, axis=0)
        for table, index in ((words, ids), (segments, kinds), (places, np.arange(3)[None]))
    )
    program = builder.finish({"y": builder.emit("add", builder.emit("add", word, segment), place)})
    inputs = {"ids": np.array([[4, 0, 4]]), "kinds": np.array([[1, 1, 2]])}
    R = generator.normal(size=(1, 3, 4))
    walked = walk_back(program, inputs, R)
    both = words[inputs["ids"]] + segments[inputs["kinds"]]
    (upper, constant), _ = sum_rule([both, places[None, :3]], R)
    (word, segment), _ = sum_rule([words[inputs["ids"]], segments[inputs["kinds"]]], upper)
    close(walked.relevance["ids"], word.sum(-1))
    close(walked.relevance["kinds"], segment.sum(-1))
    np.testing.assert_allclose(walked.kept(CONSTANT)[0], constant.sum(), rtol=1e-12)
    assert np.abs(constant.sum()) > 0.01
