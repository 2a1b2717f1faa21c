"""Products hand half through each factor, quotients everything to the numerator (RULES 4)."""

from __future__ import annotations

import numpy as np
import pytest

from backtrace_jax.passes.build import Builder
from backtrace_jax.rules import DEAD
from tests.rules.cases import BROADCASTS, entries, nonzero
from tests.rules.oracles import place, product_rule
from tests.rules.running import DOUBLE, agree, assert_books_close, close, walk_back, walk_op

PRODUCTS = {
    "mul": [(np.multiply, shapes, {}) for shapes in BROADCASTS],
    "matmul": [
        (np.matmul, shapes, {})
        for shapes in [((2, 3), (3, 2)), ((3,), (3, 2)), ((2, 3), (3,)), ((2, 2, 3), (3, 4)), ((2, 1, 2, 3), (3, 3, 2))]
    ],
    "einsum": [
        (lambda a, b, equation=equation: np.einsum(equation, a, b), shapes, {"equation": equation})
        for equation, shapes in {
            "bhqd,bhkd->bhqk": ((1, 2, 2, 3), (1, 2, 3, 3)),
            "bi,bj->bij": ((2, 3), (2, 2)),
            "bii,i->b": ((2, 3, 3), (3,)),
        }.items()
    ],
    "conv": [
        (
            lambda x, K: np.array([[[x[0, 0, i] * K[0, 0, 0] + x[0, 0, i + 1] * K[0, 0, 1] for i in range(3)]]]),
            ((1, 1, 4), (1, 1, 2)),
            {"strides": (1,), "padding": ((0, 0),), "dilation": (1,), "groups": 1},
        )
    ],
}


@pytest.mark.parametrize(("op", "which"), [(op, i) for op, uses in PRODUCTS.items() for i in range(len(uses))])
def test_product(op, which):
    function, shapes, params = PRODUCTS[op][which]
    generator = np.random.default_rng(which)
    for _ in range(3):
        a, b = (entries(generator, shape) for shape in shapes)
        R = generator.normal(size=function(a, b).shape)
        walked = walk_op(op, [a, b], R, **params)
        close(walked.result, function(a, b))
        *shares, dead = product_rule(function, a, b, R)
        agree(walked, dict(enumerate(shares)), dead=dead)


def test_an_elementwise_product_is_shared_in_halves():
    a, b, R = np.array([2.0, -3.0, 0.0]), np.array([0.1, 5.0, 1.0]), np.array([1.0, -2.0, 4.0])
    walked = walk_op("mul", [a, b], R)
    close(walked.relevance["x0"], np.array([0.5, -1.0, 0.0]))
    close(walked.relevance["x1"], np.array([0.5, -1.0, 0.0]))
    assert walked.kept(DEAD).tolist() == [4.0, 4.0]


@pytest.mark.parametrize("op", ["mul", "matmul"])
def test_a_value_times_itself_gets_both_halves(op):
    builder = Builder()
    x = builder.input("x", (3, 3), DOUBLE)
    program = builder.finish({"y": builder.emit(op, x, x)})
    generator = np.random.default_rng(0)
    value, R = generator.normal(size=(3, 3)), generator.normal(size=(3, 3))
    walked = walk_back(program, {"x": value}, R)
    first, second, _ = product_rule({"mul": np.multiply, "matmul": np.matmul}[op], value, value, R)
    close(walked.relevance["x"], first + second)
    assert_books_close(walked.books)


@pytest.mark.parametrize("mode", ["default", "lrp-gamma", "lrp-alpha2-beta1", "lrp-zplus"])
@pytest.mark.parametrize("weights", [False, True])
def test_shares_are_the_same_where_a_sign_is_known(mode, weights):
    """What is seen never to be negative is not split by sign; the same values, of a sign unknown, are."""
    generator = np.random.default_rng(0)
    a, b, R = np.abs(entries(generator, (3, 4))), entries(generator, (4, 2)), generator.normal(size=(3, 2))
    builder = Builder()
    factor = b if weights else builder.input("x1", b.shape, DOUBLE)
    seen = builder.emit("matmul", builder.emit("relu", builder.input("x0", a.shape, DOUBLE)), factor)
    program = builder.finish({"y": seen})
    known = walk_back(program, {"x0": a} if weights else {"x0": a, "x1": b}, R, mode=mode)
    unknown = walk_op("matmul", [a, b], R, constant=(1,) if weights else (), mode=mode)
    assert known.plan.steps[0].nonnegative[0]
    assert not unknown.plan.steps[0].nonnegative[0]
    for name in unknown.relevance.keys() & {"x0", "x1"}:
        close(known.relevance[name], unknown.relevance[name])
    assert_books_close(known.books)


@pytest.mark.parametrize("shapes", BROADCASTS)
def test_quotients(shapes):
    """Of two values the numerator takes all; a lone value takes all as well, save where there is nothing to take."""
    generator = np.random.default_rng(0)
    a, b = entries(generator, shapes[0]), nonzero(generator, shapes[1])
    R = generator.normal(size=np.broadcast_shapes(*shapes))
    everything = [_collected(R, x.shape) for x in (a, b)]
    both = walk_op("div", [a, b], R)
    close(both.relevance["x0"], everything[0])
    assert "x1" not in both.relevance
    assert [name for name in walk_op("div", [a, b], R, constant=(0,)).relevance if name[0] == "x"] == ["x1"]
    close(walk_op("div", [a, b], R, constant=(0,)).relevance["x1"], everything[1])
    empty = np.broadcast_to(a, R.shape) == 0
    agree(walk_op("div", [a, b], R, constant=(1,)), {0: _collected(R * ~empty, a.shape)}, dead=R[empty])


def _collected(R, shape):
    """Relevance of a broadcast operand: the sum over its copies."""
    total = np.zeros(shape)
    for at in np.ndindex(R.shape):
        total[place(shape, at)] += R[at]
    return total
