"""Examples whose answer is NaN stand for themselves: relevance 0, booked as dead, named, and no other one changes."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from backtrace_jax import Explainer, explain
from backtrace_jax.errors import NumericsError, RelevanceWarning
from backtrace_jax.explanation.explanation import Explanation
from tests.explainer.test_half_precision import attention, node
from tests.importers.nodes import floats

FLOAT, INT = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
X = np.concatenate([floats(3, 5, 6), floats(1, 5, 6, seed=1)])
MASK = np.array([[1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [1, 0, 1, 0, 0], [1, 1, 1, 1, 0]], np.bool_)


def cautioned(*arguments, match: str, **settings) -> Explanation:
    with pytest.warns(RelevanceWarning, match=match):
        return explain(*arguments, **settings)


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    """Every score of a fully masked example is minus infinity: its softmax is NaN."""
    return attention("float64", -np.inf)


MODES = ("default", "contrastive", "attnlrp", "gradient", "integrated-gradients")


@pytest.mark.parametrize("mode", MODES)
def test_a_fully_masked_example(model, mode):
    feeds, kept = {"x": X.astype(np.float64), "mask": MASK}, [0, 2, 3]
    settings = {"mode": mode, "dtype": "float64", "chunk": 8}
    found = cautioned(
        model,
        feeds,
        target=1,
        match=r"'y' is NaN or Inf on examples 1, first in node .*Softmax.*relevance is 0",
        **settings,
    )
    alone = explain(model, {name: array[kept] for name, array in feeds.items()}, target=1, **settings)
    np.testing.assert_array_equal(found.relevance["x"][kept], alone.relevance["x"])
    np.testing.assert_array_equal(found.outputs["y"][kept], alone.outputs["y"])
    assert np.isnan(found.outputs["y"][1]).all()
    assert not found.relevance["x"][1].any()
    assert [line for line in found.warnings if "only" in line or "NaN" in line] == list(found.warnings[:1])
    books = [found.ledger, *(each.ledger for each in found.channels.values())]
    for ledger in filter(None, books):
        assert np.isfinite(ledger.signed).all()
        assert ledger.error.max() < 1e-12
        np.testing.assert_array_equal(ledger.signed[1], [ledger.start[1], 0, 0, 0, 0, ledger.start[1]])
    if mode in ("default", "attnlrp"):
        assert found.ledger.start[1] == found.ledger.dead[1] == 1
        np.testing.assert_array_equal(found.ledger.signed[kept], alone.ledger.signed)


def test_without_a_scaler_nothing_is_started(model):
    feeds = {"x": X.astype(np.float64), "mask": MASK}
    found = cautioned(model, feeds, target=1, scaler=None, match="examples 1")
    assert found.ledger.signed[1].tolist() == [0] * 6
    assert np.isfinite(found.ledger.signed).all()


def test_a_mean_over_nothing():
    """0/0 in one example of a bag of words."""
    nodes = [
        node("Gather", "table ids", "rows"),
        node("Cast", "mask", "weights", to=FLOAT),
        node("Unsqueeze", "weights last", "columns"),
        node("Mul", "rows columns", "kept"),
        node("ReduceSum", "kept first", "total", keepdims=0),
        node("ReduceSum", "weights first", "count", keepdims=1),
        node("Div", "total count", "mean"),
        node("MatMul", "mean W", "y"),
    ]
    held = {"table": floats(7, 4), "W": floats(4, 3, seed=1), "first": np.array([1]), "last": np.array([2])}
    inputs = [helper.make_tensor_value_info(name, INT, ["N", 5]) for name in ("ids", "mask")]
    result = helper.make_tensor_value_info("y", FLOAT, ["N", 3])
    tensors = [numpy_helper.from_array(array, name) for name, array in held.items()]
    graph = helper.make_graph(nodes, "mean", inputs, [result], tensors)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    ids = np.array([[1, 2, 3, 4, 5], [0, 6, 2, 2, 1]])
    mask = np.array([[1, 1, 0, 1, 0], [0, 0, 0, 0, 0]])
    found = cautioned(proto, {"ids": ids, "mask": mask}, match="examples 1, first in node .*Div")
    assert found.relevance["ids"][0, [2, 4]].tolist() == [0, 0]
    assert np.abs(found.relevance["ids"][0, [0, 1, 3]]).min() > 1e-4
    assert not found.relevance["ids"][1].any()
    assert found.ledger.error.max() < 1e-6
    with pytest.raises(NumericsError, match=r"NaN or Inf on these inputs, first in node .*Div"):
        explain(proto, {"ids": ids[1:], "mask": mask[1:]})


def test_no_caution_where_all_is_well(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = Explainer(model, dtype="float64")({"x": X.astype(np.float64), "mask": MASK | True})
    assert found.warnings == ()
