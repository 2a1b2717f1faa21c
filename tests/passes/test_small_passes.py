"""Dropped equations, and another float type."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

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


def test_every_narrower_float_becomes_float64():
    before = program(single, (2, 3), dtype=SINGLE)
    after = with_float_type(before, DOUBLE)
    variables = {var.name: var.dtype.name for var in after.graph.variables()}
    assert sorted(set(variables.values())) == ["float64", "int32"]
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
    before = program(lambda builder, x: builder.emit("matmul", x, np.ones((3, 4), SINGLE)), (2, 3), dtype=SINGLE)
    assert with_float_type(before, SINGLE) is before


@pytest.mark.parametrize("half", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("wide", [SINGLE, DOUBLE])
def test_half_precision_becomes_wide_and_its_casts_still_round(half, wide):
    """Weights and arithmetic get more digits; what the model rounds itself is what it was, subnormal or not."""
    K = np.array([[0.1], [3e-6], [-7.0]]).astype(half)

    def build(builder, x):
        rounded = builder.emit("cast", builder.emit("cast", x, dtype=np.dtype(half).name), dtype="float32")
        y = builder.emit("matmul", builder.emit("cast", x, dtype=np.dtype(half).name), K)
        return {"r": rounded, "y": builder.emit("mul", y, np.array(1 / 3).astype(half))}

    before = program(build, (2, 3), dtype=SINGLE)
    after = with_float_type(before, wide)
    assert {var.dtype for var in after.graph.variables()} == {wide}
    x = np.array([[1.001, 1e-6, -1 / 3], [3e-8, 1e-5, 7e-5]])
    rounded, y = outputs(after, {"x0": x.astype(wide)})
    kept = x.astype(SINGLE).astype(half).astype(np.float64)
    np.testing.assert_array_equal(rounded, kept)
    expected = (kept @ K.astype(np.float64)) * np.float64(np.array(1 / 3).astype(half))
    np.testing.assert_allclose(y, expected, rtol=1e-6 if wide == SINGLE else 1e-15)


@pytest.mark.parametrize(("half", "bits"), [("float16", "int16"), ("bfloat16", "uint16"), ("float32", "int32")])
def test_bits_are_those_of_the_files_own_type(half, bits):
    def build(builder, x):
        read = builder.emit("bitcast", builder.emit("cast", x, dtype=half), dtype=bits)
        return {"i": read, "y": builder.emit("cast", builder.emit("bitcast", read, dtype=half), dtype="float32")}

    after = with_float_type(program(build, (3,), dtype=SINGLE), DOUBLE)
    x = np.array([1.5, -0.3, 1e-4])
    stored = x.astype(SINGLE).astype(np.dtype(getattr(ml_dtypes, half, half)))
    found, back = outputs(after, {"x0": x.astype(SINGLE).astype(DOUBLE)})
    np.testing.assert_array_equal(found, stored.view(bits))
    np.testing.assert_array_equal(back, stored.astype(DOUBLE))


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
