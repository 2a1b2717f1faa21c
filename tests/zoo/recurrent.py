"""Recurrent classifiers: LSTM, GRU and plain RNN over features in time, an LSTM over tokens.

Each reads its sequence in another way: final states, mean over time, last step, maximum over time.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

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


RECIPES = {recipe.__name__: recipe for recipe in (lstm, gru, rnn, lstm_text)}
