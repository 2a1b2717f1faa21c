"""Integrated gradients and SmoothGrad: what is averaged, how exactly, and that the bytes repeat (RULES 11)."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backtrace_jax import Explainer, explain, mode
from backtrace_jax.demo import sample
from backtrace_jax.engine.quadrature import integrate
from backtrace_jax.runtime.numerics import exact_types
from tests.rules.cases import seeds
from tests.rules.networks import Network, perceptron
from tests.rules.test_deeplift import ACTIVATIONS, REFERENCE, X, weights

SAMPLES = ("digits", "breast_cancer")


@pytest.mark.parametrize("name", SAMPLES)
def test_attributions_of_the_demo_models_add_up(name):
    """All examples, the default 64 steps, float32."""
    known = sample(name)
    found = explain(known.model, known.inputs, mode="integrated-gradients")
    assert found.completeness_error.shape == (len(known.inputs),)
    assert found.completeness_error.max() < 1e-3
    answer = lambda x: explain(known.model, x, mode="gradient").outputs["logits"]  # noqa: E731
    of_target = (np.arange(len(found)), found.target)
    change = answer(known.inputs)[of_target] - answer(np.zeros_like(known.inputs))[of_target]
    total = sum(relevance.reshape(len(found), -1).sum(1) for relevance in found.relevance.values())
    np.testing.assert_allclose(total, change, rtol=1.1e-3)


def gradient(model, activation, x, unit) -> np.ndarray:
    """Derivative of one answer of a perceptron, by central differences."""
    arrays = weights(model)

    def answer(x):
        for W, b in zip(arrays[:-2:2], arrays[1:-2:2], strict=True):
            x = activation(x @ W + b)
        return (x @ arrays[-2] + arrays[-1])[..., unit]

    steps = 1e-5 * np.eye(x.shape[-1])
    return (answer(x[..., None, :] + steps) - answer(x[..., None, :] - steps)) / 2e-5


@pytest.mark.parametrize("name", ["Tanh", "Sigmoid"])
@pytest.mark.parametrize("reference", [np.zeros(6), REFERENCE])
def test_integrated_gradients_of_a_smooth_model(name, reference):
    model = perceptron(name)
    found = explain(model, X, mode="integrated-gradients", baseline=reference, dtype="float64", target=2)
    places = (np.arange(4000)[:, None, None] + 0.5) / 4000
    along = gradient(model, ACTIVATIONS[name], reference + places * (X - reference), 2)
    np.testing.assert_allclose(found.relevance["x"], along.mean(0) * (X - reference), rtol=1e-4, atol=1e-4)
    assert found.completeness_error.max() < 1e-3


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 200])
def test_any_number_of_steps(steps):
    found = explain(perceptron("Tanh"), X, mode=mode("integrated-gradients", steps=steps), dtype="float64", target=2)
    assert found.completeness_error.max() < {1: 3, 2: 0.3, 3: 0.3, 7: 0.01, 200: 1e-6}[steps]


@cache
def integrated_kink(steps: int):
    """Compiled: the integral along a line on which the gradient jumps once, from `before` to `after`."""

    def integral(kink, before, after):
        def function(place):
            answer = jnp.minimum(place, kink) * before.sum() + jnp.maximum(place - kink, 0) * after.sum()
            return answer, {"x": jnp.where(place < kink, before, after)}, ()

        return integrate(function, steps, np.dtype(np.float64))[0]["x"]

    return jax.jit(integral)


@given(seeds, st.floats(0, 1), st.sampled_from([1, 2, 9]))
def test_a_single_kink_is_integrated_exactly(generator, kink, steps):
    before, after = generator.normal(size=3), generator.normal(size=3)
    with exact_types():
        found = integrated_kink(steps)(kink, before, after)
    np.testing.assert_allclose(found, kink * before + (1 - kink) * after, rtol=1e-11, atol=1e-11)


def test_nodes_go_where_the_gradient_jumps():
    """Five kinks close together and nothing elsewhere; equal steps of the same number do much worse."""
    kinks, jumps = 0.3 + np.array([0, 0.004, 0.01, 0.011, 0.017]), np.array([2.0, -3.0, 4.0, -2.0, 1.0])

    def function(place):
        density = jnp.where(place > kinks, jumps, 0)
        return jnp.where(place > kinks, jumps * (place - kinks), 0).sum(), {"x": density}, ()

    with exact_types():
        found = np.asarray(jax.jit(lambda: integrate(function, 64, np.dtype(np.float64))[0]["x"])())
    middles = (np.arange(65) + 0.5)[:, None] / 65
    equal, expected = np.where(middles > kinks, jumps, 0).mean(0), jumps * (1 - kinks)
    assert np.abs(found - expected).max() < 1e-5 < 1e-3 < np.abs(equal - expected).max()


# SmoothGrad


@cache
def smooth(**options) -> Explainer:
    return Explainer(perceptron("Tanh"), mode=mode("smoothgrad", **options))


def test_smoothgrad_repeats_from_its_seed():
    first = smooth(samples=8)(X, target=1).relevance["x"]
    again = Explainer(perceptron("Tanh"), mode=mode("smoothgrad", samples=8, seed=0))(X, target=1).relevance["x"]
    other = smooth(samples=8, seed=1)(X, target=1).relevance["x"]
    assert first.tobytes() == again.tobytes()
    assert np.abs(first - other).max() > 1e-3


def test_smoothgrad_of_an_example_has_the_same_bytes_alone_and_in_a_batch():
    together = smooth(samples=8)(X, target=1).relevance["x"]
    for i in range(len(X)):
        alone = smooth(samples=8)(X[i : i + 1], target=1).relevance["x"]
        assert alone.tobytes() == together[i : i + 1].tobytes()
    turned = smooth(samples=8)(X[::-1].copy(), target=1).relevance["x"]
    assert turned[::-1].tobytes() == together.tobytes()


def test_smoothgrad_averages_gradients_at_noisy_inputs():
    """Without noise it is the gradient; with much of it, that of the function smoothed by as wide a bell curve."""
    calm = explain(perceptron("Tanh"), X, mode=mode("smoothgrad", samples=3, noise=0), dtype="float64", target=2)
    plain = gradient(perceptron("Tanh"), np.tanh, X, 2)
    np.testing.assert_allclose(calm.relevance["x"], plain, rtol=1e-7, atol=1e-9)
    many = explain(perceptron("Tanh"), X[:1], mode=mode("smoothgrad", samples=4000), dtype="float64", target=2)
    wide = 0.1 * np.ptp(X[0]) * np.random.default_rng(1).normal(size=(20000, 6))
    expected = gradient(perceptron("Tanh"), np.tanh, X[0] + wide, 2)
    tolerance = 5 * expected.std(0) * np.sqrt(1 / 4000 + 1 / 20000)
    assert (np.abs(many.relevance["x"][0] - expected.mean(0)) < tolerance).all()
    assert (np.abs(plain[0] - expected.mean(0)) > tolerance).any(), "the noise makes a difference here"


def test_noise_is_a_fraction_of_the_range_of_each_example():
    """A quadratic's gradient is linear, so that averaging leaves the mean of the noise: it grows with the range."""
    network = Network(x=(4,))
    model = network.model(network.node("ReduceSum", network.node("Mul", "x", "x"), np.array([1]), keepdims=1))
    x = np.array([[0.0, 1.0, 2.0, 3.0], [0.0, 10.0, 20.0, 30.0]])
    found = explain(model, x, mode=mode("smoothgrad", samples=4), task="regression", dtype="float64").relevance["x"]
    noise = found - 2 * x
    assert np.abs(noise).min() > 0
    np.testing.assert_allclose(noise[1], 10 * noise[0], rtol=1e-9)


def test_tokens_are_disturbed_where_they_look_up():
    """What varies smoothly is the looked-up row; its gradient is added up per token."""
    network = Network(ids=(3,))
    rows = network.node("Gather", network.normal(7, 4), "ids")
    model = network.model(network.dense(network.node("ReduceMean", rows, np.array([1]), keepdims=0), 4, 2, bias=False))
    ids = np.array([[5, 0, 5]])
    for name in ("smoothgrad", "integrated-gradients", "gradient-x-input"):
        found = explain(model, ids, mode=name, dtype="float64", target=0)
        table, _, W = weights(model)
        each = {"smoothgrad": np.ones(4)}.get(name, table[ids[0]]) * W[:, 0] / 3
        np.testing.assert_allclose(found.relevance["ids"], np.broadcast_to(each, (3, 4)).sum(1)[None], rtol=1e-9)
