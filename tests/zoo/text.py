"""Text models: a BERT classifier, a convolutional one, a causal language model."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertForSequenceClassification

from tests.zoo.recipe import BATCH, Recipe, sentences

LENGTH, VOCABULARY, WIDTH = 12, 60, 32


class Classifier(nn.Module):
    """BERT with its logits as the only output."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.model = BertForSequenceClassification(config)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        outputs = self.model(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        return outputs.logits


def bert_config(labels: int) -> BertConfig:
    """Two layers of BERT, attention op by op."""
    return BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * WIDTH,
        max_position_embeddings=2 * LENGTH,
        num_labels=labels,
        attn_implementation="eager",
    )


def bert() -> Recipe:
    """BERT as a classifier of padded pairs of sentences."""
    return Recipe(Classifier(bert_config(3)), sentences(LENGTH, VOCABULARY))


class TextCNN(nn.Module):
    """Embedding, convolutions of several widths over time, the maximum of each, a classifier (Kim 2014)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH, padding_idx=0)
        self.convolutions = nn.ModuleList(nn.Conv1d(WIDTH, 8, kernel) for kernel in (2, 3, 4))
        self.classifier = nn.Linear(24, 3)

    def forward(self, input_ids: Tensor) -> Tensor:
        embedded = self.embedding(input_ids).transpose(1, 2)
        pooled = [functional.relu(convolution(embedded)).amax(2) for convolution in self.convolutions]
        return self.classifier(torch.cat(pooled, 1))


def text_cnn() -> Recipe:
    """Convolutions over the embeddings of padded sentences."""
    return Recipe(TextCNN(), {"input_ids": sentences(LENGTH, VOCABULARY)["input_ids"]})


class CausalAttention(nn.Module):
    """Multi-head attention that looks only back, by a stored triangular mask."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.project = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.register_buffer("past", torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril(), persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        batch, tokens, width = input.shape
        query, key, value = (self._split(part) for part in self.qkv(input).chunk(3, -1))
        scores = query @ key.transpose(-2, -1) / math.sqrt(width // self.heads)
        scores = scores.masked_fill(~self.past[:tokens, :tokens], float("-inf"))
        mixed = scores.softmax(-1) @ value
        return self.project(mixed.transpose(1, 2).reshape(batch, tokens, width))

    def _split(self, part: Tensor) -> Tensor:
        """[batch, tokens, width] -> [batch, heads, tokens, width / heads]."""
        return part.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class CausalBlock(nn.Module):
    """GPT-2's block: pre-norm attention and a feed-forward part with the tanh form of GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(WIDTH), CausalAttention(4), nn.LayerNorm(WIDTH)
        self.expand, self.shrink = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, input: Tensor) -> Tensor:
        hidden = input + self.attention(self.norm1(input))
        return hidden + self.shrink(functional.gelu(self.expand(self.norm2(hidden)), approximate="tanh"))


class CausalModel(nn.Module):
    """Two causal blocks with tied embeddings; the output is the logits of the next token."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks, self.norm = nn.Sequential(CausalBlock(), CausalBlock()), nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, input_ids: Tensor) -> Tensor:
        place = torch.arange(input_ids.shape[1], device=input_ids.device)
        hidden = self.blocks(self.tokens(input_ids) + self.positions(place))
        return self.head(self.norm(hidden)[:, -1])


def gpt() -> Recipe:
    """A causal language model on unpadded prompts."""
    prompts = np.random.default_rng(0).integers(3, VOCABULARY, size=(BATCH, LENGTH))
    return Recipe(CausalModel(), {"input_ids": prompts})


RECIPES = {recipe.__name__: recipe for recipe in (bert, text_cnn, gpt)}
