"""Casts between all types, and bits read as another type."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.numpy_helper import saturate_cast

from backtrace_jax.errors import ModelError, UnsupportedError
from backtrace_jax.onnx_backend import run_model
from tests.importers.explaining import check_explained, network
from tests.importers.nodes import check_node, floats, node_model
from tests.zoo.runtime import onnxruntime_outputs

TYPES = ("float16", "bfloat16", "float32", "float64", "bool", "int2", "uint2", "int4", "uint4", "int8", "uint8")
TYPES += ("int16", "uint16", "int32", "uint32", "int64", "uint64", "float4_e2m1fn")
EIGHT_BITS = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz")
WIDE = np.float32([0, 0.3, -0.7, 1.5, 2.5, -2, 100, 300, -70, 1e-7, -1e-9, 448, 470, 61440, 1e6, -1e9, np.inf, -np.inf])


def cast(x: np.ndarray, dtype: str, **settings) -> np.ndarray:
    """Cast, run here, at the opset that has all types."""
    to = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return run_model(node_model("Cast", [x], opset=25, to=to, **settings), [x])[0]


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found.astype(np.float64), expected.astype(np.float64))


@pytest.mark.parametrize("source", [*TYPES, *EIGHT_BITS])
def test_numbers_that_every_type_holds_pass_between_all_of_them(source):
    """One model casts to every type and back to float64."""
    numbers = np.array([0, 1, 1, 0]).astype(source)
    targets = [*TYPES, *EIGHT_BITS]
    codes = [helper.np_dtype_to_tensor_dtype(np.dtype(target)) for target in targets]
    nodes = [helper.make_node("Cast", ["x"], [target], to=code) for target, code in zip(targets, codes, strict=True)]
    outputs = [helper.make_tensor_value_info(target, code, [4]) for target, code in zip(targets, codes, strict=True)]
    given = helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(np.dtype(source)), [4])
    model = helper.make_model(
        helper.make_graph(nodes, "casts", [given], outputs), opset_imports=[helper.make_opsetid("", 25)]
    )
    for target, found in zip(targets, run_model(model, [numbers]), strict=True):
        assert_same(found, numbers.astype(np.float32).astype(target))


@pytest.mark.parametrize("source", ["int64", "int16", "uint8"])
@pytest.mark.parametrize("dtype", ["int2", "uint4", "int8", "uint16"])
def test_integers_out_of_range_keep_their_lowest_bits(source, dtype):
    numbers = np.array([-300, -129, -9, -3, 5, 17, 200, 70000]).astype(source)
    assert_same(cast(numbers, dtype), numbers.astype(dtype))


def test_floats_out_of_range_of_narrow_integers_do_so_as_well():
    numbers = np.float32([-9.5, -3, 9, 17.9, 300])
    assert_same(cast(numbers, "int4"), np.array([7, -3, -7, 1, -4], "int4"))
    assert_same(cast(numbers, "uint8"), np.array([247, 253, 9, 17, 44], np.uint8))


@pytest.mark.optimised  # without its fusions, XLA rounds wrongly to those whose zero has no sign
@pytest.mark.parametrize("dtype", EIGHT_BITS)
@pytest.mark.parametrize("source", ["float32", "float16", "bfloat16"])
def test_floats_of_eight_bits(dtype, source):
    with np.errstate(over="ignore"):
        numbers = WIDE.astype(source)
    assert_same(cast(numbers, dtype), saturate_cast(numbers, np.dtype(dtype)))
    assert_same(cast(numbers, dtype, saturate=0), numbers.astype(dtype))
    assert np.isnan(cast(np.float32([np.nan]), dtype).astype(np.float32)).all()


def exponent(power: float) -> float:
    return 2.0**power


POWERS = {
    "up": (exponent(-127), exponent(-126), 0.25, 1.0, 2.0, 2.0, 4.0, exponent(127)),
    "down": (exponent(-127), exponent(-127), 0.25, 1.0, 1.0, 1.0, 2.0, exponent(127)),
    "nearest": (exponent(-127), exponent(-126), 0.25, 1.0, 1.0, 2.0, 4.0, exponent(127)),
}
ROUNDED = np.float32([exponent(-130), 1.75 * exponent(-127), 0.25, 1.0, 1.4, 1.5, 3.5, np.inf])


@pytest.mark.parametrize("round_mode", POWERS)
def test_powers_of_two(round_mode):
    found = cast(ROUNDED, "float8_e8m0fnu", round_mode=round_mode)
    np.testing.assert_array_equal(found.astype(np.float64), POWERS[round_mode])
    loose = cast(ROUNDED, "float8_e8m0fnu", round_mode=round_mode, saturate=0).astype(np.float64)
    np.testing.assert_array_equal(np.isnan(loose), [True, *[False] * 6, True])
    np.testing.assert_array_equal(loose[1:-1], POWERS[round_mode][1:-1])


def test_a_round_mode_that_does_not_exist():
    with pytest.raises(ModelError, match="'round_mode' must be one of up, down, nearest, found 'away'"):
        cast(ROUNDED, "float8_e8m0fnu", round_mode="away")


@pytest.mark.parametrize("to", ["FLOAT16", "BFLOAT16", "INT8", "UINT16", "INT64", "BOOL", "FLOAT8E4M3FN"])
def test_against_onnxruntime(to):
    if to in ("BFLOAT16", "FLOAT8E4M3FN"):  # no type of NumPy: onnxruntime hands them out as bytes
        nodes = [helper.make_node("Cast", ["x"], ["h"], to=TensorProto.DataType.Value(to))]
        nodes.append(helper.make_node("Cast", ["h"], ["y"], to=TensorProto.FLOAT))
        check_model(network(nodes, {"x": 30 * floats(3, 4)}), 30 * floats(3, 4))
    else:
        check_node("Cast", [30 * np.abs(floats(3, 4))], to=TensorProto.DataType.Value(to))


def check_model(model: onnx.ModelProto, x: np.ndarray) -> None:
    np.testing.assert_array_equal(run_model(model, [x])[0], onnxruntime_outputs(model, {"x": x})[0])


def test_bits_are_read_as_another_type():
    words = np.array([0, 1, 0x3F800000, 0xFF800000], np.uint32)
    for dtype in (np.float32, np.int32):
        model = node_model("BitCast", [words], opset=26, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
        np.testing.assert_array_equal(run_model(model, [words])[0], words.view(dtype))
    fours = np.arange(-8, 8).astype(ml_dtypes.int4)
    model = node_model("BitCast", [fours], opset=26, to=TensorProto.UINT4)
    np.testing.assert_array_equal(run_model(model, [fours])[0].astype(int), np.arange(-8, 8) % 16)
    with pytest.raises(ModelError, match="to have the same bit-width"):
        run_model(node_model("BitCast", [floats(2)], opset=26, to=TensorProto.INT64), [floats(2)])
    wide = floats(2).astype(np.float64)
    with pytest.raises(UnsupportedError, match="the bits of complex64"):
        run_model(node_model("BitCast", [wide], opset=26, to=TensorProto.COMPLEX64), [wide])


def test_a_network_of_eight_bit_floats_is_explained():
    """Relevance is not rounded to what it passes."""
    nodes = [
        helper.make_node("Cast", ["x"], ["a"], to=TensorProto.FLOAT8E4M3FN),
        helper.make_node("Flatten", ["a"], ["b"]),
        helper.make_node("Cast", ["b"], ["c"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["c", "W"], ["y"]),
    ]
    x = floats(1, 5)
    check_explained(network(nodes, {"x": x}, W=floats(5, 3, seed=1)), {"x": x})
