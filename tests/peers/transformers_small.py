"""One block of each kind of transformer, small, with weights that hide nothing, and inputs for it."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)

from tests.zoo.recipe import Recipe, images, randomise, sentences

VOCABULARY, LENGTH, WIDTH = 40, 7, 16
BLOCK = {"num_hidden_layers": 1, "num_attention_heads": 4, "hidden_size": WIDTH, "intermediate_size": 24}
EAGER = {"attn_implementation": "eager"}
DECODER = {**BLOCK, **EAGER, "num_key_value_heads": 2, "head_dim": 4, "vocab_size": VOCABULARY, "use_cache": False}
ENDS = {"bos_token_id": 1, "eos_token_id": 2}


class Pairs(nn.Module):
    """Classes of pairs of sentences, padded."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        return self.model(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).logits


class Tokens(nn.Module):
    """Scores of the next token at every position."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model(input_ids, use_cache=False).logits


class Pictures(nn.Module):
    """Classes of pictures."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model(pixel_values).logits


def _bert() -> Recipe:
    config = BertConfig(**BLOCK, **EAGER, vocab_size=VOCABULARY, max_position_embeddings=16, num_labels=3)
    return Recipe(Pairs(BertForSequenceClassification(config)), sentences(LENGTH + 4, VOCABULARY))


def _vit() -> Recipe:
    config = ViTConfig(**BLOCK, **EAGER, image_size=8, patch_size=4, num_labels=3)
    return Recipe(Pictures(ViTForImageClassification(config)), {"pixel_values": images(8)})


def _gpt2() -> Recipe:
    sizes = {
        "n_embd": WIDTH,
        "n_head": 4,
        "n_layer": 1,
        "n_inner": 24,
        "n_positions": 16,
        "vocab_size": VOCABULARY,
        **ENDS,
    }
    return _decoder(GPT2LMHeadModel(GPT2Config(**sizes, **EAGER, use_cache=False)))


def _decoder(model: nn.Module) -> Recipe:
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (2, LENGTH))
    return Recipe(Tokens(model), {"input_ids": ids})


RECIPES: dict[str, Callable[[], Recipe]] = {
    "bert": _bert,
    "vit": _vit,
    "gpt2": _gpt2,
    "llama": lambda: _decoder(LlamaForCausalLM(LlamaConfig(**DECODER))),
    "qwen3": lambda: _decoder(Qwen3ForCausalLM(Qwen3Config(**DECODER))),
    "gemma3": lambda: _decoder(Gemma3ForCausalLM(Gemma3TextConfig(**DECODER, query_pre_attn_scalar=4))),
}


def build(name: str) -> Recipe:
    """A module and its inputs, always with the same weights; torch's generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(zlib.crc32(name.encode()))
        recipe = RECIPES[name]()
        randomise(recipe.module)
    recipe.module.eval()
    return recipe
