"""Relevance that is lost because numbers leave the range of float32 is told; float64 then gives the right answer.

The oracle is a network of ordinary size: a factor in one layer that the next one takes back changes no relevance.
"""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from backtrace_jax import Explanation, explain
from backtrace_jax.errors import NumericsError

RANDOM = np.random.default_rng(0)
X, FIRST, SECOND = (RANDOM.standard_normal(shape) for shape in ((2, 6), (6, 8), (8, 3)))
MODES = ("default", "lrp-zero")
SLOPES = ("gradient", "integrated-gradients", "deeplift", "smoothgrad")
FACTORS = {  # of the inputs, of the first and of the second layer
    "weights overflow": (1, 5e37, 2e-37),
    "inputs overflow": (2e37, 1, 2e-37),
    "products vanish": (1e-12, 1e-28, 1e38),
}
FACTORS_OF_SLOPES = {  # and the node at which they are lost
    "products vanish": (1e-12, 1e-28, 1e38, "h"),
    "slopes vanish": (1e25, 1e-28, 1e-28, "h"),
    "slopes overflow": (1e-30, 1e20, 1e25, "h"),
    "weights below the normal range": (1, 1e-40, 1e30, "h"),
    "inputs below the normal range": (1e-40, 1, 1e30, "h"),
}


def network(*nodes: onnx.NodeProto, **weights: np.ndarray) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(np.float32(array), name) for name, array in weights.items()]
    graph = helper.make_graph(list(nodes), "network", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def perceptron(first: float, second: float) -> onnx.ModelProto:
    nodes = (
        helper.make_node("MatMul", ["x", "A"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["p"]),
        helper.make_node("MatMul", ["p", "B"], ["y"], name="second"),
    )
    return network(*nodes, A=first * FIRST, B=second * SECOND)


def explained(model: onnx.ModelProto, factor: float, **settings) -> Explanation:
    return explain(model, np.float32(factor * X), target=1, task="classification", **settings)


@pytest.mark.parametrize("rules", MODES)
def test_a_factor_that_is_taken_back(rules):
    for inputs, first, second in FACTORS.values():
        expected = explained(perceptron(1, inputs * first * second), 1, mode=rules, dtype="float64")
        model = perceptron(first, second)
        with pytest.raises(NumericsError, match=r"lost in examples .*node '[hy]'.*range of float32.*dtype='float64'"):
            explained(model, inputs, mode=rules)
        found = explained(model, inputs, mode=rules, dtype="float64")
        np.testing.assert_allclose(found.relevance["x"], expected.relevance["x"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rules", ["contrastive", "lrp-epsilon", "lrp-alpha2-beta1", "attnlrp"])
def test_every_family_tells(rules):
    for inputs, first, second in FACTORS.values():
        with pytest.raises(NumericsError, match="range of float32"):
            explained(perceptron(first, second), inputs, mode=rules)


def test_a_norm_whose_squares_overflow():
    """All that is left of it is the shift: an answer that looks like any other."""
    nodes = (
        helper.make_node("MatMul", ["x", "A"], ["h"]),
        helper.make_node("LayerNormalization", ["h", "G", "E"], ["n"], epsilon=1e-30),
        helper.make_node("MatMul", ["n", "B"], ["y"]),
    )
    models = [network(*nodes, A=size * FIRST, G=np.ones(8), E=np.ones(8), B=SECOND) for size in (1e25, 1)]
    with pytest.raises(NumericsError, match=r"'n'.*range of float32"):
        explained(models[0], 1)
    found, expected = explained(models[0], 1, dtype="float64"), explained(models[1], 1)
    np.testing.assert_allclose(found.relevance["x"], expected.relevance["x"], rtol=1e-4, atol=1e-5)


def test_an_overflow_that_the_answer_does_not_show():
    nodes = (
        helper.make_node("MatMul", ["x", "A"], ["h"]),
        helper.make_node("MatMul", ["x", "C"], ["k"]),
        helper.make_node("Mul", ["h", "k"], ["q"]),
        helper.make_node("Clip", ["q", "low", "high"], ["s"]),
        helper.make_node("MatMul", ["s", "B"], ["y"]),
    )
    model = network(*nodes, A=1e25 * FIRST, C=1e25 * FIRST[::-1], low=np.array(0), high=np.array(6), B=SECOND)
    with pytest.raises(NumericsError, match=r"node 'q'.*range of float32"):
        explained(model, 1)
    assert abs(explained(model, 1, dtype="float64").ledger.inputs.sum()) > 0.1


@pytest.mark.parametrize(
    ("scaler", "dtype"), [(1e-300, "float32"), (1e39, "float32"), (1e-39, "float32"), (1e-310, "float64")]
)
def test_totals_out_of_range(scaler, dtype):
    with pytest.raises(NumericsError, match=rf"scaler={re.escape(repr(scaler))}.*range of {dtype}"):
        explained(perceptron(1, 1), 1, scaler=scaler, dtype=dtype)


def test_totals_whose_shares_are_out_of_range():
    with pytest.raises(NumericsError, match="range of float32"):
        explained(perceptron(1, 1), 1, scaler=2e-38)
    small, plain = (explained(perceptron(1, 1), 1, scaler=scaler, dtype="float64") for scaler in (1e-300, 1.0))
    np.testing.assert_allclose(small.relevance["x"] * 1e300, plain.relevance["x"], rtol=1e-12)


def test_units_without_evidence_are_dead_in_any_range():
    """Nothing is lost here for want of range: the inputs are zero, and so is what a condition cuts off."""
    np.testing.assert_allclose(explained(perceptron(1, 1), 0).ledger.dead, 1)
    np.testing.assert_allclose(explained(perceptron(1, 1), 1, conditions={"h": np.zeros(8)}).ledger.dead, 1)


def test_an_overflow_that_the_answer_shows():
    with pytest.raises(NumericsError, match=r"'y' is NaN or Inf.*first in node 'first'.*dtype='float64'"):
        explained(perceptron(1e38, 1), 9)


@pytest.mark.parametrize("rules", SLOPES)
def test_slopes_that_leave_the_range(rules):
    """The oracle: scaling a layer of rectifiers by a factor scales the slope by it, and nothing else."""
    plain = explained(perceptron(1, 1), 1, mode=rules, dtype="float64").relevance["x"]
    for inputs, first, second, node in FACTORS_OF_SLOPES.values():
        model = perceptron(first, second)
        told = rf"lost in examples 0, 1 at node '[{node}y]'.*range of float32.*float64"
        with pytest.raises(NumericsError, match=told):
            explained(model, inputs, mode=rules)
        found = explained(model, inputs, mode=rules, dtype="float64").relevance["x"]
        times_input = inputs if rules in ("integrated-gradients", "deeplift") else 1
        np.testing.assert_allclose(found / (times_input * first * second), plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rules", MODES)
def test_an_answer_of_numbers_that_are_read_as_zero(rules):
    for inputs, first, second, node in [*FACTORS_OF_SLOPES.values()][-2:]:
        for scaler in (None, 1.0):
            with pytest.raises(NumericsError, match=rf"at node '{node}'.*range of float32.*dtype='float64'"):
                explained(perceptron(first, second), inputs, mode=rules, scaler=scaler)


def test_a_change_from_the_baseline_that_overflows():
    with pytest.raises(NumericsError, match="float64"):
        explained(perceptron(1, 1e-38), 1e38, mode="deeplift", baseline={"x": np.float32(-3e38 * np.sign(X[0]))})


def activated(operator: str, shift: float, beside: float) -> onnx.ModelProto:
    """A network with another one beside it, whose weights are that much smaller, and an activation at the end."""
    nodes = (
        helper.make_node("MatMul", ["x", "A"], ["h"]),
        helper.make_node("MatMul", ["x", "T"], ["t"]),
        helper.make_node("Add", ["h", "t"], ["both"]),
        helper.make_node("Relu", ["both"], ["p"]),
        helper.make_node("MatMul", ["p", "B"], ["z"]),
        helper.make_node("Add", ["z", "s"], ["l"]),
        helper.make_node(operator, ["l"], ["y"]),
    )
    return network(*nodes, A=FIRST, T=beside * FIRST, B=SECOND, s=shift * np.eye(3)[1])


@pytest.mark.parametrize("rules", ["gradient", "deeplift"])
@pytest.mark.parametrize(
    ("operator", "shift", "beside", "silent"),
    [("Softmax", 1e4, 1, True), ("Relu", -1e4, 1, True), ("Relu", 9, 1e-42, False), ("Tanh", 1, 1e-42, False)],
)
def test_slopes_that_are_zero_in_any_range(rules, operator, shift, beside, silent):
    """Saturated and dead units, and a branch that adds nothing, are no loss of range."""
    model = activated(operator, shift, beside)
    single, double = (explained(model, 1, mode=rules, dtype=each).relevance["x"] for each in ("float32", "float64"))
    np.testing.assert_allclose(single, double, rtol=1e-4, atol=1e-6)
    assert single.any() != silent
