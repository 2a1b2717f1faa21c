"""What every model of the zoo is made of: a torch module, example inputs, and weights that hide nothing.

A freshly built module is full of identities: zero biases, batch norm with mean 0 and variance 1, layer norm
with scale 1. A rule that drops a bias or a statistic would pass every test on such a model, so `randomise`
replaces all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

BATCH = 3


@dataclass(frozen=True)
class Recipe:
    """A module to export and a batch of examples for it, keyed by the names of its `forward` arguments."""

    module: nn.Module
    inputs: dict[str, np.ndarray]
    outputs: tuple[str, ...] = ("output",)


def randomise(module: nn.Module) -> None:
    """Draw every weight, bias and statistic so that none is an identity and activations keep their size.

    A module with a method `damp` has the last word on its own parameters.
    """
    for part in module.modules():
        _draw(part)
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    for part in module.modules():
        if hasattr(part, "damp"):
            part.damp()


def _draw(part: nn.Module) -> None:
    """Weights of one layer, and the statistics of a batch norm."""
    if isinstance(part, nn.Linear | nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
    elif isinstance(part, nn.BatchNorm2d | nn.LayerNorm | nn.RMSNorm | LlamaRMSNorm):
        nn.init.uniform_(part.weight, 0.5, 1.5)
    elif isinstance(part, nn.RNNBase):
        for parameter in part.parameters():
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5 if parameter.ndim == 2 else 0.3)
    if isinstance(part, nn.BatchNorm2d):
        nn.init.normal_(part.running_mean, std=0.2)
        nn.init.uniform_(part.running_var, 0.5, 1.5)


def images(size: int, *, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Random images with the smooth patches and the pixel noise of photographs, standardised per example."""
    generator = np.random.default_rng(seed)
    patches = generator.normal(size=(BATCH, channels, 4, 4))
    grid = np.linspace(0, 3, size)
    weights = np.maximum(0, 1 - np.abs(grid[:, None] - np.arange(4)))
    smooth = np.einsum("yi,bcij,xj->bcyx", weights, patches, weights)
    pixels = smooth + 0.3 * generator.normal(size=smooth.shape)
    mean, deviation = pixels.mean((1, 2, 3), keepdims=True), pixels.std((1, 2, 3), keepdims=True)
    return ((pixels - mean) / deviation).astype(np.float32)


def sentences(length: int, vocabulary: int, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Pairs of sentences as BERT reads them: [CLS]=1 first [SEP]=2 second [SEP], filled up with [PAD]=0."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(3, vocabulary, size=(BATCH, length))
    ends = length - 3 * np.arange(BATCH)[:, None]
    middles, place = ends // 2, np.arange(length)[None]
    tokens[:, 0] = 1
    tokens[(place == middles - 1) | (place == ends - 1)] = 2
    mask, segments = place < ends, (place >= middles) & (place < ends)
    named = {"input_ids": tokens * mask, "attention_mask": mask, "token_type_ids": segments}
    return {name: values.astype(np.int64) for name, values in named.items()}
