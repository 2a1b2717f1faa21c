"""DynamicQuantizeLSTM: as onnxruntime computes it, and explained as the same network written out step by step."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from backtrace_jax import explain
from backtrace_jax.onnx_backend import run_model
from tests.zoo.runtime import onnxruntime_outputs

from .nodes import check_node, floats
from .test_quantisation import integers

CASE = Path(__file__).parents[1] / "cases" / "lstm_int8.onnx"
STEPS, FEATURES, HIDDEN = 6, 4, 5
X = floats(STEPS, 1, FEATURES)
check = partial(check_node, "DynamicQuantizeLSTM", domain="com.microsoft", hidden_size=HIDDEN)


def quantised(directions=1, per_gate=False):
    """Weights of the input and of the state, and their scales and zero points."""
    shape = (directions, 4 * HIDDEN) if per_gate else (directions,)
    generator = np.random.default_rng(3)
    scales = [generator.uniform(0.002, 0.006, shape).astype(np.float32) for _ in range(2)]
    zeros = [np.zeros(shape, np.int8) if per_gate else np.full(shape, 3, np.int8) for _ in range(2)]
    weights = [integers("int8", directions, size, 4 * HIDDEN, seed=size) for size in (FEATURES, HIDDEN)]
    return weights, [scales[0], zeros[0], scales[1], zeros[1]]


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("per_gate", [False, True])
def test_directions_and_scales(direction, per_gate):
    directions = 2 if direction == "bidirectional" else 1
    weights, settings = quantised(directions, per_gate)
    operands = [X, *weights, floats(directions, 8 * HIDDEN, seed=5), None, None, None, None, *settings]
    check(operands, (1, 2, 3, 8, 9, 10, 11), direction=direction, results=3)


def test_states_peepholes_and_settings():
    weights, settings = quantised()
    states = [floats(1, 1, HIDDEN, seed=seed) for seed in (6, 7)]
    operands = [X, *weights, None, None, *states, floats(1, 3 * HIDDEN, seed=8), *settings]
    check(operands, (1, 2, 7, 8, 9, 10, 11), results=3, input_forget=1)
    check(operands, (1, 2, 7, 8, 9, 10, 11), results=3, clip=0.5, activations=["Sigmoid", "Relu", "Tanh"])


def case():
    return onnx.load(CASE)


def test_the_case_computes_what_onnxruntime_does():
    (wanted,) = onnxruntime_outputs(case(), {"x": X})
    np.testing.assert_allclose(run_model(case(), {"x": X})[0], wanted, rtol=0, atol=1e-6)


def plain_weights():
    """The floats that the case's weights stand for, [input, gates] and [state, gates]."""
    arrays = {each.name: numpy_helper.to_array(each) for each in case().graph.initializer}
    return [
        (arrays[f"{name}_quantized"].astype(np.float32) - arrays[f"{name}_zero_point"]) * arrays[f"{name}_scale"]
        for name in "WR"
    ]


def model(nodes, **arrays):
    shape = (STEPS, 1, 1, HIDDEN)
    inputs = [helper.make_tensor_value_info("x", 1, X.shape)]
    graph = helper.make_graph(
        nodes, "network", inputs, [helper.make_tensor_value_info("y", 1, shape)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def rounded(name):
    """x as 8 bits hold it, as `name`."""
    levels = [f"{name}_levels", f"{name}_scale", f"{name}_zero"]
    return [helper.make_node("DynamicQuantizeLinear", [name], levels),
            helper.make_node("DequantizeLinear", levels, [f"{name}_rounded"])]  # fmt: skip


def body():
    """One step by standard operators: from h, c and what the input adds to the gates (input, output, forget, cell)."""
    node = helper.make_node
    nodes = [
        *rounded("h"),
        node("MatMul", ["h_rounded", "R"], ["from_h"]),
        node("Add", ["from_x", "from_h"], ["sum"]),
        node("Split", ["sum"], ["i_sum", "o_sum", "f_sum", "g_sum"], axis=1, num_outputs=4),
        *(node("Tanh" if gate == "g" else "Sigmoid", [f"{gate}_sum"], [gate]) for gate in "iofg"),
        node("Mul", ["f", "c"], ["kept"]),
        node("Mul", ["i", "g"], ["new"]),
        node("Add", ["kept", "new"], ["c_after"]),
        node("Tanh", ["c_after"], ["seen"]),
        node("Mul", ["o", "seen"], ["h_after"]),
        node("Identity", ["h_after"], ["result"]),
    ]
    sizes = {"h": HIDDEN, "c": HIDDEN, "from_x": 4 * HIDDEN}
    inputs = [helper.make_tensor_value_info(name, 1, (1, size)) for name, size in sizes.items()]
    results = [helper.make_tensor_value_info(name, 1, (1, HIDDEN)) for name in ("h_after", "c_after", "result")]
    return helper.make_graph(nodes, "step", inputs, results)


def written_out():
    W, R = plain_weights()
    nodes = [
        *rounded("x"),
        helper.make_node("MatMul", ["x_rounded", "W"], ["from_x_all"]),
        helper.make_node("Scan", ["h0", "c0", "from_x_all"], ["h1", "c1", "ys"], body=body(), num_scan_inputs=1),
        helper.make_node("Unsqueeze", ["ys", "direction"], ["y"]),
    ]
    zero = np.zeros((1, HIDDEN), np.float32)
    return model(nodes, W=W[0], R=R[0], h0=zero, c0=zero, direction=np.asarray([1]))


def as_floats():
    W, R = (each.transpose(0, 2, 1).copy() for each in plain_weights())
    return model([helper.make_node("LSTM", ["x", "W", "R"], ["y"], hidden_size=HIDDEN)], W=W, R=R)


def relevance(network, mode):
    found = explain(network, {"x": X}, mode=mode, target=(STEPS - 1, 0, 0, 2), batch_axis=None)
    assert found.ledger.error.max() < 1e-5
    return found.relevance["x"]


@pytest.mark.parametrize("mode", ["default", "lrp-epsilon"])
def test_the_case_is_explained_as_the_float_network(mode):
    found = relevance(case(), mode)
    assert np.corrcoef(found.ravel(), relevance(as_floats(), mode).ravel())[0, 1] > 0.9999
    np.testing.assert_allclose(found, relevance(written_out(), mode), rtol=0, atol=1e-5 * np.abs(found).max())
