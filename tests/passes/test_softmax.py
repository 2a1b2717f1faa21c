"""Softmax, its logarithm, and the scale of attention scores."""

from __future__ import annotations

import numpy as np
import pytest

from backtrace_jax.ir import Program
from backtrace_jax.passes import recognise_softmax, scale_queries, simplify
from tests.passes.graphs import DOUBLE, check_unchanged, operations, program
from tests.passes.spelled import written
from tests.rules.running import assert_books_close, walk_back


def total(w, x, *axes):
    return w.reduce_sum(x, axes=axes or (2,), keepdims=True)


def shifted(w, x, axis=2):
    return w.sub(x, w.reduce_max(x, axes=(axis,), keepdims=True))


def softmax(w, x, shift=shifted):
    powers = w.exp(shift(w, x))
    return w.div(powers, total(w, powers))


def twice(w, x):
    return w.mul(w.exp(shifted(w, x)), w.reciprocal(total(w, w.exp(shifted(w, x)))))


def log_sum_exp(w, x):
    return w.add(w.log(total(w, w.exp(shifted(w, x)))), w.reduce_max(x, axes=(2,), keepdims=True))


FORMS = {
    "softmax": (softmax, "softmax", 2),
    "softmax, not shifted": (lambda w, x: softmax(w, x, lambda w, x: x), "softmax", 2),
    "softmax, every part twice": (twice, "softmax", 2),
    "softmax over the second axis": (
        lambda w, x: w.div(w.exp(shifted(w, x, 1)), total(w, w.exp(shifted(w, x, 1)), 1)),
        "softmax",
        1,
    ),
    "log of softmax": (lambda w, x: w.log(w.softmax(x, axis=1)), "log_softmax", 1),
    "log of softmax written out": (lambda w, x: w.log(softmax(w, x)), "log_softmax", 2),
    "minus log-sum-exp": (lambda w, x: w.sub(x, log_sum_exp(w, x)), "log_softmax", 2),
    "minus log-sum-exp as one operation": (
        lambda w, x: w.sub(x, w.reshape(w.log_sum_exp(x, axes=(1,), keepdims=False), shape=(2, 1, 4))),
        "log_softmax",
        1,
    ),
    "minus log-sum-exp, not shifted": (lambda w, x: w.sub(x, w.log(total(w, w.exp(x)))), "log_softmax", 2),
    "shifted, minus log-sum-exp": (
        lambda w, x: w.sub(shifted(w, x), w.log(total(w, w.exp(shifted(w, x))))),
        "log_softmax",
        2,
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_recognised(name):
    expression, op, axis = FORMS[name]
    before = program(written(expression), (2, 3, 4))
    after = recognise_softmax(before)
    (eqn,) = after.graph.eqns
    assert (eqn.op, dict(eqn.params)) == (op, {"axis": axis})
    check_unchanged(before, after)


def summed_up(w, x, axes, *, keepdims=False):
    """log Σ exp x with the largest entry taken out first, which comes back with its axes kept, or dropped."""
    powers = w.exp(w.sub(x, w.reduce_max(x, axes=axes, keepdims=True)))
    logarithm = w.log(w.reduce_sum(powers, axes=axes, keepdims=keepdims))
    return w.add(w.reduce_max(x, axes=axes, keepdims=keepdims), logarithm)


@pytest.mark.parametrize("keepdims", [True, False])
@pytest.mark.parametrize("axes", [(2,), (0, 1)])
def test_log_sum_exp_is_one_operation(axes, keepdims):
    """Rules would otherwise share with the largest entry, which is taken out and put back."""
    before = program(written(lambda w, x: summed_up(w, x, axes, keepdims=keepdims)), (2, 3, 4))
    after = recognise_softmax(before)
    (eqn,) = after.graph.eqns
    assert (eqn.op, dict(eqn.params)) == ("log_sum_exp", {"axes": axes, "keepdims": keepdims})
    check_unchanged(before, after)


NEAR = {
    "the sum over another axis of another value": lambda w, x, g: w.div(w.exp(x), total(w, w.exp(g), 1)),
    "no exponential below": lambda w, x, g: w.div(w.exp(x), total(w, x)),
    "no exponential above": lambda w, x, g: w.div(x, total(w, w.exp(x))),
    "over two axes": lambda w, x, g: w.div(w.exp(x), total(w, w.exp(x), 1, 2)),
    "something added": lambda w, x, g: w.div(w.exp(x), w.add(1, total(w, w.exp(x)))),
    "minus another's log-sum-exp": lambda w, x, g: w.sub(x, w.log_sum_exp(g, axes=(2,), keepdims=True)),
    "another's largest put back": lambda w, x, g: w.add(
        w.log(total(w, w.exp(shifted(w, x)))), w.reduce_max(g, axes=(2,), keepdims=True)
    ),
    "plus log-sum-exp": lambda w, x, g: w.add(x, w.log(total(w, w.exp(x)))),
}


@pytest.mark.parametrize("name", NEAR)
def test_what_is_near_is_left_alone(name):
    before = program(written(NEAR[name]), (2, 3, 4), (2, 3, 4))
    assert operations(recognise_softmax(before)) == operations(before)


def test_the_largest_over_another_axis_stays_a_difference():
    before = program(written(lambda w, x: softmax(w, x, lambda w, x: shifted(w, x, 1))), (2, 3, 4))
    after = recognise_softmax(before)
    assert operations(after) == ["reduce_max", "sub", "softmax"]
    check_unchanged(before, after)


SCALE = 0.35
MASK = np.where(np.tri(3, 5, k=2, dtype=bool), 0, -np.inf)
SCALES = {
    "queries": (lambda w, q: w.mul(q, SCALE), lambda w, k: k, lambda w, s: s),
    "keys": (lambda w, q: q, lambda w, k: w.mul(SCALE, k), lambda w, s: s),
    "both": (lambda w, q: w.mul(q, SCALE**0.5), lambda w, k: w.mul(k, SCALE**0.5), lambda w, s: s),
    "scores": (lambda w, q: q, lambda w, k: k, lambda w, s: w.mul(s, SCALE)),
    "scores, divided": (lambda w, q: q, lambda w, k: k, lambda w, s: w.div(s, 1 / SCALE)),
    "scores, twice": (lambda w, q: q, lambda w, k: k, lambda w, s: w.mul(w.div(s, 2), 2 * SCALE)),
}
MASKS = {
    "no mask": lambda w, s: s,
    "added": lambda w, s: w.add(s, MASK),
    "added, finite": lambda w, s: w.add(np.maximum(MASK, -1e4), s),
    "chosen": lambda w, s: w.where(np.isfinite(MASK), s, -np.inf),
    "reshaped": lambda w, s: w.add(w.reshape(s, shape=(1, 2, 3, 5)), MASK),
}


def attention(scale: str, mask: str, product: str = "matmul") -> Program:
    """Scores of queries and keys that are linear maps of x, and values weighted by their softmax."""
    K = np.random.default_rng(1).normal(size=(2, 4, 4))

    def build(w, x, y):
        on_queries, on_keys, on_scores = SCALES[scale]
        q, k = on_queries(w, w.matmul(x, K)), on_keys(w, w.matmul(y, K + 1))
        if product == "matmul":
            scores = w.matmul(q, w.transpose(k, perm=(0, 2, 1)))
        else:
            scores = w.einsum(q, k, equation="hqd,hkd->hqk")
        masked = MASKS[mask](w, on_scores(w, scores))
        weights = w.softmax(masked, axis=len(masked.shape) - 1)
        return w.matmul(w.reshape(weights, shape=(2, 3, 5)), y)

    return program(written(build), (2, 3, 4), (2, 5, 4))


@pytest.mark.parametrize(("mask", "mode"), [("no mask", "default"), ("added", "default"), ("no mask", "contrastive")])
def test_relevance_does_not_depend_on_where_the_scale_is_written(mask, mode):
    generator = np.random.default_rng(0)
    inputs = {"x0": generator.normal(size=(2, 3, 4)), "x1": generator.normal(size=(2, 5, 4))}
    R = generator.uniform(size=(2, 2, 3, 4) if mode == "contrastive" else (2, 3, 4))
    scales = ["queries", "scores"] if mode == "contrastive" else ["queries", "both", "scores", "scores, twice"]
    walked = [walk_back(simplify(attention(scale, mask)), inputs, R, mode=mode) for scale in scales]
    for each in walked:
        assert_books_close(each.books)
        for name in inputs:
            np.testing.assert_allclose(each.relevance[name], walked[0].relevance[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mask", MASKS)
def test_masks_do_not_hide_the_softmax(mask):
    before = attention("scores", mask)
    after = scale_queries(before)
    check_unchanged(before, after)
    names = operations(after)
    assert names.index("mul") < names.index("matmul", names.index("transpose"))


@pytest.mark.parametrize("product", ["matmul", "einsum"])
@pytest.mark.parametrize("scale", ["scores", "scores, divided", "scores, twice"])
def test_a_scale_of_the_scores_goes_to_the_queries(scale, product):
    before = attention(scale, "no mask", product)
    after = scale_queries(before)
    check_unchanged(before, after)
    names = operations(after)
    assert names[names.index(product, 2) + 1] == "softmax"
    assert not {"mul", "div"} & set(names[names.index("softmax") :])


def unmoved(build):
    before = program(written(build), (3, 4), (5, 4), dtype=DOUBLE)
    after = scale_queries(before)
    assert operations(after) == operations(before)
    assert [eqn.invars for eqn in after.graph.eqns] == [eqn.invars for eqn in before.graph.eqns]


def scores_of(w, x, y):
    return w.matmul(x, w.transpose(y, perm=(1, 0)))


def behind(w, s):
    return w.softmax(s, axis=1)


UNMOVED = {
    "negative": lambda w, x, y: behind(w, w.mul(scores_of(w, x, y), -2)),
    "zero": lambda w, x, y: behind(w, w.mul(scores_of(w, x, y), 0)),
    "one per key": lambda w, x, y: behind(w, w.mul(scores_of(w, x, y), np.arange(1.0, 6))),
    "no softmax": lambda w, x, y: w.sigmoid(w.mul(scores_of(w, x, y), 2)),
    "a function in between": lambda w, x, y: behind(w, w.tanh(w.mul(scores_of(w, x, y), 2))),
    "of a linear map": lambda w, x, y: behind(
        w, w.add(w.mul(w.matmul(x, np.ones((4, 5))), 2), w.matmul(x, np.ones((4, 5))))
    ),
    "not of a product": lambda w, x, y: behind(w, w.mul(w.abs(scores_of(w, x, y)), 2)),
}


@pytest.mark.parametrize("name", UNMOVED)
def test_other_scales_stay(name):
    unmoved(UNMOVED[name])


def test_scores_that_something_else_reads_stay():
    def read_twice(w, x, y):
        scores = scores_of(w, x, y)
        return w.mul(behind(w, w.mul(scores, 2)), scores)

    def an_output(w, x, y):
        scores = scores_of(w, x, y)
        return {"scores": scores, "weights": behind(w, w.mul(scores, 2))}

    unmoved(read_twice)
    unmoved(an_output)
