"""What users ask of an explanation is answered alike by slopes and by quotients; what leaves the range is told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backtrace_jax import Explainer, Explanation, Rule, Selector, composite, explain, mode
from backtrace_jax.errors import NumericsError
from backtrace_jax.rules import lrp
from tests.explainer.test_range import FACTORS, FACTORS_OF_SLOPES, perceptron
from tests.explainer.test_range import explained as in_range
from tests.rules.networks import Network

LAYERS = ("relu*", "maxpool*", "tanh*", "add*")


def several_outputs() -> Any:
    """A convolution, pooling and two dense heads, one of which reads the other one's hidden layer."""
    network = Network(x=(2, 6, 6))
    hidden = network.node("Relu", network.node("Conv", "x", network.normal(4, 2, 3, 3), network.normal(4)))
    hidden = network.node("MaxPool", hidden, kernel_shape=[2, 2], strides=[2, 2])
    flat = network.node("Tanh", network.dense(network.node("Flatten", hidden), 16, 6))
    both = network.node("Add", network.dense(flat, 6, 4), network.node("Gemm", flat, network.normal(6, 4)))
    return network.model(network.dense(flat, 6, 3), network.dense(network.node("Softplus", both), 4, 5))


@pytest.fixture(scope="module")
def both() -> list[Explainer]:
    """The same model by slopes and by quotients; the second output is explained."""
    settings = {"dtype": "float64", "output": 1, "layers": LAYERS}
    return [Explainer(several_outputs(), mode=mode("attnlrp", epsilon=each), **settings) for each in (0.0, 1e-12)]


X = np.random.default_rng(0).normal(size=(2, 2, 6, 6))
QUESTIONS: dict[str, dict[str, Any]] = {
    "targets": {"target": [2, 4]},
    "a start of one's own": {"start": np.random.default_rng(1).normal(size=(2, 5))},
    "a part of a layer": {"target": 1, "conditions": {"maxpool2": [0, 2]}},
    "a share of the answer's layer": {"target": 3, "conditions": {"tanh6": np.linspace(0, 1, 6)}},
}


def check_alike(found: Explanation, expected: Explanation) -> None:
    assert found.layers.keys() == expected.layers.keys()
    assert found.layers
    for name, R in [*expected.relevance.items(), *expected.layers.items()]:
        own = (found.relevance | found.layers)[name]
        np.testing.assert_allclose(own, R, rtol=1e-6, atol=1e-6 * np.abs(R).max())
    size = np.abs(expected.ledger.start).max()
    np.testing.assert_allclose(found.ledger.signed, expected.ledger.signed, rtol=1e-6, atol=1e-6 * size)
    assert found.ledger.by_node.keys() == expected.ledger.by_node.keys()
    for name, node in expected.ledger.by_node.items():
        np.testing.assert_allclose(found.ledger.by_node[name].signed, node.signed, rtol=1e-6, atol=1e-6 * size)
        assert found.ledger.by_node[name].error.max() < 1e-12


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_question_has_one_answer(both, question):
    check_alike(*(each(X, **QUESTIONS[question]) for each in both))


def test_what_a_condition_cuts_off_is_relevance(both):
    """Booked as dead in units of relevance, though slopes travel."""
    masked = both[0](X, target=1, conditions={"maxpool2": [0, 2]})
    whole = both[0](X, target=1)
    cut = whole.layers["maxpool2"][:, [1, 3]].sum(axis=(1, 2, 3))
    np.testing.assert_allclose(masked.ledger.dead - whole.ledger.dead, cut, rtol=1e-10, atol=1e-12)
    assert np.abs(cut).min() > 1e-3


MINE = composite("mine", [(Selector(op="softmax"), Rule("epsilon", lrp.epsilon))], base="attnlrp")
EXTREME = ("slopes vanish", "slopes overflow")
CASES = [
    *((name, "attnlrp", None, "nodes") for name in {**FACTORS, **FACTORS_OF_SLOPES}),
    *((name, "attnlrp", 1.0, "nodes") for name in EXTREME),
    *((name, chosen, None, ledger) for name in EXTREME for chosen, ledger in (("attnlrp", None), (MINE, "total"))),
]


@pytest.fixture(scope="module")
def right() -> np.ndarray:
    """Relevance for a total of 1, from a network of ordinary size."""
    return in_range(perceptron(1, 1), 1, mode="attnlrp", dtype="float64", scaler=1.0).relevance["x"]


@pytest.mark.filterwarnings("ignore:.*adds up to")
@pytest.mark.parametrize(("name", "chosen", "scaler", "ledger"), CASES, ids=lambda each: getattr(each, "name", each))
def test_slopes_out_of_range_are_told_or_the_answer_is_right(right, name, chosen, scaler, ledger):
    """Whatever overflows or vanishes on the way, at every level of books; a rule of one's own does not hide it."""
    inputs, first, second = {**FACTORS, **FACTORS_OF_SLOPES}[name][:3]
    found = answer(perceptron(first, second), inputs, mode=chosen, scaler=scaler, ledger=ledger)
    assert (found is not None) == (name in EXTREME and scaler == 1.0)
    if found:
        np.testing.assert_allclose(found.relevance["x"], right, rtol=1e-3, atol=1e-4 * np.abs(right).max())


def answer(model: Any, factor: float, **settings: Any) -> Explanation | None:
    """An explanation; None if numbers leave the range."""
    try:
        return in_range(model, factor, **settings)
    except NumericsError:
        return None


@pytest.mark.filterwarnings("ignore:.*adds up to", "ignore:the stabiliser took")
def test_a_larger_epsilon_is_a_stabiliser():
    """Asked for, it is there, and takes its share."""
    shares = [
        explain(several_outputs(), X, mode=mode("lrp-epsilon", epsilon=epsilon), output=1, dtype="float64")
        for epsilon in (0.0, 0.1)
    ]
    assert not shares[0].ledger.stabiliser.any()
    assert np.abs(shares[1].ledger.stabiliser).min() > 1e-4
