"""On rectifier networks without bias, LRP as epsilon goes to 0 is gradient times input (RULES 12.4)."""

from __future__ import annotations

import numpy as np
import pytest

from backtrace_jax import explain, mode
from tests.rules.networks import Network, perceptron

generator = np.random.default_rng(0)


def convolutional():
    """Two convolutions with max and average pooling, and a dense layer."""
    network = Network(x=(2, 8, 8))
    value = network.node("Relu", network.node("Conv", "x", network.normal(4, 2, 3, 3), pads=[1, 1, 1, 1]))
    value = network.node("MaxPool", value, kernel_shape=[2, 2], strides=[2, 2])
    value = network.node("Relu", network.node("Conv", value, network.normal(6, 2, 3, 3), group=2))
    value = network.node("AveragePool", value, kernel_shape=[2, 2], strides=[1, 1])
    return network.model(network.dense(network.node("Flatten", value), 6, 3, bias=False))


def residual():
    """A shortcut, leaky and plain rectifiers, a scale."""
    network = Network(x=(6,))
    hidden = network.node("LeakyRelu", network.dense("x", 6, 6, bias=False), alpha=0.2)
    both = network.node("Add", network.node("Mul", hidden, network.normal(6)), "x")
    return network.model(network.dense(network.node("Relu", both), 6, 3, bias=False))


NETWORKS = {
    "dense": (perceptron(bias=False), (6,)),
    "convolutional": (convolutional(), (2, 8, 8)),
    "residual": (residual(), (6,)),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    "chosen",
    [mode("lrp-epsilon", epsilon=1e-12), mode("lrp-zero"), mode("lrp-gamma", gamma=0.0, epsilon=1e-12)],
    ids=lambda chosen: chosen.name,
)
def test_epsilon_to_zero_is_gradient_times_input(name, chosen):
    model, shape = NETWORKS[name]
    x = generator.normal(size=(6, *shape))
    found = explain(model, x, mode=chosen, scaler=None, dtype="float64")
    expected = explain(model, x, mode="gradient-x-input", dtype="float64").relevance["x"]
    np.testing.assert_allclose(found.relevance["x"], expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
    flat = found.relevance["x"].reshape(6, -1).sum(1)
    np.testing.assert_allclose(flat, found.ledger.start, rtol=1e-6)
    np.testing.assert_array_equal(found.target, next(iter(found.outputs.values())).argmax(1))


def test_with_a_bias_that_is_ignored_it_is_not():
    """Guards the test above."""
    x = generator.normal(size=(6, 6))
    kept, ignored = (
        explain(perceptron(), x, mode=mode("lrp-zero", bias=bias), scaler=None) for bias in ("keep", "ignore")
    )
    expected = explain(perceptron(), x, mode="gradient-x-input").relevance["x"]
    np.testing.assert_allclose(kept.relevance["x"], expected, rtol=1e-3, atol=1e-5)
    assert np.abs(ignored.relevance["x"] - expected).max() > 0.01
