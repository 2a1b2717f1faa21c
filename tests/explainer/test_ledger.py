"""What `ledger=` leaves out: books of nodes, or all; relevance, refusals and reports stay what they are."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from backtrace_jax import Explanation, explain
from backtrace_jax.errors import MissingNameError, NumericsError, SettingError
from backtrace_jax.explanation import terminal
from backtrace_jax.explanation.ledger import CHANNELS
from tests.explainer.test_range import FACTORS, explained, perceptron
from tests.tiny import images, network, node, random

LEVELS = ("nodes", "total", None)
CALLS = {
    "default": {"mode": "default"},
    "lrp-epsilon": {"mode": "lrp-epsilon", "conditions": {"hidden": [0, 2]}},
    "contrastive": {"mode": "contrastive", "layers": ["hidden"]},
    "gradient": {"mode": "gradient"},
}


@functools.cache
def residual() -> onnx.ModelProto:
    """A convolution around which relevance is also handed on unchanged: two shares of one value, one of them a product,
    which XLA would not round where nothing but the sum reads it."""
    nodes = [
        node("Conv", ["x", "A", "a"], ["hidden"], pads=[1] * 4),
        node("Relu", ["hidden"], ["active"]),
        node("Conv", ["active", "B"], ["inner"], pads=[1] * 4),
        node("Add", ["inner", "active"], ["both"]),
        node("Relu", ["both"], ["whole"]),
        node("Flatten", ["whole"], ["flat"]),
        node("Gemm", ["flat", "C"], ["y"]),
    ]
    weights = {"A": random(8, 2, 3, 3, seed=2), "a": random(8, seed=3), "B": random(8, 8, 3, 3, seed=4) / 9}
    return network(nodes, {"x": (TensorProto.FLOAT, ["batch", 2, 5, 5])}, C=random(200, 5, seed=5), **weights)


@functools.cache
def found(call: str, level: str | None) -> Explanation:
    return explain(residual(), images(), ledger=level, **CALLS[call])


def bytes_of(explanation: Explanation) -> list[bytes]:
    parts = [explanation, *explanation.channels.values()]
    arrays = [array for part in parts for group in (part.relevance, part.layers) for array in group.values()]
    return [array.tobytes() for array in arrays]


@pytest.mark.parametrize("call", CALLS)
def test_relevance_is_the_same_to_the_byte(call):
    assert len({tuple(bytes_of(found(call, level))) for level in LEVELS}) == 1
    assert [found(call, level).fingerprint["ledger"] for level in LEVELS] == [*LEVELS]


@pytest.mark.parametrize("call", CALLS)
def test_totals_are_those_of_the_books_of_nodes(call):
    nodes, total, nothing = (found(call, level) for level in LEVELS)
    assert nothing.ledger is None
    if call == "gradient":
        assert nodes.ledger is total.ledger is None
        return
    pairs = [(nodes.ledger, total.ledger)]
    pairs += [(nodes.channels[name].ledger, total.channels[name].ledger) for name in nodes.channels]
    assert len(pairs) == (3 if call == "contrastive" else 1)
    for one, other in pairs:
        np.testing.assert_allclose(other.signed, one.signed, rtol=1e-13, atol=1e-13)
        np.testing.assert_allclose(other.absolute, one.absolute, rtol=1e-13, atol=1e-13)
        assert one.by_node
        assert not other.by_node
        with pytest.raises(MissingNameError, match=r"'hidden'.*ledger='nodes'"):
            other.by_node["hidden"]
    assert nodes.warnings == total.warnings


def test_books_of_nodes_are_the_default():
    assert list(explain(residual(), images()).ledger.by_node) == list(found("default", "nodes").ledger.by_node)
    with pytest.raises(SettingError, match=r"'node'.*nodes, total"):
        explain(residual(), images(), ledger="node")


@pytest.mark.parametrize("level", ["total", None])
@pytest.mark.parametrize("call", ["default", "contrastive"])
def test_saved_and_reported(call, level, tmp_path):
    explanation = found(call, level)
    explanation.save(tmp_path / "kept.npz")
    again = Explanation.load(tmp_path / "kept.npz")
    assert bytes_of(again) == bytes_of(explanation)
    for one, other in zip(
        (again, *again.channels.values()), (explanation, *explanation.channels.values()), strict=True
    ):
        assert (one.ledger is None) == (other.ledger is None) == (level is None)
        if level is not None:
            np.testing.assert_array_equal(one.ledger.signed, other.ledger.signed)
    text, page = terminal.summary(again), again._repr_html_()
    for report in (text, page):
        assert ("no ledger: none was asked for" in report) == (level is None)
        assert ("stabiliser" in report) == (level is not None)
    assert terminal.batch(again).startswith("examples     3")
    assert repr(again).startswith("Explanation(")
    if call == "contrastive":
        assert list(again.channels) == [*CHANNELS]
        heads = text.split("\n\n")[1].splitlines()[0].split()
        assert heads == ["relevance", "inputs"] if level is None else ["relevance", "start", "inputs", "error"]


@pytest.mark.parametrize("rules", ["default", "lrp-zero", "contrastive", "lrp-alpha2-beta1"])
def test_what_left_the_range_is_refused_with_total_books_too(rules):
    for inputs, first, second in FACTORS.values():
        with pytest.raises(NumericsError, match=r"examples (0, )?1.*range of float32.*dtype='float64'"):
            explained(perceptron(first, second), inputs, mode=rules, ledger="total")


def test_what_strain_shows_is_refused_without_books():
    for name in ("inputs overflow", "products vanish"):
        inputs, first, second = FACTORS[name]
        with pytest.raises(NumericsError, match=r"node '[hy]'.*dtype='float64'.*ledger='total'"):
            explained(perceptron(first, second), inputs, mode="lrp-zero", ledger=None)
