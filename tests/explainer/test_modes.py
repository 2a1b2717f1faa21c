"""Modes on whole networks: books close, relevance is finite and arrives, whatever the task and the architecture."""

from __future__ import annotations

import numpy as np
import pytest

from backtrace_jax import Explainer, explain
from tests.zoo import exported
from tests.zoo.runtime import onnxruntime_outputs

NETWORKS = {
    "unet": {"task": "binary-segmentation"},
    "unet_classes": {"task": "multi-class-segmentation"},
    "bbox_cnn": {"task": "bbox-regression"},
    "lstm": {},
    "gru": {},
    "rnn": {},
    "lstm_text": {},
    "bert_qa": {"task": "span-qa", "output": "end_logits"},
    "bert_tokens": {"task": "token-classification"},
    "llama": {"task": "next-token"},
}
SUITED = {
    "bert_qa": ("attnlrp",),
    "llama": ("attnlrp", "cp-lrp"),
    "unet": ("lrp-epsilon-plus",),
    "lstm": ("lrp-epsilon",),
}


def check(explanation, error: float) -> None:
    """Books close for the whole graph and for each node, and relevance has reached an input."""
    ledgers = [channel.ledger for channel in explanation.channels.values()] or [explanation.ledger]
    for ledger in ledgers:
        assert ledger.error.max() <= error
        assert max(node.error.max() for node in ledger.by_node.values()) <= error
    for relevance in explanation.relevance.values():
        assert np.isfinite(relevance).all()
    assert sum(np.abs(relevance).sum() for relevance in explanation.relevance.values()) > 1e-3


@pytest.mark.parametrize("name", NETWORKS)
def test_every_task_and_architecture(name):
    model = exported(name)
    explanation = explain(model.model, model.inputs, **NETWORKS[name])
    for found, expected in zip(
        explanation.outputs.values(), onnxruntime_outputs(model.model, model.inputs), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    check(explanation, 1e-5)
    np.testing.assert_allclose(explanation.ledger.start, 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "chosen"),
    [(name, "contrastive") for name in ("unet_classes", "lstm")]
    + [(name, chosen) for name, modes in SUITED.items() for chosen in modes],
)
def test_books_close_in_double_precision(name, chosen):
    model = exported(name)
    explanation = explain(model.model, model.inputs, mode=chosen, dtype="float64", **NETWORKS[name])
    check(explanation, 1e-11)


@pytest.mark.parametrize("name", ["lstm_text", "resnet_small"])
def test_same_bytes_alone_and_in_a_batch(name):
    model = exported(name)
    explainer = Explainer(model.model, mode="contrastive", chunk=8)
    together = explainer(model.inputs)
    for i in range(len(together)):
        alone = explainer({key: array[i : i + 1] for key, array in model.inputs.items()})
        for key, relevance in alone.positive.items():
            assert relevance.tobytes() == together.positive[key][i].tobytes()


def test_contrastive_relevance_of_layers_is_the_difference():
    model = exported("lenet")
    explanation = explain(model.model, model.inputs, mode="contrastive", layers="all")
    for name, relevance in explanation.layers.items():
        parts = [explanation.channels[key].layers[name] for key in ("positive", "negative")]
        assert all((part >= 0).all() for part in parts)
        np.testing.assert_allclose(relevance, parts[0] - parts[1], rtol=1e-6)
    for name, relevance in explanation.relevance.items():
        np.testing.assert_allclose(relevance, explanation.positive[name] - explanation.negative[name], rtol=1e-6)
