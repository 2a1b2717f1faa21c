"""Dropped equations, and another float type."""

from __future__ import annotations

import numpy as np

from backtrace_jax.passes import drop_dead_code, simplify, with_float_type
from tests.passes.graphs import DOUBLE, SINGLE, check_unchanged, draw, operations, outputs, program


def test_dead_code_goes_and_inputs_stay():
    kept = np.arange(3.0)

    def build(builder, x, unused):
        builder.emit("add", builder.emit("tanh", x), np.ones(3))
        builder.emit("exp", unused)
        return builder.emit("add", x, kept)

    before = program(build, (3,), (3,))
    after = drop_dead_code(before)
    assert operations(after) == ["add"]
    assert [var.name for var in after.graph.inputs] == ["x0", "x1"]
    assert [array.tolist() for array in after.weights.values()] == [kept.tolist()]
    assert {var.name for var in after.graph.params} == set(after.weights)
    check_unchanged(before, after)


def test_an_output_may_be_an_input_or_a_constant():
    before = program(lambda builder, x: {"x": x, "c": np.ones(2), "y": builder.emit("neg", x)}, (2,))
    after = simplify(before)
    assert operations(after) == ["neg"]
    check_unchanged(before, after)


def single(builder, x):
    K = np.random.default_rng(0).normal(size=(3, 4)).astype(SINGLE)
    y = builder.emit("matmul", x, K)
    steps = builder.emit("cast", builder.emit("cast", y, dtype="int32"), dtype="float32")
    half = builder.emit("cast", builder.emit("cast", y, dtype="float16"), dtype="float32")
    return {"y": builder.emit("add", y, steps, half), "i": builder.emit("cast", y, dtype="int32")}


def test_every_float32_becomes_float64():
    before = program(single, (2, 3), dtype=SINGLE)
    after = with_float_type(before, DOUBLE)
    variables = {var.name: var.dtype.name for var in after.graph.variables()}
    assert "float32" not in variables.values()
    assert sorted(set(variables.values())) == ["float16", "float64", "int32"]
    assert {array.dtype for array in after.weights.values()} == {DOUBLE}
    assert [var.dtype.name for var in after.graph.outputs] == ["float64", "int32"]


def test_another_float_type_computes_the_same_to_rounding():
    before = program(single, (2, 3), dtype=SINGLE)
    after = with_float_type(before, DOUBLE)
    inputs = {"x0": draw(np.random.default_rng(0), before.graph.inputs[0])}
    wide = {"x0": inputs["x0"].astype(DOUBLE)}
    for old, new in zip(outputs(before, inputs), outputs(after, wide), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-3, atol=1e-3)


def test_float32_is_left_alone():
    before = program(single, (2, 3), dtype=SINGLE)
    assert with_float_type(before, SINGLE) is before


def test_nothing_of_the_program_is_changed_in_place():
    def build(builder, x):
        y = builder.emit("mul", builder.emit("matmul", x, np.ones((3, 4))), np.full(4, 2.0))
        return builder.emit("mul", y, builder.emit("sigmoid", y))

    before = program(build, (2, 3))
    text, weights = str(before.graph), {name: array.copy() for name, array in before.weights.items()}
    simplify(before)
    assert str(before.graph) == text
    assert before.weights.keys() == weights.keys()
    assert all(np.array_equal(before.weights[name], array) for name, array in weights.items())
