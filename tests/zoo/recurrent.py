"""Recurrent classifiers: LSTM, GRU and plain RNN over features in time, LSTM and Mamba over tokens.

Each reads its sequence in another way: final states, mean over time, last step, maximum over time.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.recipe import BATCH, Recipe, sentences
from tests.zoo.text import LENGTH, VOCABULARY

STEPS, FEATURES, STATE, CLASSES = 9, 5, 8, 4


def _sequences() -> dict[str, np.ndarray]:
    """Signals that remember their past: noise smoothed over time, [batch, steps, features]."""
    noise = np.random.default_rng(0).normal(size=(BATCH, STEPS + 1, FEATURES))
    return {"input": (noise[:, 1:] + 0.5 * noise[:, :-1]).astype(np.float32)}


class FinalStates(nn.Module):
    """A bidirectional LSTM; a dense layer reads the last state of either direction."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(FEATURES, STATE, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * STATE, CLASSES)

    def forward(self, input: Tensor) -> Tensor:
        _, (hidden, _) = self.lstm(input)
        return self.head(torch.cat([hidden[-2], hidden[-1]], 1))


def lstm() -> Recipe:
    """Two layers of bidirectional LSTM, [batch, 9, 5] -> [batch, 4]."""
    return Recipe(FinalStates(), _sequences())


class MeanOverTime(nn.Module):
    """A GRU; a dense layer reads the mean of its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(FEATURES, STATE, num_layers=2, batch_first=True)
        self.head = nn.Linear(STATE, CLASSES)

    def forward(self, input: Tensor) -> Tensor:
        return self.head(self.gru(input)[0].mean(1))


def gru() -> Recipe:
    """Two layers of GRU, [batch, 9, 5] -> [batch, 4]."""
    return Recipe(MeanOverTime(), _sequences())


class LastStep(nn.Module):
    """A tanh RNN; a dense layer reads its output at the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(FEATURES, STATE, num_layers=2, batch_first=True)
        self.head = nn.Linear(STATE, CLASSES)

    def forward(self, input: Tensor) -> Tensor:
        return self.head(self.rnn(input)[0][:, -1])


def rnn() -> Recipe:
    """Two layers of RNN, [batch, 9, 5] -> [batch, 4]."""
    return Recipe(LastStep(), _sequences())


class MaximumOverTime(nn.Module):
    """Embeddings through a bidirectional LSTM; a dense layer reads each unit's largest output."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 16, padding_idx=0)
        self.lstm = nn.LSTM(16, STATE, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * STATE, CLASSES)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.lstm(self.embedding(input_ids))[0].amax(1))


def lstm_text() -> Recipe:
    """A bidirectional LSTM over the tokens of padded sentences, [batch, 12] -> [batch, 4]."""
    return Recipe(MaximumOverTime(), {"input_ids": sentences(LENGTH, VOCABULARY)["input_ids"]})


class SelectiveScan(nn.Module):
    """The mixer of Mamba (Gu & Dao 2023): a linear recurrence whose step, input and output maps the tokens choose."""

    def __init__(self, width: int, state: int) -> None:
        super().__init__()
        inner, rank = 2 * width, 2
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, 4, padding=3, groups=inner)
        self.x_proj = nn.Linear(inner, rank + 2 * state, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.A_log = nn.Parameter(torch.log(torch.arange(1.0, state + 1)).repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, width, bias=False)
        self.sizes = [rank, state, state]

    def damp(self) -> None:
        """Draw what passes the scan by, and steps of the sizes that training begins with."""
        nn.init.uniform_(self.D, 0.5, 1.5)
        nn.init.uniform_(self.dt_proj.bias, -3, -1)

    def forward(self, input: Tensor) -> Tensor:
        steps = input.shape[1]
        tokens, gate = self.in_proj(input).chunk(2, -1)
        tokens = functional.silu(self.conv1d(tokens.transpose(1, 2))[..., :steps]).transpose(1, 2)
        step, enters, leaves = self.x_proj(tokens).split(self.sizes, -1)
        step = functional.softplus(self.dt_proj(step))
        decay = torch.exp(step.unsqueeze(-1) * -torch.exp(self.A_log))
        driven = (step * tokens).unsqueeze(-1) * enters.unsqueeze(2)
        state, outputs = torch.zeros_like(driven[:, 0]), []
        for time in range(steps):
            state = decay[:, time] * state + driven[:, time]
            outputs.append((state * leaves[:, time].unsqueeze(1)).sum(-1))
        mixed = torch.stack(outputs, 1) + self.D * tokens
        return self.out_proj(mixed * functional.silu(gate))


class Mamba(nn.Module):
    """Two layers of root-mean-square norm and selective scan with shortcuts; a dense layer reads the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 16)
        self.norms = nn.ModuleList(nn.RMSNorm(16, eps=1e-5) for _ in range(3))
        self.mixers = nn.ModuleList(SelectiveScan(16, 4) for _ in range(2))
        self.head = nn.Linear(16, CLASSES, bias=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden = self.embedding(input_ids)
        for norm, mixer in zip(self.norms, self.mixers, strict=False):
            hidden = hidden + mixer(norm(hidden))
        return self.head(self.norms[-1](hidden)[:, -1])


def mamba() -> Recipe:
    """A Mamba over tokens, its scan written out by the exporter, [batch, 12] -> [batch, 4]."""
    return Recipe(Mamba(), {"input_ids": np.random.default_rng(0).integers(3, VOCABULARY, (BATCH, LENGTH))})


RECIPES = {recipe.__name__: recipe for recipe in (lstm, gru, rnn, lstm_text, mamba)}
