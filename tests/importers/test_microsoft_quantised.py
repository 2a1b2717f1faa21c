"""Operators of onnxruntime's quantiser against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from backtrace_jax.errors import UnsupportedError
from backtrace_jax.onnx_backend import run_model
from tests.importers.nodes import Operand, boolean, check_node, floats, node_model
from tests.importers.test_quantisation import integers
from tests.zoo.runtime import onnxruntime_outputs

A, B = integers("uint8", 1, 2, 4, 6), integers("uint8", 1, 2, 4, 6, seed=1)
IN, OTHER, OUT = ((np.float32(scale), np.uint8(zero)) for scale, zero in ((0.02, 100), (0.03, 20), (0.06, 90)))
PROBABILITY = (np.float32(1 / 256), np.uint8(0))


def check(op_type: str, operands: list[Operand], known: tuple[int, ...], steps: int = 0, **attributes: Any) -> None:
    """Integers are equal up to so many steps, floats up to rounding."""
    rtol, atol = (0, steps) if steps else (1e-5, 1e-6)
    check_node(op_type, operands, known, domain="com.microsoft", rtol=rtol, atol=atol, **attributes)


@pytest.mark.parametrize("op_type", ["QLinearAdd", "QLinearMul"])
def test_two_operands(op_type):
    check(op_type, [A, *IN, B, *OTHER, *OUT], (1, 2, 4, 5, 6, 7), steps=1)


POOL = {"kernel_shape": [2, 3], "strides": [2, 2], "pads": [0, 1, 0, 1]}


@pytest.mark.parametrize(
    ("op_type", "result", "attributes"),
    [
        ("QLinearSigmoid", PROBABILITY, {}),
        ("QLinearLeakyRelu", OUT, {"alpha": 0.2}),
        ("QLinearAveragePool", OUT, POOL),
        ("QLinearGlobalAveragePool", OUT, {"channels_last": 0}),
    ],
)
def test_one_operand(op_type, result, attributes):
    check(op_type, [A, *IN, *result], (1, 2, 3, 4), steps=1, **attributes)


@pytest.mark.parametrize("opset", [12, 13])
def test_softmax(opset):
    """Its attribute says which opset it means."""
    model = node_model("QLinearSoftmax", [A, *IN, *PROBABILITY], (1, 2, 3, 4), domain="com.microsoft", axis=-1)
    model.graph.node[0].attribute.append(helper.make_attribute("opset", opset))
    if opset < 13:
        with pytest.raises(UnsupportedError, match="re-export at opset 13"):
            run_model(model, [A])
        return
    (wanted,) = onnxruntime_outputs(model, {"x0": A})
    np.testing.assert_allclose(run_model(model, [A])[0], wanted, rtol=0, atol=1)


@pytest.mark.parametrize(
    ("op_type", "attributes"),
    [("QLinearAveragePool", POOL), ("QLinearGlobalAveragePool", {})],
    ids=["some", "all"],
)
def test_channels_last(op_type, attributes):
    check(op_type, [A.transpose(0, 2, 3, 1).copy(), *IN, *OUT], (1, 2, 3, 4), steps=1, channels_last=1, **attributes)


@pytest.mark.parametrize("channels_last", [0, 1])
def test_convolution(channels_last):
    x = A.transpose(0, 2, 3, 1).copy() if channels_last else A
    weights = [integers("int8", 3, 2, 3, 3), np.float32([0.01, 0.02, 0.03]), np.zeros(3, np.int8)]
    operands = [x, *IN, *weights, *OUT, integers("int16", 3).astype(np.int32)]
    settings = {"pads": [1, 0, 1, 0], "strides": [1, 2], "channels_last": channels_last}
    check("QLinearConv", operands, tuple(range(1, 9)), steps=1, **settings)


def test_means():
    """onnxruntime has no kernel for it."""
    wanted = (A.astype(np.float32) - 100).mean((2, 3), keepdims=True) * np.float32(0.02 / 0.06) + 90
    operands, known = [A, *IN, *OUT], (1, 2, 3, 4)
    expected = [np.round(wanted).astype(np.uint8)]
    check_node("QLinearReduceMean", operands, known, expected, domain="com.microsoft", atol=1, axes=[2, -1])


def test_joining_and_choosing():
    check("QLinearConcat", [*OUT, A, *IN, B, *OTHER], (0, 1, 3, 4, 6, 7), axis=1)
    check("QLinearWhere", [boolean(1, 2, 4, 6), A, *IN, B, *OTHER, *OUT], (2, 3, 5, 6, 7, 8))


@pytest.mark.parametrize("transposed", [0, 1])
def test_dense_layers(transposed):
    A, B, bias = integers("uint8", 3, 5), integers("int8", 5, 4), integers("int16", 4).astype(np.int32)
    scales = np.float32([0.01, 0.02, 0.03, 0.002])
    weights = [B.T.copy() if transposed else B, scales, np.zeros(4, np.int8)]
    check("QGemm", [A, *IN, *weights, bias, *OUT], tuple(range(1, 9)), transB=transposed)
    check("QGemm", [A, *IN, *weights, bias], tuple(range(1, 7)), transB=transposed, alpha=0.5)


def test_matrix_products_of_integers_as_floats():
    A, B, bias = integers("uint8", 3, 5), integers("int8", 5, 4), floats(4)
    scales, zeros = np.float32([0.01, 0.02, 0.03, 0.002]), integers("int8", 4)
    check("MatMulIntegerToFloat", [A, B, IN[0], scales, IN[1], zeros, bias], tuple(range(1, 7)))
    check("DynamicQuantizeMatMul", [floats(3, 5), B, scales, zeros, bias], (1, 2, 3, 4))


def test_types_of_sixteen_bits_at_any_opset():
    check("QuantizeLinear", [floats(3, 4), np.float32(0.001), np.int16(5)], (1, 2), opset=11)
    check("DequantizeLinear", [integers("uint16", 3, 4), np.float32(0.001), np.uint16(5)], (1, 2), opset=11)


def test_sixteen_bits():
    check("MatMulInteger16", [integers("int16", 3, 5) // 64, integers("int16", 5, 4, seed=1) // 64], (1,))


def attention(per_column=False):
    """Operands of QAttention: X [2, 4, 6], two heads of size 3."""
    scale = np.linspace(0.001, 0.01, 18).astype(np.float32) if per_column else np.float32(0.005)
    zero = np.zeros(18, np.int8) if per_column else np.int8(3)
    weights = integers("int8", 6, 18, seed=1)
    return [integers("uint8", 2, 4, 6), weights, floats(18, seed=2), np.float32(0.02), scale, None, np.uint8(120), zero]


@pytest.mark.parametrize("settings", [{}, {"unidirectional": 1}, {"scale": 0.3}], ids=str)
def test_attention(settings):
    check_node("QAttention", attention(), (1, 2, 3, 4, 6, 7), domain="com.microsoft", num_heads=2, **settings)


def test_attention_by_columns_with_a_mask_and_a_past():
    operands = attention(per_column=True)
    operands[5] = np.asarray([[1, 1, 1, 1, 1, 0], [1, 1, 0, 1, 1, 1]], np.int32)
    settings = {"num_heads": 2, "results": 2, "unidirectional": 1, "domain": "com.microsoft"}
    check_node("QAttention", [*operands, floats(2, 2, 2, 2, 3, seed=3)], (1, 2, 3, 4, 6, 7), **settings)


def test_attention_that_rotates_is_refused():
    with pytest.raises(UnsupportedError, match="before fusing"):
        check_node("QAttention", attention(), (1, 2), [], domain="com.microsoft", num_heads=2, do_rotary=1)
