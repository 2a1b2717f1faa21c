"""The walk adds up what the consumers of a value hand back, and keeps the books of every step."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from backtrace_jax.engine.books import KEPT
from backtrace_jax.engine.forward import forward
from backtrace_jax.engine.walk import walk
from backtrace_jax.runtime.numerics import exact_types
from tests.engine.graphs import DOUBLE, INDEX, jax_arrays, plan_of, program
from tests.rules.oracles import default_rule, sum_rule
from tests.rules.running import CHEAP, assert_books_close, close, walk_back

generator = np.random.default_rng(0)
W1, W2, TABLE = (generator.normal(size=shape) for shape in ((4, 5), (4, 5), (9, 4)))


def test_a_value_with_several_consumers_gets_the_sum():
    def build(builder, x):
        h = builder.emit("relu", x)
        builder.rename(h, "h")
        return builder.emit("add", builder.emit("matmul", h, W1), builder.emit("matmul", h, W2))

    x, R = generator.normal(size=(2, 4)), generator.normal(size=(2, 5))
    walked = walk_back(program(build, x=((2, 4), DOUBLE)), {"x": x}, R)
    h = np.maximum(x, 0)
    (first, second), _ = sum_rule([h @ W1, h @ W2], R)
    shares = [default_rule(np.kron(np.eye(2), W.T), h, None, part).share for W, part in ((W1, first), (W2, second))]
    close(walked.relevance["h"], sum(shares))
    close(walked.relevance["x"], sum(shares))
    assert_books_close(walked.books)


def test_an_output_that_others_consume_keeps_its_start():
    """Relevance starts at an inner value; what lies behind it plays no part."""

    def build(builder, x):
        h = builder.emit("relu", x)
        return {"y": builder.emit("exp", h), "h": h}

    R = generator.normal(size=(3,))
    walked = walk_back(program(build, x=((3,), DOUBLE)), {"x": np.ones(3)}, R, output=1)
    assert [step.eqn.op for step in walked.plan.steps] == ["relu"]
    close(walked.relevance["x"], R)


def many_kinds(builder, ids, x):
    """A network with a sum, products, a quotient, a selection, moves, norms, softmax, bias and saturation."""
    rows = builder.emit("add", builder.emit("gather", TABLE, ids, axis=0), generator.normal(size=(3, 4)))
    normal = builder.emit("layer_norm", rows, axes=(2,), epsilon=1e-5)
    weights = builder.emit("softmax", builder.emit("matmul", normal, x), axis=2)
    mixed = builder.emit("matmul", weights, builder.emit("tanh", builder.emit("matmul", x, W1, W2[:1])))
    both = builder.emit("concat", mixed, builder.emit("mul", mixed, builder.emit("sigmoid", mixed)), axis=2)
    return builder.emit("div", builder.emit("reduce_max", both, axes=(1,), keepdims=False), np.full(10, 3.0))


@pytest.fixture(autouse=True)
def _the_same_numbers_for_every_test():
    generator.bit_generator.state = np.random.default_rng(1).bit_generator.state


MODEL = program(many_kinds, ids=((1, 3), INDEX), x=((4, 4), DOUBLE))
INPUTS = {"ids": np.array([[3, 0, 3]]), "x": generator.normal(size=(4, 4))}


def test_whole_books_close():
    start = generator.normal(size=(1, 10))
    walked = walk_back(MODEL, INPUTS, start)
    assert_books_close(walked.books)
    inputs = sum(walked.relevance[name].sum() for name in INPUTS)
    kept = sum(walked.kept(cause)[0] for cause in KEPT)
    np.testing.assert_allclose(inputs + kept, start.sum(), rtol=0, atol=1e-12 * np.abs(start).sum())
    assert len(walked.books.signed) == len(walked.plan.steps) >= 12


def books_of(start, nonnegative):
    def run(start):
        values = forward(MODEL.graph, jax_arrays(MODEL.weights), jax_arrays(INPUTS))
        plan = plan_of(MODEL)
        return walk(plan, values, {plan.output.name: start}, nonnegative=nonnegative)

    with exact_types():
        return jax.jit(run).lower(start).compile(compiler_options=CHEAP)(start)


def test_books_that_know_the_sign_are_the_same_books():
    start = np.abs(generator.normal(size=(1, 10)))
    (sure, known), (unsure, unknown) = (books_of(start, nonnegative) for nonnegative in (True, False))
    for name in sure:
        close(np.asarray(sure[name]), np.asarray(unsure[name]))
    close(np.asarray(known.signed), np.asarray(unknown.signed))
    close(np.asarray(known.absolute), np.asarray(unknown.absolute))


def test_magnitudes_are_kept_beside_signed_totals():
    start = np.array([[3.0, -1.0, 2.0, -1.5, 0.0, 1.0, -2.0, 0.5, 1.0, -1.0]])
    _, books = books_of(start, False)
    np.testing.assert_allclose(np.asarray(books.signed)[0, :2], start.sum(), rtol=1e-12)
    np.testing.assert_allclose(np.asarray(books.absolute)[0, :2], np.abs(start).sum(), rtol=1e-12)
    assert (np.asarray(books.absolute)[:, 0] >= np.abs(np.asarray(books.signed)[:, 0])).all()


@pytest.mark.parametrize("factor", [1.0, -1.0])
def test_no_steps_no_books(factor):
    model = program(lambda b, x: x, x=((3,), DOUBLE))
    walked = walk_back(model, {"x": np.ones(3)}, factor * np.ones(3))
    assert walked.books.signed.shape == (0, 6)
    close(walked.relevance["x"], factor * np.ones(3))
