"""A block of a transformer as onnxruntime's optimiser leaves it is explained as the original is."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from onnx import helper, numpy_helper

from backtrace_jax import explain
from backtrace_jax.onnx_backend import run_model
from tests.zoo.runtime import onnxruntime_outputs

from .nodes import floats

TOKENS, HEADS, SIZE = 4, 2, 3
WIDTH = HEADS * SIZE
IDS = np.asarray([[3, 1, 4, 0]], np.int32)
MASK = np.asarray([[1, 1, 1, 0]], np.int32)

WEIGHTS = {
    "words": floats(6, WIDTH, seed=1),
    "places": floats(TOKENS, WIDTH, seed=2) / 3,
    "W": floats(WIDTH, 3 * WIDTH, seed=3),
    "b": floats(3 * WIDTH, seed=4) / 3,
    "V": floats(WIDTH, WIDTH, seed=5),
    "up": floats(WIDTH, 2 * WIDTH, seed=6),
    "up_bias": floats(2 * WIDTH, seed=7),
    "down": floats(2 * WIDTH, WIDTH, seed=8),
    "down_bias": floats(WIDTH, seed=9),
    "classes": floats(WIDTH, 3, seed=10),
    **{f"gamma{i}": 1 + floats(WIDTH, seed=10 + i) / 4 for i in range(1, 4)},
    **{f"beta{i}": floats(WIDTH, seed=13 + i) for i in range(1, 4)},
    "first": np.asarray(0, np.int64),
}
HEAD = [
    helper.make_node("Gather", ["last", "first"], ["token"], axis=1),
    helper.make_node("MatMul", ["token", "classes"], ["y"]),
]


def fused():
    node, fused = helper.make_node, partial(helper.make_node, domain="com.microsoft")
    embed = ["ids", "", "words", "places", "", "gamma1", "beta1", "mask"]
    return [
        fused("EmbedLayerNormalization", embed, ["x", "count"], epsilon=1e-5),
        fused("Attention", ["x", "W", "b", "mask"], ["seen"], num_heads=HEADS),
        node("MatMul", ["seen", "V"], ["mixed"]),
        fused("SkipLayerNormalization", ["mixed", "x", "gamma2", "beta2"], ["h"], epsilon=1e-5),
        fused("FusedMatMul", ["h", "up"], ["wide"]),
        fused("BiasGelu", ["wide", "up_bias"], ["active"]),
        node("MatMul", ["active", "down"], ["narrow"]),
        fused("SkipLayerNormalization", ["narrow", "h", "gamma3", "beta3", "down_bias"], ["last"], epsilon=1e-5),
        *HEAD,
    ]


def spelled_out():
    node = helper.make_node
    nodes = [
        node("Gather", ["words", "ids"], ["word"]),
        node("Add", ["word", "places"], ["embedded"]),
        node("LayerNormalization", ["embedded", "gamma1", "beta1"], ["x"]),
        node("MatMul", ["x", "W"], ["product"]),
        node("Add", ["product", "b"], ["projected"]),
        node("Split", ["projected"], ["q", "k", "v"], axis=2, num_outputs=3),
    ]
    for name in "qkv":
        perm = [0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]
        nodes += [
            node("Reshape", [name, "by_head"], [f"{name}0"]),
            node("Transpose", [f"{name}0"], [f"{name}1"], perm=perm),
        ]
    return [
        *nodes,
        node("Mul", ["q1", "scale"], ["qs"]),
        node("MatMul", ["qs", "k1"], ["scores"]),
        node("Cast", ["mask"], ["kept"], to=1),
        node("Sub", ["one", "kept"], ["lost"]),
        node("Mul", ["lost", "far"], ["hidden"]),
        node("Add", ["scores", "hidden"], ["masked"]),
        node("Softmax", ["masked"], ["weights"]),
        node("MatMul", ["weights", "v1"], ["heads"]),
        node("Transpose", ["heads"], ["turned"], perm=[0, 2, 1, 3]),
        node("Reshape", ["turned", "merged"], ["seen"]),
        node("MatMul", ["seen", "V"], ["mixed"]),
        node("Add", ["mixed", "x"], ["sum1"]),
        node("LayerNormalization", ["sum1", "gamma2", "beta2"], ["h"]),
        node("MatMul", ["h", "up"], ["wide"]),
        node("Add", ["wide", "up_bias"], ["biased"]),
        node("Gelu", ["biased"], ["active"]),
        node("MatMul", ["active", "down"], ["narrow"]),
        node("Add", ["narrow", "down_bias"], ["shifted"]),
        node("Add", ["shifted", "h"], ["sum2"]),
        node("LayerNormalization", ["sum2", "gamma3", "beta3"], ["last"]),
        *HEAD,
    ]


EXTRA = {
    "by_head": np.asarray([0, 0, HEADS, SIZE]),
    "merged": np.asarray([0, 0, WIDTH]),
    "scale": np.asarray(SIZE**-0.5, np.float32),
    "one": np.asarray(1, np.float32),
    "far": np.asarray(-10000, np.float32),
}


def model(nodes, weights):
    inputs = [helper.make_tensor_value_info(name, 6, (1, TOKENS)) for name in ("ids", "mask")]
    initialisers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    result = [helper.make_tensor_value_info("y", 1, (1, 3))]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(
        helper.make_graph(nodes, "block", inputs, result, initialisers), opset_imports=opsets, ir_version=10
    )


def relevance(built, mode):
    explanation = explain(built, {"ids": IDS, "mask": MASK}, mode=mode, dtype="float64", wrt="ids")
    assert explanation.ledger is not None
    assert explanation.ledger.error.max() < 1e-9
    return explanation.outputs["y"], explanation.relevance["ids"]


@pytest.mark.parametrize(("mode", "tolerance"), [("default", 1e-5), ("contrastive", 1e-5), ("lrp-epsilon", 1e-4)])
def test_an_optimised_block_is_explained_as_the_original(mode, tolerance):
    """What a stabiliser takes depends on where the scores are scaled."""
    output, found = relevance(model(fused(), WEIGHTS), mode)
    wanted_output, wanted = relevance(model(spelled_out(), WEIGHTS | EXTRA), mode)
    np.testing.assert_allclose(output, wanted_output, rtol=1e-6)
    assert np.abs(wanted).max() > 0
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


def test_a_masked_token_receives_nothing():
    _, found = relevance(model(fused(), WEIGHTS), "default")
    assert found[..., 3] == 0


def test_the_sum_is_a_result_of_its_own():
    names = ["out", "", "", "sum"]
    node = helper.make_node("SkipLayerNormalization", ["x", "s", "g"], names, domain="com.microsoft", epsilon=1e-5)
    inputs = [helper.make_tensor_value_info(name, 1, (1, 2, 4)) for name in "xs"]
    results = [helper.make_tensor_value_info(name, 1, (1, 2, 4)) for name in ("out", "sum")]
    graph = helper.make_graph([node], "sum", inputs, results, [numpy_helper.from_array(floats(4, seed=2), "g")])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    built = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    given = {"x": floats(1, 2, 4), "s": floats(1, 2, 4, seed=1)}
    for one, other in zip(run_model(built, given), onnxruntime_outputs(built, given), strict=True):
        np.testing.assert_allclose(one, other, 1e-5, 1e-5)
