"""Train a transformer that looks up a key in a list of pairs, and write it beside this file.

A sequence lists twelve pairs of a key and a value and ends with one of the keys, the query; the answer is the value
that follows that key in the list. Keys and values are two alphabets of 24 tokens, all different within a list. Two
causal layers, pre-norm, with learned positions: one notes at every value the key before it, one finds the query there.

    lookup_transformer.onnx   int64 `tokens` [batch, 25] -> `logits` [batch, 24], attention spelled out
    lookup_transformer.npz    held-out `inputs`, `label`, and `cause`: the places of the matching key and of its value

Needs torch, onnxscript, onnxruntime and scikit-learn (`pip install "backtrace-jax[test]"`).

Run: python -m tests.recall.make_lookup_transformer
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.recall.training import SEED, Batch, fit, keep, write

PAIRS, KEYS, VALUES = 12, 24, 24
WIDTH, HEADS = 48, 2
LISTED = 2 * PAIRS
NAME = "lookup_transformer"


class Attention(nn.Module):
    """Causal multi-head attention; queries beyond the first see the list and themselves, not each other."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.project = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        visible = torch.ones(LISTED + PAIRS, LISTED + PAIRS, dtype=torch.bool).tril()
        visible[LISTED:, LISTED:] = torch.eye(PAIRS, dtype=torch.bool)
        self.register_buffer("visible", visible, persistent=False)

    def forward(self, hidden: Tensor) -> Tensor:
        tokens = hidden.shape[1]
        parts = self.qkv(hidden).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind()
        scores = query @ key.transpose(-2, -1) / math.sqrt(WIDTH // HEADS)
        scores = scores.masked_fill(~self.visible[:tokens, :tokens], float("-inf"))
        return self.project((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a feed-forward part, each added to the residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(WIDTH, bias=False), Attention()
        self.norm2, self.expand = nn.LayerNorm(WIDTH, bias=False), nn.Linear(WIDTH, 2 * WIDTH)
        self.shrink = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.attention(self.norm1(hidden))
        return hidden + self.shrink(functional.gelu(self.expand(self.norm2(hidden))))


class LookupTransformer(nn.Module):
    """Two blocks; the answer is read at the query."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(KEYS + VALUES, WIDTH), nn.Embedding(LISTED + 1, WIDTH)
        self.blocks, self.norm = nn.Sequential(Block(), Block()), nn.LayerNorm(WIDTH, bias=False)
        self.head = nn.Linear(WIDTH, VALUES)

    def forward(self, tokens: Tensor) -> Tensor:
        """The answer to one query: [batch, 25] -> [batch, 24]."""
        return self.answers(tokens)[:, 0]

    def answers(self, tokens: Tensor) -> Tensor:
        """The answers to any number of queries, all at the same position: one list teaches more than one lookup."""
        positions = torch.arange(tokens.shape[1]).clamp(max=LISTED)
        hidden = self.blocks(self.tokens(tokens) + self.positions(positions))
        return self.head(self.norm(hidden[:, LISTED:]))

    @torch.no_grad()
    def centre(self) -> None:
        """Take the mean out of all that is written to the residual stream; the answers stay as they are.

        Layer norm removes that mean anyway. Its identity rule, though, hands relevance on entry by entry: an entry
        that is large only before the mean is removed, or only after, gets a share out of all proportion to its size,
        and the sums below turn that into noise of both signs. Without mean and shift layer norm only scales.
        """
        layers = [layer for block in self.blocks for layer in (block.attention.project, block.shrink)]
        for rows in (self.tokens.weight, self.positions.weight, *(layer.weight.T for layer in layers)):
            rows -= rows.mean(1, keepdim=True)
        for layer in layers:
            layer.bias -= layer.bias.mean()


def sample(random: np.random.Generator, count: int, queries: int = PAIRS) -> Batch:
    """Lists of pairs, each followed by some of its keys; the causes are those of the first."""
    keys = _distinct(random, count, KEYS, PAIRS)
    values = _distinct(random, count, VALUES, PAIRS)
    asked = _distinct(random, count, PAIRS, queries)
    listed = np.stack([keys, KEYS + values], axis=2).reshape(count, LISTED)
    inputs = np.concatenate([listed, np.take_along_axis(keys, asked, 1)], axis=1)
    return Batch(inputs, np.take_along_axis(values, asked, 1), 2 * asked[:, :1] + [0, 1])


def _distinct(random: np.random.Generator, count: int, among: int, taken: int) -> np.ndarray:
    """For each sequence, some of the numbers below `among` in random order: [count, taken]."""
    return random.permuted(np.tile(np.arange(among), (count, 1)), axis=1)[:, :taken]


def main() -> None:
    """Train, centre, write, check."""
    torch.set_num_threads(1)  # the order of sums, and with it the weights, must not depend on the machine's cores
    torch.manual_seed(SEED)
    network = LookupTransformer()
    fit(network, network.answers, sample, steps=800, rate=3e-3)
    network.centre()
    several = sample(np.random.default_rng(SEED + 1), 2000, queries=1)
    held_out = Batch(several.inputs, several.labels[:, 0], several.cause)
    write(network, held_out, "tokens", NAME, largest=300_000)
    keep(held_out, NAME)


if __name__ == "__main__":
    main()
