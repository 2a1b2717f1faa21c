"""DeepLIFT: multipliers by the rescale rule, and contributions that add up to the change of the answer (RULES 11)."""

from __future__ import annotations

import numpy as np
import pytest

from backtrace_jax import explain
from tests.rules.networks import Network, perceptron

ACTIVATIONS = {"Relu": lambda z: np.maximum(z, 0), "Tanh": np.tanh, "Sigmoid": lambda z: 1 / (1 + np.exp(-z))}
generator = np.random.default_rng(0)
X, REFERENCE = generator.normal(size=(5, 6)), generator.normal(size=6)
IMAGES, SERIES, TOKENS = (
    generator.normal(size=(3, 2, 6, 6)),
    generator.normal(size=(3, 5, 4)),
    generator.integers(0, 9, (3, 5)),
)


def weights(model) -> list[np.ndarray]:
    """Weights and biases of a perceptron, layer after layer."""
    from onnx import numpy_helper

    return [numpy_helper.to_array(array) for array in model.graph.initializer]


def contributions(model, activation, x, reference, unit) -> np.ndarray:
    """Δx times the multipliers of one answer, backwards through the layers (Shrikumar et al. 2017, 3.5.2)."""
    values, steps = [x, reference], []
    arrays = weights(model)
    layers = list(zip(arrays[::2], arrays[1::2], strict=True))
    for W, b in layers[:-1]:
        z, z0 = (value @ W + b for value in values)
        values = [activation(z), activation(z0)]
        steps.append((W, (values[0] - values[1]) / (z - z0)))
    multipliers = layers[-1][0][:, unit]
    for W, slopes in reversed(steps):
        multipliers = W @ (slopes * multipliers)
    return (x - reference) * multipliers


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("reference", [np.zeros(6), REFERENCE])
def test_rescale_rule(name, reference):
    model = perceptron(name)
    found = explain(model, X, mode="deeplift", baseline=reference, dtype="float64", target=2)
    expected = [contributions(model, ACTIVATIONS[name], x, reference, 2) for x in X]
    np.testing.assert_allclose(found.relevance["x"], expected, rtol=1e-10, atol=1e-12)


def test_where_nothing_changes_the_derivative_stands_in():
    """Units that equal their reference have no difference to divide by; what differs elsewhere is still complete."""
    x = np.where(np.arange(6) < 3, X, REFERENCE)
    found = explain(perceptron("Tanh"), x, mode="deeplift", baseline=REFERENCE, dtype="float64", target=0)
    assert not found.relevance["x"][:, 3:].any()
    assert found.completeness_error.max() < 1e-10
    same = explain(perceptron("Tanh"), X[:1], mode="deeplift", baseline=X[0], dtype="float64", target=0)
    assert not same.relevance["x"].any()


def between(build) -> object:
    """Dense, something, dense."""
    network = Network(x=(6,))
    middle = build(network, network.dense("x", 6, 8))
    return network.model(network.dense(middle, 8, 3))


ONE = np.ones(())
CONSTANTS = np.array([1.0, 2.0, 0.5, 1.0, 3.0, 0.1, 1.0, 2.0])


def sigmoid_spelled_out(n, h):
    return n.node("Div", ONE, n.node("Add", ONE, n.node("Exp", n.node("Neg", h))))


MIDDLES = {
    "product": lambda n, h: n.node("Mul", h, n.node("Sigmoid", h)),
    "product with itself": lambda n, h: n.node("Mul", h, h),
    "quotient": lambda n, h: n.node("Div", h, n.node("Add", ONE, n.node("Exp", h))),
    "reciprocal": sigmoid_spelled_out,
    "constants over values": lambda n, h: n.node("Div", CONSTANTS, n.node("Add", ONE, n.node("Exp", h))),
    "power": lambda n, h: n.node("Pow", n.node("Sigmoid", h), np.array(3.0)),
    "powers": lambda n, h: n.node("Pow", n.node("Sigmoid", h), CONSTANTS),
    "prelu": lambda n, h: n.node("PRelu", h, -CONSTANTS),
    "clip": lambda n, h: n.node("Clip", h, np.array(-0.3), np.array(0.6)),
    "layer norm": lambda n, h: n.node("LayerNormalization", h, n.normal(8), n.normal(8)),
    "Lp norm": lambda n, h: n.node("LpNormalization", h, axis=1, p=2),
    "softmax": lambda n, h: n.node("Softmax", h),
    "log-softmax": lambda n, h: n.node("LogSoftmax", h),
    "large softmax": lambda n, h: n.node("Softmax", n.node("Mul", h, np.array(40.0))),
    "maximum": lambda n, h: n.node("Max", h, n.node("Neg", h)),
    "maximum with a constant": lambda n, h: n.node("Max", h, np.full(8, 0.2)),
    "minimum": lambda n, h: n.node("Min", h, n.node("Tanh", n.node("Neg", h)), CONSTANTS),
    "largest": lambda n, h: n.node("Add", h, n.node("ReduceMax", h, np.array([1]), keepdims=1)),
    "smallest": lambda n, h: n.node("Add", h, n.node("ReduceMin", h, np.array([1]), keepdims=1)),
    "running sum": lambda n, h: n.node("CumSum", h, np.array(1)),
    "moves": lambda n, h: n.node("Concat", n.node("Slice", h, np.array([3]), np.array([8]), np.array([1])),
                                 n.node("Gather", h, np.array([0, 0, 2]), axis=1), axis=1),
}  # fmt: skip


@pytest.mark.parametrize("name", MIDDLES)
@pytest.mark.parametrize("reference", [None, REFERENCE], ids=["zero", "given"])
def test_contributions_add_up(name, reference):
    found = explain(between(MIDDLES[name]), X, mode="deeplift", baseline=reference, dtype="float64", target=1)
    assert found.completeness_error.max() < 1e-10
    assert np.abs(found.relevance["x"]).max() > 1e-3


def attention(mask: float = 0.0, *, tokens: bool = False):
    """Causal attention, a shortcut, layer normalisation, a gated dense layer, a mean, a dense layer."""
    network = Network(ids=(5,)) if tokens else Network(x=(5, 4))
    x = (
        network.node("Add", network.node("Gather", network.normal(9, 4), "ids"), network.normal(5, 4))
        if tokens
        else "x"
    )
    q, k, v = (network.dense(x, 4, 4) for _ in range(3))
    scores = network.node("MatMul", q, network.node("Transpose", k, perm=[0, 2, 1]))
    scores = network.node("Add", scores, np.where(np.tri(5) > 0, 0.0, mask)) if mask else scores
    mixed = network.node("MatMul", network.node("Softmax", scores), v)
    both = network.node("LayerNormalization", network.node("Add", x, mixed), network.normal(4), network.normal(4))
    gated = network.node("Mul", both, network.node("Sigmoid", network.dense(both, 4, 4)))
    return network.model(network.dense(network.node("ReduceMean", gated, np.array([1]), keepdims=0), 4, 3))


@pytest.mark.parametrize("mask", [0.0, -1e9, -np.inf])
def test_attention(mask):
    found = explain(attention(mask), SERIES, mode="deeplift", baseline=SERIES[::-1].mean(0), dtype="float64", target=1)
    assert found.completeness_error.max() < 1e-10
    assert np.abs(found.relevance["x"]).max() > 1e-3


@pytest.mark.parametrize("reference", [None, TOKENS[0][::-1].copy()], ids=["rows of zeros", "another text"])
def test_tokens(reference):
    found = explain(attention(tokens=True), TOKENS, mode="deeplift", baseline=reference, dtype="float64", target=1)
    assert found.completeness_error.max() < 1e-10


def test_convolutions_and_pooling():
    network = Network(x=(2, 6, 6))
    value = network.node("Relu", network.node("Conv", "x", network.normal(4, 2, 3, 3), network.normal(4)))
    value = network.node("InstanceNormalization", value, network.normal(4), network.normal(4))
    pooled = network.node("MaxPool", value, kernel_shape=[2, 2], strides=[1, 1])
    mean = network.node("AveragePool", pooled, kernel_shape=[2, 2], strides=[1, 1])
    model = network.model(network.dense(network.node("Flatten", mean), 16, 3))
    for reference in (None, IMAGES[0][::-1].copy(), np.ones((2, 6, 6))):
        found = explain(model, IMAGES, mode="deeplift", baseline=reference, dtype="float64", target=0)
        assert found.completeness_error.max() < 1e-10


def test_recurrence():
    network = Network(x=(5, 4))
    series = network.node("Transpose", "x", perm=[1, 0, 2])
    states = network.node(
        "LSTM", series, network.normal(1, 12, 4), network.normal(1, 12, 3), network.normal(1, 24), hidden_size=3
    )
    flat = network.node("Reshape", network.node("Transpose", states, perm=[2, 0, 1, 3]), np.array([0, -1]))
    model = network.model(network.dense(flat, 15, 3))
    found = explain(model, SERIES, mode="deeplift", baseline=SERIES[0], dtype="float64", target=0)
    assert found.completeness_error[1:].max() < 1e-10
    assert not found.relevance["x"][0].any()


def test_a_choice_that_turns_over_is_reported():
    """A condition carries no relevance; where it differs from the reference, the completeness error says so."""
    model = between(
        lambda n, h: n.node("Where", n.node("Greater", h, np.array(0.2)), h, n.node("Mul", h, np.array(0.1)))
    )
    found = explain(model, X, mode="deeplift", baseline=REFERENCE, dtype="float64", target=1)
    assert found.completeness_error.max() > 1e-3
