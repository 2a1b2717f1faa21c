"""`run.summary()` is what all explanations of a dataset add up to, whatever of them is stored."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from backtrace_jax import Run, explain, explain_dataset
from backtrace_jax.datasets import job
from tests import tiny

IMAGES = np.random.default_rng(0).standard_normal((21, 2, 5, 5)).astype(np.float32)
MODEL = tiny.convolutional()


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(job, "block_size", lambda size, flops: 8)


def test_a_summary_is_of_all_that_was_explained(tmp_path):
    bad = IMAGES.copy()
    bad[10] = np.nan
    good = np.delete(np.arange(21), 10)
    chosen = {"mode": "lrp-epsilon-plus", "layers": ["hidden"], "ledger": "total"}
    run = explain_dataset(MODEL, bad, tmp_path / "store", store_dtype="float16", reduce="channels", **chosen)
    whole, summary = explain(MODEL, IMAGES[good], **chosen), Run(tmp_path / "store").summary()
    relevance = whole.relevance["x"].astype(np.float64)
    classes = whole.outputs["y"].argmax(axis=1)
    assert summary.examples == 20
    assert summary.by_class.tolist() == np.bincount(classes, minlength=5).tolist()
    features = summary.features["x"]
    np.testing.assert_allclose(features.mean, relevance.mean(axis=0).ravel(), rtol=1e-12, atol=1e-15)
    top = np.abs(relevance).reshape(20, -1).argmax(axis=0)
    assert features.top_examples[0].tolist() == good[top].tolist()
    for k in np.unique(classes):
        mean = np.abs(relevance[classes == k]).sum(axis=(2, 3)).mean(axis=0)
        np.testing.assert_allclose(summary.channels["x"].magnitude_by_class[k], mean, rtol=1e-12)
    hidden = whole.layers["hidden"].astype(np.float64).sum(axis=(2, 3)).mean(axis=0)
    np.testing.assert_allclose(summary.channels["hidden"].mean, hidden, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(summary.ledger[1], whole.ledger.absolute.sum(axis=0), rtol=1e-12)
    assert str(run.summary()) == str(summary)


def test_what_does_not_fit_the_store_is_in_no_mean(tmp_path):
    images = IMAGES.copy()
    images[4] *= 1e6
    chosen = {"mode": "lrp-epsilon-plus", "scaler": None, "ledger": "total"}
    run = explain_dataset(MODEL, images, tmp_path / "store", store_dtype="float16", **chosen)
    assert [*run.failed] == [4]
    good = np.delete(np.arange(21), 4)
    relevance = explain(MODEL, images[good], **chosen).relevance["x"].astype(np.float64)
    assert run.summary().examples == 20
    np.testing.assert_allclose(run.summary().features["x"].mean, relevance.mean(axis=0).ravel(), rtol=1e-12)


@pytest.mark.parametrize(("ending", "threshold"), [((), 0.0), (("Sigmoid",), 0.5)])
def test_a_unit_predicts_class_1_above_half_a_probability_or_a_logit_of_0(tmp_path, ending, threshold):
    nodes = [tiny.node("MatMul", ["x", "w"], ["logit"]), *(tiny.node(op, ["logit"], ["y"]) for op in ending)]
    inputs = {"x": (TensorProto.FLOAT, ["batch", 4])}
    model = tiny.network(nodes, inputs, ("y",) if ending else ("logit",), w=tiny.random(4, 1))
    rows = tiny.random(30, 4, seed=3)
    run = explain_dataset(model, rows, tmp_path / "store", task="binary-classification")
    (values,) = explain(model, rows, task="binary-classification").outputs.values()
    found = np.bincount((values[:, 0] > threshold).astype(int), minlength=2)
    assert found.min() > 3
    assert run.summary().by_class.tolist() == found.tolist()
