"""Transformers whose answer is more than a class: spans, a label per token, the next token."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForTokenClassification,
    LlamaConfig,
    LlamaForCausalLM,
)

from tests.zoo.recipe import BATCH, Recipe, sentences
from tests.zoo.text import LENGTH, VOCABULARY, WIDTH, bert_config


class SpanAnswers(nn.Module):
    """BERT with the logits of where the answer starts and where it ends."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.model = BertForQuestionAnswering(config)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.model(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        return outputs.start_logits, outputs.end_logits


def bert_qa() -> Recipe:
    """Question answering on padded pairs of sentences: two outputs, [batch, 12] each."""
    return Recipe(SpanAnswers(bert_config(2)), sentences(LENGTH, VOCABULARY), ("start_logits", "end_logits"))


class TokenLabels(nn.Module):
    """BERT with the logits of every token's label."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.model = BertForTokenClassification(config)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        return self.model(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).logits


def bert_tokens() -> Recipe:
    """Token classification on padded pairs of sentences, [batch, 12, 5]."""
    return Recipe(TokenLabels(bert_config(5)), sentences(LENGTH, VOCABULARY))


class NextToken(nn.Module):
    """LLaMA with its logits as the only output."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.model = LlamaForCausalLM(config)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model(input_ids).logits


def llama() -> Recipe:
    """Two layers of LLaMA on unpadded prompts, two queries per key and value: [batch, 12, 60]."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=2 * WIDTH,
        max_position_embeddings=2 * LENGTH,
        attn_implementation="eager",
        use_cache=False,
    )
    prompts = np.random.default_rng(0).integers(3, VOCABULARY, size=(BATCH, LENGTH))
    return Recipe(NextToken(config), {"input_ids": prompts})


RECIPES = {recipe.__name__: recipe for recipe in (bert_qa, bert_tokens, llama)}
