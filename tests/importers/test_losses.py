"""Losses in every form, against onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from backtrace_jax.errors import ModelError
from backtrace_jax.onnx_backend import run_model

from .explaining import check_explained, network
from .nodes import check_node, floats, node_model

SCORES = floats(3, 5, 2)
LABELS = np.asarray([[0, 4], [2, 2], [1, 3]])
WEIGHT = np.abs(floats(5, seed=1)) + 0.1
SETTINGS = [
    {},
    {"reduction": "none"},
    {"reduction": "sum"},
    {"ignore_index": 2},
    {"ignore_index": 2, "reduction": "sum"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])
def test_losses(settings, weight):
    operands = [SCORES, LABELS, weight]
    known = () if weight is None else (2,)
    check_node("NegativeLogLikelihoodLoss", operands, known, opset=13, **settings)
    check_node("SoftmaxCrossEntropyLoss", operands, known, opset=13, results=2, **settings)


def test_vectors_of_scores_and_labels_out_of_range_that_are_ignored():
    scores, labels = floats(4, 3), np.asarray([0, -1, 2, -1])
    check_node("NegativeLogLikelihoodLoss", [scores, labels, WEIGHT[:3]], ignore_index=-1, opset=13)
    check_node("SoftmaxCrossEntropyLoss", [scores, labels.astype(np.int32)], (1,), ignore_index=-1, opset=12)


def test_unknown_reductions_are_refused():
    with pytest.raises(ModelError, match="'reduction' must be one of none, mean, sum, found 'median'"):
        run_model(node_model("NegativeLogLikelihoodLoss", [SCORES, LABELS], reduction="median"), [SCORES, LABELS])


def test_explained():
    """All relevance goes to the scores; labels take none, though they are an input."""
    inputs = {"x": floats(1, 4), "labels": np.asarray([2])}
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["scores"]),
        helper.make_node("SoftmaxCrossEntropyLoss", ["scores", "labels", "weight"], ["y"], reduction="none"),
    ]
    check_explained(network(nodes, inputs, W=floats(4, 5, seed=1), weight=WEIGHT), inputs)
