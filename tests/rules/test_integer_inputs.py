"""Integers and truths among the inputs: quantities bear relevance as floats do, settings none, and all are named."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from backtrace_jax import explain
from backtrace_jax.engine.plan import plan_walk
from backtrace_jax.errors import RelevanceWarning, SettingError
from backtrace_jax.ir import Builder, Program, Value
from backtrace_jax.rules import find_mode
from tests.rules.running import DOUBLE, INDEX, assert_books_close, close, walk_back

RNG = np.random.default_rng(0)
KERNEL, HEAD, TABLE = RNG.normal(size=(3, 2, 2, 2)), RNG.normal(size=(12, 3)), RNG.normal(size=(9, 4))
PIXELS = RNG.integers(0, 256, (1, 2, 3, 3)).astype(np.uint8)
BYTE, BOOL = np.dtype(np.uint8), np.dtype(np.bool_)


def real(builder: Builder, value: Value) -> Value:
    return builder.emit("cast", value, dtype="float64")


def vision(dtype: np.dtype) -> Program:
    """Pixels padded, turned, cast and standardised, then a convolution and a dense layer."""
    builder = Builder()
    x = builder.input("x", PIXELS.shape, dtype)
    x = builder.emit("transpose", x, perm=(0, 1, 3, 2))
    x = builder.emit("sub", builder.emit("mul", real(builder, x), np.array(1 / 255)), np.full((2, 1, 1), 0.4))
    settings = {"strides": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1}
    maps = builder.emit("relu", builder.emit("conv", x, KERNEL, **settings))
    return builder.finish({"y": builder.emit("matmul", builder.emit("reshape", maps, shape=(1, 12)), HEAD)})


@pytest.mark.parametrize("mode", ["default", "lrp-epsilon-plus", "gradient"])
def test_pixels_of_eight_bits(mode):
    start = RNG.normal(size=(1, 3))
    found, expected = (
        walk_back(vision(dtype), {"x": PIXELS.astype(dtype)}, start, mode=mode) for dtype in (BYTE, DOUBLE)
    )
    close(found.relevance["x"], expected.relevance["x"])
    assert np.abs(found.relevance["x"]).max() > 0.01
    if mode != "gradient":
        assert_books_close(found.books)


def table(flags: np.dtype, age: np.dtype) -> Program:
    """Numbers, flags and an age, side by side."""
    builder = Builder()
    x, f, a = (builder.input(name, (1, 4), dtype) for name, dtype in (("x", DOUBLE), ("f", flags), ("a", age)))
    joined = builder.emit("concat", x, *(each if each.is_float else real(builder, each) for each in (f, a)), axis=1)
    return builder.finish({"y": builder.emit("tanh", builder.emit("matmul", joined, HEAD))})


ROW = {"x": RNG.normal(size=(1, 4)), "f": np.array([[True, False, True, True]]), "a": np.array([[3, 0, -2, 40]])}


def test_quantities_that_are_named_bear_relevance_as_floats_do():
    """Beside floats; alone; and only some of them."""
    floats = {name: array.astype(np.float64) for name, array in ROW.items()}
    start = RNG.normal(size=(1, 3))
    for wrt in (["x", "f", "a"], ["f"], ["x", "a"]):
        found = walk_back(table(BOOL, INDEX), ROW, start, wrt=wrt)
        expected = walk_back(table(DOUBLE, DOUBLE), floats, start, wrt=wrt)
        assert {var.name for var in found.plan.inputs} == set(wrt)
        for name in wrt:
            close(found.relevance[name], expected.relevance[name])
        assert_books_close(found.books)


def forgotten(program: Program, wrt: list[str] | None = None) -> tuple[str, ...]:
    return plan_walk(program.graph, find_mode("default"), program.graph.outputs[0], wrt).forgotten


def test_quantities_beside_floats_are_not_forgotten_without_a_word():
    assert forgotten(table(BOOL, INDEX)) == ("f", "a")
    assert forgotten(table(BOOL, DOUBLE)) == ("f",)
    assert forgotten(table(BOOL, INDEX), ["x"]) == ()  # said by the user


def masked(dtype: np.dtype, form: str) -> Program:
    """Tokens, and a mask that hides scores, rows, or both."""
    builder = Builder()
    ids, mask = builder.input("ids", (1, 5), INDEX), builder.input("mask", (1, 5), dtype)
    rows, shown = builder.emit("gather", TABLE, ids, axis=0), real(builder, mask)
    if form == "rows":
        column = builder.emit("reshape", shown, shape=(1, 5, 1))
        total = builder.emit("reduce_sum", builder.emit("mul", rows, column), axes=(1,), keepdims=False)
        return builder.finish(
            {"y": builder.emit("div", total, builder.emit("reduce_sum", column, axes=(1,), keepdims=False))}
        )
    addend = builder.emit("mul", builder.emit("sub", np.array(1.0), shown), np.array(-1e9))
    scores = builder.emit("matmul", rows, builder.emit("transpose", rows, perm=(0, 2, 1)))
    hidden = builder.emit("add", scores, builder.emit("reshape", addend, shape=(1, 1, 5)))
    return builder.finish({"y": builder.emit("matmul", builder.emit("softmax", hidden, axis=-1), rows)})


@pytest.mark.parametrize("form", ["rows", "scores"])
@pytest.mark.parametrize("dtype", [INDEX, BOOL, np.dtype(np.int32)])
def test_masks_bear_nothing_and_are_not_forgotten_quantities(dtype, form):
    program = masked(dtype, form)
    plan = plan_walk(program.graph, find_mode("default"), program.graph.outputs[0])
    assert [var.name for var in plan.inputs] == ["ids"]
    assert plan.forgotten == ()


def test_a_mask_does_not_stand_in_for_tokens_that_are_not_followed():
    """Where ids look up rows in a way that is not followed, nothing bears relevance, and that is said."""
    builder = Builder()
    ids, mask = (builder.input(name, (1, 5), INDEX) for name in ("ids", "mask"))
    rows = builder.emit("gather", TABLE, builder.emit("mul", ids, mask), axis=0)
    column = builder.emit("reshape", real(builder, mask), shape=(1, 5, 1))
    graph = builder.finish({"y": builder.emit("mul", rows, column)}).graph
    with pytest.raises(SettingError, match=r"takes no relevance.*of several that do so together those named in wrt="):
        plan_walk(graph, find_mode("default"), graph.outputs[0])
    plan = plan_walk(graph, find_mode("default"), graph.outputs[0], ["ids"])
    assert [var.name for var in plan.inputs] == ["ids"]


def classifier(flags: np.ndarray) -> onnx.ModelProto:
    """Numbers and flags side by side, as a file."""
    code = helper.np_dtype_to_tensor_dtype(flags.dtype)
    nodes = [
        helper.make_node("Cast", ["f"], ["g"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Concat", ["x", "g"], ["joined"], axis=1),
        helper.make_node("MatMul", ["joined", "W"], ["y"]),
    ]
    inputs = [
        helper.make_tensor_value_info(name, each, ["N", 4])
        for name, each in (("x", onnx.TensorProto.FLOAT), ("f", code))
    ]
    result = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 3])
    tensors = [numpy_helper.from_array(HEAD[:8].astype(np.float32), "W")]
    graph = helper.make_graph(nodes, "classifier", inputs, [result], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_a_forgotten_quantity_is_named_in_a_warning():
    feeds = {"x": ROW["x"].astype(np.float32), "f": ROW["f"]}
    with pytest.warns(RelevanceWarning, match=r"no relevance was given to 'f'.*when wrt= names them"):
        found = explain(classifier(ROW["f"]), feeds, mode="gradient-x-input", target=1)
    assert set(found.relevance) == set(found.fingerprint["wrt"]) == {"x"}
    floats = {name: array.astype(np.float32) for name, array in feeds.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        named = explain(classifier(ROW["f"]), feeds, mode="gradient-x-input", target=1, wrt=["x", "f"])
        expected = explain(classifier(floats["f"]), floats, mode="gradient-x-input", target=1)
    for name in ("x", "f"):
        np.testing.assert_allclose(named.relevance[name], expected.relevance[name], rtol=1e-6)
    assert np.count_nonzero(named.relevance["f"]) == 3
