"""Attention with a matrix for its memory, the convolution before it, and rotation: results and books."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper, numpy_helper

from backtrace_jax import explain
from backtrace_jax.errors import ModelError
from backtrace_jax.importers.onnx import load, lower

from .nodes import check_node, floats, node_model

STEPS, HEADS, SIZE = 5, 2, 3


def recurrence(q, k, v, decay=None, beta=None, state=None, scale=None):
    """The definition, step by step, for one member of a batch and one head: [time, size]."""
    memory, outputs = np.zeros((q.shape[1], v.shape[1])) if state is None else state, []
    for t in range(len(q)):
        memory = memory if decay is None else np.exp(decay[t])[:, None] * memory
        value = v[t] if beta is None else beta[t] * (v[t] - memory.T @ k[t])
        memory = memory + np.outer(k[t], value)
        outputs.append((scale or q.shape[1] ** -0.5) * memory.T @ q[t])
    return np.stack(outputs), memory


def operands(decay=False, beta=False, past=False):
    width = HEADS * SIZE
    q, k, v = (floats(1, STEPS, width, seed=seed) for seed in range(3))
    rate = 1 / (1 + np.exp(-floats(1, STEPS, HEADS, seed=5)))
    return [
        *(q, k / 2, v, floats(1, HEADS, SIZE, SIZE, seed=3) if past else None),
        -np.abs(floats(1, STEPS, HEADS, seed=4)) if decay else None,
        rate.astype(np.float32) if beta else None,
    ]


@pytest.mark.parametrize(
    ("rule", "given"),
    [
        ("linear", {"past": True}),
        ("gated", {"decay": True}),
        ("delta", {"beta": True}),
        ("gated_delta", {"decay": True, "beta": True, "past": True}),
    ],
)
def test_rules(rule, given):
    q, k, v, past, decay, beta = values = operands(**given)
    outputs, states = [], []
    for head in range(HEADS):
        own = slice(head * SIZE, (head + 1) * SIZE)
        parts = [None if x is None else x[0, :, head : head + 1] for x in (decay, beta)]
        state = None if past is None else past[0, head]
        output, state = recurrence(q[0][:, own], k[0][:, own], v[0][:, own], *parts, state, 0.7)
        outputs.append(output)
        states.append(state)
    wanted = [np.concatenate(outputs, 1)[None].astype(np.float32), np.stack(states)[None].astype(np.float32)]
    settings = {"q_num_heads": HEADS, "kv_num_heads": HEADS, "update_rule": rule, "scale": 0.7}
    check_node("LinearAttention", values, expected=wanted, opset=27, results=2, **settings)
    check_node("LinearAttention", values, expected=wanted, domain="com.microsoft", results=2, **settings)


@pytest.mark.parametrize("domain", ["", "com.microsoft"])
def test_convolution_with_the_past(domain):
    x, kernel, past = floats(1, 4, 6), floats(4, 1, 3, seed=1), floats(1, 4, 2, seed=2)
    known = np.concatenate([past, x], 2)
    wanted = sum(kernel[None, :, 0, i : i + 1] * known[:, :, i : i + 6] for i in range(3))
    settings = {"domain": domain, "opset": 27, "activation": "silu", "results": 2}
    expected = [wanted / (1 + np.exp(-wanted)), known[:, :, -2:]]
    check_node("CausalConvWithState", [x, kernel, None, past], (1,), expected, **settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"update_rule": "gated"}, "'gated' requires decay"),
        ({"update_rule": "forgetful"}, "one of linear, gated, delta, gated_delta, found 'forgetful'"),
        ({"update_rule": "linear", "kv_num_heads": 4}, "must be divisible by kv_num_heads \\(4\\)"),
    ],
)
def test_wrong_settings(changes, message):
    settings = {"q_num_heads": 4, "kv_num_heads": 2, "update_rule": "linear"} | changes
    values = [floats(1, STEPS, 8), floats(1, STEPS, 6), floats(1, STEPS, 6)]
    with pytest.raises(ModelError, match=message):
        lower(
            load(node_model("LinearAttention", values, opset=27, results=2, **settings)),
            {f"x{i}": values[i].shape for i in range(3)},
        )


def test_time_is_a_scan_whose_gates_are_known():
    values = operands(decay=True, beta=True)
    settings = {"q_num_heads": HEADS, "kv_num_heads": HEADS}
    shapes = {f"x{i}": x.shape for i, x in enumerate(values) if x is not None}
    graph = lower(load(node_model("LinearAttention", values, opset=27, results=2, **settings)), shapes).graph
    (scan,) = [eqn for eqn in graph.eqns if eqn.op == "scan"]
    assert scan.params["length"] == STEPS
    assert [eqn.op for eqn in scan.params["body"].eqns].count("gate") == 2


def model(nodes, weights, width=6, opset=27):
    """A model x [1, 5, width] -> y, whose last node sums its entries up by steps."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", 1, (1, STEPS, width))],
        [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def recurrent_model():
    """Projections, a causal convolution, decay and rate by gates, and the recurrence."""
    weights = {f"W{name}": floats(6, 6, seed=i) for i, name in enumerate("qkv")}
    weights |= {f"W{name}": floats(6, HEADS, seed=i) for i, name in enumerate("gb", 3)}
    weights |= {"kernel": floats(6, 1, 3, seed=5), "W": floats(6, 4, seed=6), "two": np.asarray([1], np.int64)}
    node = helper.make_node
    nodes = [node("MatMul", ["x", f"W{name}"], [name]) for name in "qkvgb"]
    nodes += [
        node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        node("CausalConvWithState", ["kt", "kernel"], ["kc", "rest"], activation="silu"),
        node("Transpose", ["kc"], ["keys"], perm=[0, 2, 1]),
        node("Softplus", ["g"], ["soft"]),
        node("Neg", ["soft"], ["decay"]),
        node("Sigmoid", ["b"], ["beta"]),
        node("LinearAttention", ["q", "keys", "v", "", "decay", "beta"], ["o", "s"], q_num_heads=2, kv_num_heads=2),
        node("MatMul", ["o", "W"], ["steps"]),
        node("ReduceMean", ["steps", "two"], ["y"], keepdims=0),
    ]
    return model(nodes, weights)


def rotated_model():
    """Queries and keys of attention, rotated."""
    weights = {f"W{name}": floats(6, 8, seed=i) for i, name in enumerate("qkv")}
    weights |= {"W": floats(8, 4, seed=6), "two": np.asarray([1], np.int64)}
    weights |= {"cos": np.cos(floats(1, STEPS, 2, seed=7)), "sin": np.sin(floats(1, STEPS, 2, seed=7))}
    node = helper.make_node
    nodes = [node("MatMul", ["x", f"W{name}"], [name]) for name in "qkv"]
    nodes += [node("RotaryEmbedding", [f"{name}", "cos", "sin"], [f"{name}r"], num_heads=2) for name in "qk"]
    nodes += [
        node("Attention", ["qr", "kr", "v"], ["o"], q_num_heads=2, kv_num_heads=2, is_causal=1),
        node("MatMul", ["o", "W"], ["steps"]),
        node("ReduceMean", ["steps", "two"], ["y"], keepdims=0),
    ]
    return model(nodes, weights, opset=23)


@pytest.mark.parametrize("build", [recurrent_model, rotated_model])
@pytest.mark.parametrize("mode", ["default", "contrastive", "lrp-epsilon", "gradient-x-input"])
def test_books_close(build, mode):
    explanation = explain(build(), floats(1, STEPS, 6, seed=9), mode=mode)
    relevance = explanation.relevance["x"]
    assert np.isfinite(relevance).all()
    assert np.abs(relevance).max() > 0
    if mode != "gradient-x-input":
        assert explanation.ledger is not None
        assert explanation.ledger.error.max() < 1e-5


def test_a_later_step_tells_nothing_of_an_earlier_result():
    built = recurrent_model()
    built.graph.node[-1].CopyFrom(helper.make_node("Slice", ["steps", "from", "to", "along"], ["y"]))
    for name, number in (("from", 1), ("to", 2), ("along", 1)):
        built.graph.initializer.append(numpy_helper.from_array(np.asarray([number]), name))
    relevance = explain(built, floats(1, STEPS, 6, seed=9), start=np.ones((1, 1, 4), np.float32)).relevance["x"]
    assert np.abs(relevance[0, :2]).max() > 0
    np.testing.assert_array_equal(relevance[0, 2:], 0)


def test_the_positions_of_a_rotation_bear_no_relevance():
    values = [floats(1, 2, 4, 6), np.cos(floats(9, 3)), np.sin(floats(9, 3)), np.asarray([[0, 3, 2, 8]])]
    built = node_model("RotaryEmbedding", values, (1, 2), opset=23)
    inputs = {"x0": values[0], "x3": values[3]}
    explanation = explain(built, inputs, start=np.ones((1, 2, 4, 6), np.float32))
    assert not np.any(explanation.relevance.get("x3", 0))
    assert explanation.ledger is not None
    assert explanation.ledger.error.max() < 1e-5
