"""Integers and truths among the inputs: quantities bear relevance as floats do, settings none, and all are named."""

from __future__ import annotations

import warnings
from collections.abc import Collection

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from backtrace_jax import explain
from backtrace_jax.engine.books import KEPT
from backtrace_jax.engine.plan import plan_walk
from backtrace_jax.errors import RelevanceWarning, SettingError, UnsupportedError
from backtrace_jax.ir import Program
from backtrace_jax.passes.build import Builder, Value
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


LONGS = {"u": np.array([[40, -7, 3, 0]]), "x": ROW["x"]}
BYTES = {"u": np.array([[140, 131, 203, 250]], np.uint8), "x": ROW["x"]}


def constant(value: int, like: Value) -> np.ndarray:
    """A constant of a value's type."""
    return np.array(value, like.dtype)


ARITHMETIC = {
    "sub": lambda b, u: b.emit("sub", u, constant(128, u)),
    "scaled difference": lambda b, u: b.emit("mul", b.emit("sub", u, constant(30, u)), constant(2, u)),
    "square and itself": lambda b, u: b.emit("add", b.emit("mul", u, u), u),
    "magnitude": lambda b, u: b.emit("abs", u),
    "clip": lambda b, u: b.emit("clip", u, low=0, high=90),
    "largest": lambda b, u: b.emit("maximum", u, constant(1, u)),
    "chosen": lambda b, u: b.emit("where", b.emit("greater", u, constant(3, u)), u, constant(5, u)),
    "sum": lambda b, u: b.emit("cumsum", u, axis=1, exclusive=False, reverse=False),
    "weights": lambda b, u: b.emit("matmul", u, np.array([[1, 2], [0, -1], [3, 1], [1, 1]]).astype(u.dtype)),
    "shares": lambda b, u: b.emit("reduce_sum", u, axes=(1,), keepdims=True),
}
FITS_BYTES = ("sub", "magnitude", "clip", "largest", "chosen")  # 203 * 203 would not


WEIGHTS = RNG.normal(size=(40, 3))


def counted(forms: Collection[str], dtype: np.dtype, beside: bool = False) -> Program:
    """What integers compute in several ways before they are cast, weighed, alone or beside weighed floats."""
    builder = Builder()
    u = builder.input("u", (1, 4), dtype)
    computed = [ARITHMETIC[form](builder, u) for form in forms]
    numbers = [each if each.is_float else real(builder, each) for each in computed]
    joined = builder.emit("concat", *numbers, axis=1) if len(numbers) > 1 else numbers[0]
    weighed = builder.emit("matmul", joined, WEIGHTS[: joined.shape[1]])
    if beside:
        x = builder.input("x", (1, 4), DOUBLE)
        weighed = builder.emit("add", weighed, builder.emit("matmul", x, HEAD[4:8]))
    return builder.finish({"y": builder.emit("tanh", weighed)})


@pytest.mark.parametrize("mode", ["default", "lrp-epsilon", "contrastive", "gradient"])
@pytest.mark.parametrize(("dtype", "beside"), [(INDEX, True), (BYTE, False)])
def test_what_integers_compute_is_shared_as_if_they_were_floats(dtype, beside, mode):
    start = RNG.normal(size=(1, 3)) if mode != "contrastive" else np.abs(RNG.normal(size=(2, 1, 3)))
    forms, row = (FITS_BYTES, BYTES) if dtype == BYTE else (ARITHMETIC, LONGS)
    row = row if beside else {"u": row["u"]}
    floats = {name: array.astype(np.float64) for name, array in row.items()}
    wrt = list(row) if beside else None
    found, expected = (
        walk_back(counted(forms, kind, beside), given, start, mode=mode, wrt=wrt)
        for kind, given in ((dtype, row), (DOUBLE, floats))
    )
    close(found.result, expected.result)
    for name in row:
        close(found.relevance[name], expected.relevance[name])
    for cause in KEPT:
        close(found.kept(cause), expected.kept(cause))


def test_bytes_that_overflow_are_shared_by_what_they_were():
    """0 - 128 is 128 in eight bits: shares follow 0 and -128, and the books close."""
    program, row = counted(["sub"], BYTE), {"u": np.array([[0, 64, 128, 255]], np.uint8)}
    found = walk_back(program, row, np.ones((1, 3)), mode="lrp-epsilon")
    assert found.relevance["u"][0, 0] == 0
    assert np.isfinite(found.relevance["u"]).all()
    assert_books_close(found.books)


def test_large_numbers_are_not_rounded_before_they_are_subtracted():
    """Seconds since 1970 less another such number: floats of 32 bits hold neither, but the difference."""
    builder = Builder()
    u = builder.input("u", (1, 4), INDEX)
    passed = builder.emit("cast", builder.emit("sub", u, np.array(1_700_000_001)), dtype="float32")
    program = builder.finish({"y": builder.emit("matmul", passed, HEAD[:4].astype(np.float32))})
    row = {"u": 1_700_000_001 + np.array([[3, -20, 7, 1]])}
    found = walk_back(program, row, np.ones((1, 3), np.float32), mode="lrp-epsilon")
    close(found.result, np.array([[3, -20, 7, 1]], np.float32) @ HEAD[:4].astype(np.float32), 1e-6)
    assert_books_close(found.books, 1e-5)


@pytest.mark.parametrize("mode", ["integrated-gradients", "deeplift", "gradient-x-input", "smoothgrad"])
def test_modes_that_need_smooth_inputs_refuse_integers_that_are_computed_with(mode):
    graph = counted(["sub"], INDEX).graph
    with pytest.raises(UnsupportedError, match=r"'sub' computes with integers before they are cast.*'gradient'"):
        plan_walk(graph, find_mode(mode), graph.outputs[0])


@pytest.mark.parametrize("form", ARITHMETIC)
def test_arithmetic_before_the_cast_does_not_hide_a_quantity(form):
    assert forgotten(counted([form], INDEX, True)) == ("u",)
    assert forgotten(counted([form], BYTE, True)) == ("u",)


def meeting(op: str, dtype: np.dtype, *, scaled: bool) -> Program:
    """Floats that meet integers, which may be scaled before that, without weights of their own."""
    builder = Builder()
    x, u = builder.input("x", (1, 4), DOUBLE), real(builder, builder.input("u", (1, 4), dtype))
    u = builder.emit("mul", u, np.array(1 / 255)) if scaled else u
    return builder.finish({"y": builder.emit("matmul", builder.emit(op, x, u), HEAD[:4])})


@pytest.mark.parametrize("dtype", [INDEX, BOOL, BYTE])
def test_what_is_added_to_floats_or_compared_with_them_is_no_mask(dtype):
    for op in ("add", "sub", "maximum"):
        assert forgotten(meeting(op, dtype, scaled=True)) == forgotten(meeting(op, dtype, scaled=False)) == ("u",)
    assert forgotten(meeting("mul", dtype, scaled=True)) == ("u",)
    assert forgotten(meeting("mul", dtype, scaled=False)) == ()  # a mask, as far as one can tell
    plan = plan_walk(
        (graph := meeting("mul", dtype, scaled=False).graph), find_mode("default"), graph.outputs[0], ["x", "u"]
    )
    assert {var.name for var in plan.inputs} == {"x", "u"}


def test_integers_that_stand_for_floats_bear_relevance_by_themselves():
    """An input that is quantised already: its scale says that it is a quantity."""
    builder = Builder()
    x, u = builder.input("x", (1, 4), DOUBLE), builder.input("u", (1, 4), BYTE)
    restored = builder.emit("dequantize", u, np.array(0.1), np.array(128.0), dtype="float64")
    program = builder.finish({"y": builder.emit("matmul", builder.emit("add", x, restored), HEAD[:4])})
    row = {"x": ROW["x"], "u": BYTES["u"]}
    found = walk_back(program, row, np.ones((1, 3)), mode="lrp-epsilon")
    weighed = (BYTES["u"] - 128.0) * 0.1 * (HEAD[:4] / found.result).sum(1)
    close(found.relevance["u"], weighed, 1e-7)
    assert_books_close(found.books)


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
    if form == "longest":  # the largest entries over the tokens shown
        addend = builder.emit("reshape", addend, shape=(1, 5, 1))
        return builder.finish(
            {"y": builder.emit("reduce_max", builder.emit("add", rows, addend), axes=(1,), keepdims=False)}
        )
    hidden = builder.emit("add", scores, builder.emit("reshape", addend, shape=(1, 1, 5)))
    return builder.finish({"y": builder.emit("matmul", builder.emit("softmax", hidden, axis=-1), rows)})


@pytest.mark.parametrize("form", ["rows", "scores", "longest"])
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
