"""Quantised operators of a GPU against the standard graphs they are fused from, run by onnxruntime.

onnxruntime has no kernel of them for CPUs.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from onnx import helper, numpy_helper

from backtrace_jax.errors import UnsupportedError
from tests.importers.test_quantisation import integers
from tests.zoo.runtime import onnxruntime_outputs

from .nodes import check_node, floats

check = partial(check_node, domain="com.microsoft", rtol=0, atol=1)
ZERO = np.int8(0)
X = integers("int8", 1, 4, 6)
IN, OUT = np.float32(0.02), np.float32(0.05)


def spelled(nodes, feeds, **arrays):
    """What a standard graph that ends in `y` computes."""
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in feeds.items()
    ]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    result = helper.make_empty_tensor_value_info("y")
    graph = helper.make_graph(nodes, "spelled", inputs, [result], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnxruntime_outputs(model, feeds)


def node(op_type, operands, result, **attributes):
    return helper.make_node(op_type, operands.split(), [result], **attributes)


def test_activation():
    nodes = [node("DequantizeLinear", "x in", "a"), node("Gelu", "a", "b"), node("QuantizeLinear", "b out zero", "y")]
    wanted = spelled(nodes, {"x": X}, **{"in": IN, "out": OUT, "zero": ZERO})
    check("QOrderedGelu", [X, IN, OUT], (1, 2), wanted, order_X=1, order_Y=1)


def test_normalisation():
    gamma, beta = floats(6, seed=1), floats(6, seed=2)
    nodes = [
        node("DequantizeLinear", "x in", "a"),
        node("LayerNormalization", "a gamma beta", "b"),
        node("QuantizeLinear", "b out zero", "y"),
    ]
    wanted = spelled(nodes, {"x": X}, gamma=gamma, beta=beta, **{"in": IN, "out": OUT, "zero": ZERO})
    check("QOrderedLayerNormalization", [X, IN, gamma, beta, OUT], (1, 2, 3, 4), wanted)


PROJECTED = [
    node("DequantizeLinear", "x in", "a"),
    node("DequantizeLinear", "w of_w", "k", axis=1),
    node("MatMul", "a k", "p"),
    node("Add", "p bias", "s"),
]


def in_columns(W):
    """The same shape, filled column by column."""
    return np.ascontiguousarray(W.T).reshape(W.shape)


@pytest.mark.parametrize("added", [False, True])
def test_product(added):
    W, scales, bias = integers("int8", 6, 5, seed=1), np.linspace(0.01, 0.05, 5).astype(np.float32), floats(5)
    C = integers("int8", 1, 4, 5, seed=2)
    arrays = {"w": W, "of_w": scales, "bias": bias, "c": C, "in": IN, "out": OUT, "zero": ZERO}
    ends = [node("DequantizeLinear", "c in", "d"), node("Add", "s d", "t")] if added else [node("Identity", "s", "t")]
    wanted = spelled([*PROJECTED, *ends, node("QuantizeLinear", "t out zero", "y")], {"x": X}, **arrays)
    operands = [X, IN, in_columns(W), scales, OUT, bias, *([C, IN] if added else [])]
    check("QOrderedMatMul", operands, tuple(range(1, len(operands))), wanted, order_A=1, order_B=0, order_Y=1)


def by_heads(name):
    """The nodes of queries, keys or values, rounded and cut into two heads of size 3."""
    perm = [0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]
    return [
        node("DequantizeLinear", f"w{name} of_w", f"{name}1"),
        node("MatMul", f"a {name}1", f"{name}2"),
        node("Add", f"{name}2 b{name}", f"{name}3"),
        node("QuantizeLinear", f"{name}3 out zero", f"{name}4"),
        node("DequantizeLinear", f"{name}4 out", f"{name}5"),
        node("Reshape", f"{name}5 heads", f"{name}6"),
        node("Transpose", f"{name}6", f"{name}7", perm=perm),
    ]


@pytest.mark.parametrize("given", [False, True])
def test_attention(given):
    weights = {f"w{name}": integers("int8", 6, 6, seed=i) for i, name in enumerate("qkv")}
    biases = {f"b{name}": floats(6, seed=i) for i, name in enumerate("qkv")}
    settings = {"in": IN, "out": OUT, "zero": ZERO, "of_w": np.float32(0.01), "share": np.float32(1 / 127)}
    shapes = {"heads": np.asarray([0, 0, 2, 3]), "root": np.float32(np.sqrt(3)), "merged": np.asarray([0, 0, 6])}
    mask = np.asarray([[1, 1, 0, 1]], np.int32)
    shapes["hidden"] = np.float32((mask - 1) * 10000).reshape(1, 1, 1, 4) * given
    nodes = [
        node("DequantizeLinear", "x in", "a"),
        *(each for name in "qkv" for each in by_heads(name)),
        node("MatMul", "q7 k7", "s1"),
        node("QuantizeLinear", "s1 out zero", "s2"),
        node("DequantizeLinear", "s2 out", "s3"),
        node("Div", "s3 root", "s4"),
        node("Add", "s4 hidden", "s5"),
        node("Softmax", "s5", "s6"),
        node("QuantizeLinear", "s6 share zero", "s7"),
        node("DequantizeLinear", "s7 share", "s8"),
        node("MatMul", "s8 v7", "r1"),
        node("QuantizeLinear", "r1 out zero", "r2"),
        node("Transpose", "r2", "r3", perm=[0, 2, 1, 3]),
        node("Reshape", "r3 merged", "y"),
    ]
    wanted = spelled(nodes, {"x": X}, **weights, **biases, **settings, **shapes)
    operands = [X, IN, *(OUT,) * 3, *map(in_columns, weights.values()), *(settings["of_w"],) * 3, *biases.values()]
    operands += [OUT, settings["share"], OUT, mask if given else None]
    orders = {"order_input": 1, "order_weight": 0, "order_output": 1}
    check("QOrderedAttention", operands, tuple(range(1, 17)), wanted, num_heads=2, **orders)


def test_numbers_there_and_back():
    x = floats(3, 4)
    levels = np.clip(np.round(x / OUT), -128, 127).astype(np.int8)
    check("QuantizeWithOrder", [x, OUT], (1,), [levels], order_input=1, order_output=1)
    orders = {"order_input": 1, "order_output": 1, "domain": "com.microsoft"}
    check_node("DequantizeWithOrder", [levels, OUT], (1,), [levels * OUT], **orders)


def test_tiles_are_refused():
    with pytest.raises(UnsupportedError, match="keep them in rows"):
        check("QOrderedGelu", [X, IN, OUT], (1, 2), [], order_X=2, order_Y=2)
    operands = [X, IN, integers("int8", 6, 5), IN, OUT]
    with pytest.raises(UnsupportedError, match="keep them in rows"):
        check("QOrderedMatMul", operands, (1, 2, 3, 4), [], order_A=1, order_B=3, order_Y=1)
