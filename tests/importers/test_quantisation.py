"""Quantised numbers, products of them, and networks that onnxruntime's own tools have quantised."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnxruntime import quantization

from backtrace_jax import explain
from backtrace_jax.analysis.bearing import bearing, bearing_inputs
from backtrace_jax.errors import ModelError
from backtrace_jax.importers.onnx import load, lower
from backtrace_jax.onnx_backend import run_model
from tests.importers.explaining import check_explained, network
from tests.importers.nodes import check_node, floats, node_model
from tests.zoo.runtime import onnxruntime_outputs

EXACT = {"rtol": 0, "atol": 0}


def integers(dtype: str, *shape: int, seed: int = 0) -> np.ndarray:
    """Random integers over the whole range of a type."""
    limits = ml_dtypes.iinfo(dtype)
    return np.random.default_rng(seed).integers(limits.min, limits.max + 1, shape).astype(dtype)


X = floats(2, 3, 4)
SCALES = np.float32([0.02, 0.5, 0.013])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16"])
def test_scales_of_the_whole_and_of_each_channel(dtype):
    zero = integers(dtype, 3)
    check_node("QuantizeLinear", [X, np.float32(0.01), zero[0]], **EXACT)
    check_node("QuantizeLinear", [X, SCALES, zero], axis=-2, **EXACT)
    check_node("DequantizeLinear", [integers(dtype, 2, 3), SCALES, zero], (1, 2), axis=1, **EXACT)
    check_node("DequantizeLinear", [integers(dtype, 2, 3), np.float32(0.3)], **EXACT)


def test_versions_and_defaults():
    check_node("QuantizeLinear", [X, np.float32(0.02)], opset=10, **EXACT)
    check_node("QuantizeLinear", [X, np.float32(0.02)], opset=13, **EXACT)
    check_node("QuantizeLinear", [X, np.float32(0.02)], output_dtype=TensorProto.INT16, **EXACT)
    wanted = np.uint8([0, 0, 4, 7, 255])
    check_node("QuantizeLinear", [np.int32([-9, 0, 1, 2, 900]), np.float32(0.28)], opset=13, expected=[wanted], **EXACT)
    check_node("DequantizeLinear", [integers("int32", 5), np.float32(0.02)], opset=10, rtol=1e-6)
    half = [X.astype(np.float16), np.float16(0.02), np.uint8(3)]
    check_node("QuantizeLinear", half, opset=19, **EXACT)
    check_node("DequantizeLinear", [integers("int8", 5), np.float16(0.02)], opset=19, **EXACT)


@pytest.mark.parametrize("dtype", ["int4", "uint4", "int8", "uint16"])
def test_scales_of_blocks(dtype):
    """Here and back; the last block is cut short."""
    scale, zero = 0.1 + np.abs(floats(2, 2, 4)), integers(dtype, 2, 2, 4)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], axis=1, block_size=2),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], axis=1, block_size=2),
    ]
    model = network(nodes, {"x": X}, scale=scale, zero=zero)
    np.testing.assert_array_equal(run_model(model, [X])[0], onnxruntime_outputs(model, {"x": X})[0])


def test_scales_that_do_not_fit():
    for settings in ({"axis": 1}, {"axis": 1, "block_size": 5}):
        model = node_model("QuantizeLinear", [X, np.float32([0.1, 0.2])], **settings)
        with pytest.raises(ModelError, match="scale"):
            run_model(model, [X, np.float32([0.1, 0.2])])


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"])
def test_floats_of_eight_bits(dtype):
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    model = network(nodes, {"x": X}, scale=np.float32(0.002), zero=np.zeros((), dtype))
    np.testing.assert_array_equal(run_model(model, [X])[0], onnxruntime_outputs(model, {"x": X})[0])


@pytest.mark.parametrize("x", [floats(40, 50), np.abs(floats(6)), -np.abs(floats(6)), np.zeros((2, 3), np.float32)])
def test_dynamic_ranges(x):
    check_node("DynamicQuantizeLinear", [x], results=3, opset=11, **EXACT)


@pytest.mark.parametrize(("a", "b"), [("uint8", "int8"), ("uint8", "uint8"), ("int8", "int8")])
def test_matrix_products(a, b):
    A, B = integers(a, 2, 3, 5), integers(b, 5, 4, seed=1)
    check_node("MatMulInteger", [A, B], opset=10, **EXACT)
    check_node("MatMulInteger", [A, B, integers(a), integers(b, 4)], (1, 2, 3), opset=10, **EXACT)
    scales = [np.float32(0.02), np.float32([0.01, 0.02, 0.03, 0.002]), np.float32(0.05)]
    operands = [A, scales[0], integers(a), B, scales[1], np.zeros(4, b), scales[2], integers(a, seed=3)]
    check_node("QLinearMatMul", operands, tuple(range(1, 8)), opset=10, **EXACT)


def test_rows_with_zero_points_of_their_own():
    A, B, zero = integers("uint8", 3, 5), integers("int8", 5, 4), integers("uint8", 3)
    wanted = (A.astype(int) - zero[:, None].astype(int)) @ B.astype(int)
    check_node("MatMulInteger", [A, B, zero], expected=[wanted.astype(np.int32)], opset=10, **EXACT)


def test_sums_beyond_what_float32_holds_are_exact():
    A, B = np.full((1, 3001), 255, np.uint8), np.full((3001, 1), 255, np.uint8)
    check_node("MatMulInteger", [A, B], expected=[np.array([[3001 * 255 * 255]], np.int32)], opset=10, **EXACT)


@pytest.mark.parametrize("w", ["int8", "uint8"])
def test_convolutions(w):
    x, W = integers("uint8", 1, 4, 7, 6), integers(w, 6, 2, 3, 3, seed=1)
    settings = {"opset": 10, "group": 2, "strides": [2, 1], "pads": [1, 0, 2, 1], **EXACT}
    check_node("ConvInteger", [x, W, integers("uint8"), np.zeros((), w)], (1, 2, 3), **settings)
    scales = [np.float32(0.02), (0.01 + 0.01 * np.arange(6)).astype(np.float32), np.float32(0.3)]
    zeros = [np.uint8(100), np.zeros(6, w), np.uint8(30)]
    operands = [part for pair in zip((x, W), scales, zeros, strict=False) for part in pair]
    bias = integers("int16", 6).astype(np.int32)
    check_node("QLinearConv", [*operands, scales[2], zeros[2], bias], tuple(range(1, 9)), **settings)


def test_bearing_passes_through_quantities_and_not_through_positions():
    """The range that is found from the entries takes none."""
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("Transpose", ["q"], ["t"], perm=[1, 0]),
        helper.make_node("MatMulInteger", ["t", "W", "z"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["x"], ["steps"], to=TensorProto.INT32),
        helper.make_node("Cast", ["steps"], ["stepped"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["real", "s"], ["scaled"]),
        helper.make_node("Add", ["scaled", "stepped"], ["y"]),
    ]
    x = floats(3, 3)
    graph = lower(load(network(nodes, {"x": x}, W=integers("int8", 3, 3))), {"x": x.shape}).graph
    found = bearing(graph, bearing_inputs(graph))
    assert {"x", "q", "t", "sums", "real", "scaled", "y"} <= found
    assert not {"s", "z", "stepped"} & found


def test_pixels_of_eight_bits_are_explained():
    """An integer input that is dequantised bears relevance; pools select among integers."""
    pixels = integers("uint8", 1, 2, 4, 4)
    nodes = [
        helper.make_node("MaxPool", ["x"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("DequantizeLinear", ["pooled", "scale", "zero"], ["real"]),
        helper.make_node("Conv", ["real", "W"], ["maps"]),
        helper.make_node("GlobalAveragePool", ["maps"], ["means"]),
        helper.make_node("Flatten", ["means"], ["y"]),
    ]
    weights = {"scale": np.float32(0.02), "zero": np.uint8(100), "W": floats(3, 2, 2, 2)}
    model = network(nodes, {"x": pixels}, **weights)
    check_explained(model, {"x": pixels})
    found = explain(model, {"x": pixels}, mode="deeplift").relevance["x"]
    assert np.isfinite(found).all()
    assert 0 < np.count_nonzero(found) <= 8


def test_tokens_that_look_up_quantised_rows_are_explained():
    ids = np.array([[3, 1, 4]])
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("DequantizeLinear", ["rows", "scale", "zero"], ["real"]),
        helper.make_node("ReduceMean", ["real", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "W"], ["y"]),
    ]
    weights = {"table": integers("int8", 6, 4), "scale": np.float32(0.02), "zero": np.int8(5)}
    model = network(nodes, {"ids": ids}, **weights, axes=np.array([1]), W=floats(4, 3))
    check_explained(model, {"ids": ids}, bearing="ids")
    rows = 0.02 * (weights["table"][ids[0]].astype(np.float64) - 5)
    answer = rows.mean(0) @ floats(4, 3)
    shares = rows @ floats(4, 3)[:, answer.argmax()] / 3
    found = explain(model, {"ids": ids}, mode="gradient-x-input").relevance["ids"]
    np.testing.assert_allclose(found[0], shares, rtol=1e-5)


def test_gradients_pass_rounding_and_not_clipping():
    """Straight through: the derivative of what is quantised, were it not rounded."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["r"]),
        helper.make_node("MatMul", ["r", "W"], ["y"]),
    ]
    x, W = np.float32([[-3.0, 0.251, 0.4, 3.0]]), floats(4, 1)
    model = network(nodes, {"x": x}, scale=np.float32(0.01), zero=np.int8(0), W=W)
    inside = np.array([[0, 1, 1, 0]]) * W.T
    gradient = explain(model, {"x": x}, mode="gradient").relevance["x"]
    np.testing.assert_allclose(gradient, inside, rtol=1e-5)
    clipped = np.clip(x, -1.285, 1.275) * W.T  # where what is rounded to the last levels ends
    found = explain(model, {"x": x}, mode="deeplift", baseline="zero").relevance["x"]
    np.testing.assert_allclose(found, clipped, rtol=1e-4)


def dense() -> tuple[onnx.ModelProto, np.ndarray]:
    nodes = [
        helper.make_node("MatMul", ["x", "W1"], ["h0"]),
        helper.make_node("Add", ["h0", "b1"], ["h1"]),
        helper.make_node("Relu", ["h1"], ["h2"]),
        helper.make_node("Gemm", ["h2", "W2", "b2"], ["y"]),
    ]
    x = floats(1, 6)
    weights = {"W1": floats(6, 8, seed=1), "b1": floats(8, seed=2), "W2": floats(8, 4, seed=3), "b2": floats(4, seed=4)}
    return network(nodes, {"x": x}, opset=13, **weights), x


def convolutional() -> tuple[onnx.ModelProto, np.ndarray]:
    nodes = [
        helper.make_node("Conv", ["x", "W1", "b1"], ["h1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h1"], ["h2"]),
        helper.make_node("MaxPool", ["h2"], ["h3"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["h3", "W2"], ["h4"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["h3", "h4"], ["h5"]),
        helper.make_node("GlobalAveragePool", ["h5"], ["h6"]),
        helper.make_node("Flatten", ["h6"], ["h7"]),
        helper.make_node("Gemm", ["h7", "W3", "b3"], ["y"]),
    ]
    x, kernels = floats(1, 3, 8, 8), {"W1": floats(5, 3, 3, 3, seed=1) / 3, "W2": floats(5, 5, 3, 3, seed=2) / 5}
    rest = {"b1": floats(5, seed=3), "W3": floats(5, 4, seed=4), "b3": floats(4, seed=5)}
    return network(nodes, {"x": x}, opset=13, **kernels, **rest), x


class Calibration(quantization.CalibrationDataReader):
    """A few inputs from which ranges are found."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.inputs: Iterator[dict[str, np.ndarray]] = iter([{"x": floats(*shape, seed=seed)} for seed in range(5)])

    def get_next(self) -> dict[str, np.ndarray]:
        return next(self.inputs, {}) or None  # type: ignore[return-value]


SIGNED, UNSIGNED = quantization.QuantType.QInt8, quantization.QuantType.QUInt8
STATIC = {
    "pairs": {"quant_format": quantization.QuantFormat.QDQ, "activation_type": UNSIGNED, "weight_type": SIGNED},
    "channels": {"quant_format": quantization.QuantFormat.QDQ, "activation_type": SIGNED, "per_channel": True},
    "operators": {"quant_format": quantization.QuantFormat.QOperator, "activation_type": UNSIGNED},
}


@cache
def quantised(network: str, form: str) -> tuple[onnx.ModelProto, np.ndarray]:
    """A network as onnxruntime quantises it."""
    model, x = {"dense": dense, "convolutional": convolutional}[network]()
    with TemporaryDirectory() as folder:
        path, result = Path(folder, "floats.onnx"), Path(folder, "integers.onnx")
        onnx.save(model, path)
        if form == "dynamic":
            quantization.quantize_dynamic(path, result)
        else:
            quantization.quantize_static(path, result, Calibration(x.shape), **STATIC[form])
        return onnx.load(result), x


FORMS = [(network, form) for network in ("dense", "convolutional") for form in (*STATIC, "dynamic")]


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_quantised_networks(name, form):
    """The result is onnxruntime's, and relevance passes to the input."""
    model, x = quantised(name, form)
    (found,), (wanted,) = run_model(model, [x]), onnxruntime_outputs(model, {"x": x})
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    if name == "dense" or form == "operators":
        check_explained(model, {"x": x})
    explanation = explain(model, {"x": x})
    assert explanation.ledger.error.max() < 1e-5
    assert np.abs(explanation.relevance["x"]).sum() > 1e-3


CASES = Path(__file__).parent.parent / "cases"
ROWS = np.random.default_rng(1).normal(size=(20, 16)).astype(np.float32)


@pytest.mark.parametrize("mode", ["gradient", "integrated-gradients", "default", "lrp-epsilon"])
def test_a_quantised_network_is_explained_as_its_floats(mode):
    """Correlation of each row's relevance; rules that divide by what may be near 0 are judged by the middle row."""
    (floats, quantised) = (
        explain(CASES / f"{name}.onnx", ROWS, mode=mode, target=0, dtype="float64") for name in ("mlp", "mlp_int8")
    )
    pairs = zip(floats.relevance["x"], quantised.relevance["x"], strict=True)
    found = np.array([np.corrcoef(*pair)[0, 1] for pair in pairs])
    assert (found.min() if "gradient" in mode else np.median(found)) > 0.999
    assert all(explanation.relevance["x"].dtype == np.float64 for explanation in (floats, quantised))
    assert quantised.ledger is None or quantised.ledger.error.max() < 1e-14
    extreme = np.abs(ROWS).argmax(1)[:, None]
    pairs = (np.take_along_axis(each.relevance["x"], extreme, 1) for each in (floats, quantised))
    if mode == "gradient":
        np.testing.assert_allclose(*pairs, rtol=0.05, atol=0.01)


@pytest.mark.parametrize(("name", "form"), [("dense", "operators"), ("dense", "channels"), ("convolutional", "pairs")])
def test_gradients_of_what_is_statically_quantised(name, form):
    model, x = quantised(name, form)
    floats = {"dense": dense, "convolutional": convolutional}[name]()[0]
    found, expected = (explain(each, x, mode="gradient", target=0).relevance["x"] for each in (model, floats))
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.97


@pytest.mark.parametrize("form", ["pairs", "dynamic"])
def test_deeplift_adds_up_but_for_rounding(form):
    model, x = quantised("dense", form)
    explanation = explain(model, {"x": x}, mode="deeplift", baseline="zero", target=0)
    outputs = [run_model(model, [each])[0][0, 0] for each in (x, 0 * x)]
    assert math.isclose(explanation.relevance["x"].sum(), outputs[0] - outputs[1], abs_tol=0.1)
