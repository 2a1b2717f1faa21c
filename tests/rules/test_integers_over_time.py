"""Integers that stand for quantities inside bodies that run over time: followed, or named, as outside of them."""

from __future__ import annotations

import numpy as np
import pytest

from backtrace_jax.engine.plan import plan_walk
from backtrace_jax.errors import UnsupportedError
from backtrace_jax.ir import Program
from backtrace_jax.passes.build import Builder, Value
from backtrace_jax.rules import find_mode
from tests.rules.running import DOUBLE, INDEX, assert_books_close, close, walk_back

RNG = np.random.default_rng(0)
K, U, HEAD = (RNG.normal(size=shape) for shape in ((3, 2), (2, 2), (2, 3)))
BYTE, BOOL = np.dtype(np.uint8), np.dtype(np.bool_)
LENGTH = 4
X, S = RNG.normal(size=(LENGTH, 1, 3)), RNG.normal(size=(1, 2))


def real(builder: Builder, value: Value) -> Value:
    return value if value.is_float else builder.emit("cast", value, dtype="float64")


def over_time(dtype: np.dtype, form: str, beside: bool = False) -> Program:
    """Integers u [time, 1, 3] read step by step by a recurrent cell, alone or beside floats x.

    They are cast in the body ("cast"), reduced to a difference before ("arithmetic"), or added up by a state of
    integers ("state"), which is cast behind the loop ("last").
    """
    body = Builder()
    h, total = body.input("h", (1, 2), DOUBLE), body.input("total", (1, 3), dtype)
    now = body.input("now", (1, 3), dtype)
    x = body.input("x.now", (1, 3), DOUBLE) if beside else None
    added = body.emit("add", total, now)
    number = {"cast": now, "arithmetic": now, "state": added, "last": None}[form]
    if form == "arithmetic":
        number = body.emit("sub", body.emit("mul", now, np.array(2, dtype)), np.array(1, dtype))
    terms = [body.emit("matmul", h, U)]
    terms += [] if number is None else [body.emit("matmul", real(body, number), K)]
    terms += [] if x is None else [body.emit("matmul", x, K)]
    step = body.finish({"h'": body.emit("tanh", body.emit("add", *terms) if len(terms) > 1 else terms[0]), "t'": added})
    builder = Builder()
    u = builder.input("u", (LENGTH, 1, 3), dtype)
    sequences = [u, builder.input("x", X.shape, DOUBLE)] if beside else [u]
    last, total = builder.scan(step, [S, np.zeros((1, 3), dtype)], sequences, LENGTH)[0]
    y = builder.emit("matmul", last, HEAD)
    return builder.finish({"y": builder.emit("add", y, builder.emit("matmul", real(builder, total), K @ HEAD))})


NUMBERS = RNG.integers(0, 9, (LENGTH, 1, 3))
FORMS = ("cast", "arithmetic", "state", "last")


@pytest.mark.parametrize(
    ("form", "mode"),
    [
        *(("cast", "default"), ("arithmetic", "default"), ("arithmetic", "lrp-epsilon"), ("state", "default")),
        *(("state", "contrastive"), ("state", "gradient"), ("last", "lrp-epsilon")),
    ],
)
def test_quantities_are_followed_through_bodies_as_floats_are(form, mode):
    start = RNG.normal(size=(1, 3)) if mode != "contrastive" else np.abs(RNG.normal(size=(2, 1, 3)))
    found, expected = (
        walk_back(over_time(dtype, form), {"u": NUMBERS.astype(dtype)}, start, mode=mode) for dtype in (INDEX, DOUBLE)
    )
    close(found.result, expected.result)
    close(found.relevance["u"], expected.relevance["u"])
    assert np.abs(found.relevance["u"]).max() > 0.01
    if mode != "gradient":
        assert_books_close(found.books)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [INDEX, BYTE])
def test_quantities_in_bodies_are_not_forgotten_without_a_word(form, dtype):
    graph = over_time(dtype, form, beside=True).graph
    plan = plan_walk(graph, find_mode("default"), graph.outputs[0])
    assert [var.name for var in plan.inputs] == ["x"]
    assert plan.forgotten == ("u",)
    named = plan_walk(graph, find_mode("default"), graph.outputs[0], ["x", "u"])
    assert {var.name for var in named.inputs} == {"x", "u"}
    assert named.forgotten == ()


def test_modes_that_need_smooth_inputs_refuse_what_bodies_compute_with_integers():
    graph = over_time(INDEX, "arithmetic").graph
    with pytest.raises(UnsupportedError, match="'scan' computes with integers"):
        plan_walk(graph, find_mode("integrated-gradients"), graph.outputs[0])


@pytest.mark.parametrize("mode", ["default", "lrp-epsilon"])
def test_ids_look_rows_up_in_a_body(mode):
    """As they do where all rows are looked up before the loop."""
    table = RNG.normal(size=(9, 3))

    def program(inside: bool) -> Program:
        body, builder = Builder(), Builder()
        ids = builder.input("u", (LENGTH, 1), INDEX)
        h = body.input("h", (1, 2), DOUBLE)
        now = body.input("now", (1,), INDEX) if inside else body.input("now", (1, 3), DOUBLE)
        row = body.emit("gather", table, now, axis=0) if inside else now
        new = body.emit("tanh", body.emit("add", body.emit("matmul", row, K), body.emit("matmul", h, U)))
        sequence = ids if inside else builder.emit("gather", table, ids, axis=0)
        last = builder.scan(body.finish({"h'": new}), [S], [sequence], LENGTH)[0][0]
        return builder.finish({"y": builder.emit("matmul", last, HEAD)})

    ids, start = RNG.integers(0, 9, (LENGTH, 1)), RNG.normal(size=(1, 3))
    found, expected = (walk_back(program(inside), {"u": ids}, start, mode=mode) for inside in (True, False))
    close(found.relevance["u"], expected.relevance["u"])
    assert np.abs(found.relevance["u"]).min() > 0
    assert_books_close(found.books)


def test_a_mask_in_a_body_is_no_quantity():
    """A step that a mask leaves out keeps the state it found, by a choice or by products."""
    for form in ("choice", "products"):
        body = Builder()
        h, x, mask = body.input("h", (1, 2), DOUBLE), body.input("x.now", (1, 3), DOUBLE), body.input("m", (1, 1), BOOL)
        new = body.emit("tanh", body.emit("add", body.emit("matmul", x, K), body.emit("matmul", h, U)))
        shown = real(body, mask)
        hidden = body.emit("sub", np.array(1.0), shown)
        kept = body.emit("add", body.emit("mul", shown, new), body.emit("mul", hidden, h))
        step = body.finish({"h'": kept if form == "products" else body.emit("where", mask, new, h)})
        builder = Builder()
        sequences = [builder.input("x", X.shape, DOUBLE), builder.input("mask", (LENGTH, 1, 1), BOOL)]
        last = builder.scan(step, [S], sequences, LENGTH)[0][0]
        graph = builder.finish({"y": builder.emit("matmul", last, HEAD)}).graph
        assert plan_walk(graph, find_mode("default"), graph.outputs[0]).forgotten == ()
