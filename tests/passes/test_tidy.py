"""What only a file's spelling puts in goes; what looks like it and computes something stays."""

from __future__ import annotations

import numpy as np
import pytest

from backtrace_jax.ir import Source
from backtrace_jax.passes.build import Builder
from backtrace_jax.passes.tidy import merge_alike, narrowed, tidy
from tests.passes.graphs import SINGLE, check_unchanged, operations, program
from tests.passes.spelled import check_pass

ONES, ZEROS = np.ones((2, 3)), np.zeros((2, 3))


def _reshaped(w, x, *shapes):
    for shape in shapes:
        x = w.reshape(x, shape=shape)
    return x


GOES = {
    "reshapes in a row": (lambda w, x: _reshaped(w, x, (6,), (3, 2)), ["reshape"]),
    "reshapes that cancel": (lambda w, x: w.tanh(_reshaped(w, x, (6,), (2, 3))), ["tanh"]),
    "transpositions in a row": (
        lambda w, x: w.transpose(w.transpose(_reshaped(w, x, (2, 3, 1)), perm=(2, 0, 1)), perm=(2, 0, 1)),
        ["reshape", "transpose"],
    ),
    "transpositions that cancel": (
        lambda w, x: w.tanh(w.transpose(w.transpose(x, perm=(1, 0)), perm=(1, 0))),
        ["tanh"],
    ),
    "an axis of size 1 moved": (
        lambda w, x: w.transpose(_reshaped(w, w.tanh(x), (1, 2, 3)), perm=(1, 0, 2)),
        ["tanh", "reshape"],
    ),
    "a cast to the own type": (lambda w, x: w.tanh(w.cast(x, dtype="float64")), ["tanh"]),
    "an expansion to the own shape": (lambda w, x: w.tanh(w.expand(x, shape=(2, 3))), ["tanh"]),
    "a slice of everything": (
        lambda w, x: w.tanh(w.slice(x, start=(0, 0), limit=(2, 3), stride=(1, 1))),
        ["tanh"],
    ),
    "plus 0": (lambda w, x: w.tanh(w.add(x, 0)), ["tanh"]),
    "0 plus": (lambda w, x: w.tanh(w.add(ZEROS, x)), ["tanh"]),
    "less 0": (lambda w, x: w.tanh(w.sub(x, ZEROS)), ["tanh"]),
    "times 1": (lambda w, x: w.tanh(w.mul(ONES, x)), ["tanh"]),
    "over 1": (lambda w, x: w.tanh(w.div(x, 1)), ["tanh"]),
    "copies that broadcasting makes": (
        lambda w, x: w.mul(x, w.expand(w.reduce_sum(x, axes=(1,), keepdims=True), shape=(2, 3))),
        ["reduce_sum", "mul"],
    ),
    "the same twice": (lambda w, x: w.mul(w.tanh(x), w.tanh(x)), ["tanh", "mul"]),
    "the same by equal numbers": (
        lambda w, x: w.mul(w.maximum(x, np.full(3, 0.5)), w.maximum(x, np.full(3, 0.5))),
        ["maximum", "mul"],
    ),
}
STAYS = {
    "an axis moved": lambda w, x: w.transpose(x, perm=(1, 0)),
    "another shape": lambda w, x: w.reshape(x, shape=(3, 2)),
    "every other entry": lambda w, x: w.slice(x, start=(0, 0), limit=(2, 3), stride=(1, 2)),
    "0 less": lambda w, x: w.sub(0, x),
    "1 over": lambda w, x: w.div(1, x),
    "times 1, copied": lambda w, x: w.mul(x, np.ones((4, 2, 3))),
    "plus 0, copied": lambda w, x: w.add(x, np.zeros((4, 1, 3))),
    "copies of copies": lambda w, x: w.expand(x, shape=(4, 2, 3)),
    "other numbers": lambda w, x: w.mul(w.maximum(x, np.full(3, 0.5)), w.maximum(x, np.full(3, 0.25))),
    "other settings": lambda w, x: w.mul(w.clip(x, low=0.0, high=1.0), w.clip(x, low=0.0, high=2.0)),
}


@pytest.mark.parametrize("name", GOES)
def test_what_a_spelling_puts_in_goes(name):
    check_pass(tidy, *GOES[name])


@pytest.mark.parametrize("name", STAYS)
def test_what_computes_something_stays(name):
    check_pass(tidy, STAYS[name])


@pytest.mark.parametrize(("between", "left"), [("float64", 1), ("float16", 3)])
def test_a_cast_that_rounds_on_the_way_stays(between, left):
    before = program(
        lambda b, x: b.emit("tanh", b.emit("cast", b.emit("cast", x, dtype=between), dtype="float32")),
        (2, 3),
        dtype=SINGLE,
    )
    after = tidy(before)
    assert len(operations(after)) == left
    check_unchanged(before, after, 1e-3)


def test_what_two_modules_compute_stays_apart():
    """Users ask for the value of each by its name."""

    def build(modules):
        builder = Builder()
        x = builder.input("x", (2, 3), np.dtype(np.float64))
        found = []
        for module in modules:
            builder.source = Source(module=module)
            found.append(builder.emit("tanh", x))
        return builder.finish({"y": builder.emit("mul", *found)})

    assert operations(merge_alike(build(["a", "b"]))) == ["tanh", "tanh", "mul"]
    assert operations(merge_alike(build(["a", "a"]))) == ["tanh", "mul"]


@pytest.mark.parametrize(
    ("array", "shape"),
    [
        (np.full((2, 3), 7.0), (1, 1)),
        (np.arange(3.0)[None].repeat(2, 0), (1, 3)),
        (np.arange(6.0).reshape(2, 3), (2, 3)),
        (np.full((2, 3), np.nan), (2, 3)),
        (np.zeros((0, 3)), (0, 1)),
    ],
)
def test_axes_along_which_nothing_varies_are_of_size_one(array, shape):
    found = narrowed(array)
    assert found.shape == shape
    np.testing.assert_array_equal(np.broadcast_to(found, array.shape), array)
