"""Train an LSTM that must report one flag it saw about 35 steps before the end, and write it beside this file.

Every step shows one of six symbols, one-hot; at one step, 30 to 40 steps before the last, a seventh feature marks the
symbol as the flag. The answer, read from the last hidden state, is the flag. All other symbols are distractors.

    flag_lstm.onnx   float32 `sequence` [batch, 50, 7] -> `logits` [batch, 6], with one `LSTM` node
    flag_lstm.npz    held-out `inputs` (0 or 1), `label`, and `cause`: the step of the flag

Needs torch, onnxscript, onnxruntime and scikit-learn (`pip install "backtrace-jax[test]"`).

Run: python -m tests.recall.make_flag_lstm
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from tests.recall.training import SEED, Batch, fit, keep, write

STEPS, SYMBOLS, HIDDEN = 50, 6, 24
STEPS_BEFORE_THE_END = range(30, 41)
NAME = "flag_lstm"


class FlagLSTM(nn.Module):
    """An LSTM and a dense layer on its last hidden state."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(SYMBOLS + 1, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, SYMBOLS)
        _remember(self.lstm)

    def forward(self, sequence: Tensor) -> Tensor:
        hidden, _ = self.lstm(sequence)
        return self.head(hidden[:, -1])


def _remember(lstm: nn.LSTM) -> None:
    """Begin with a memory of about 35 steps (Tallec and Ollivier 2018): sigmoid(3.5) = 1 - 1/34."""
    with torch.no_grad():
        lstm.bias_ih_l0[:HIDDEN] = -3.5  # gates i, f, g, o: what comes in changes little,
        lstm.bias_ih_l0[HIDDEN : 2 * HIDDEN] = 3.5  # and what is there stays


def sample(random: np.random.Generator, count: int) -> Batch:
    """Random symbols, one of them marked."""
    symbols = random.integers(SYMBOLS, size=(count, STEPS))
    flags = STEPS - 1 - random.choice(STEPS_BEFORE_THE_END, count)
    inputs = np.zeros((count, STEPS, SYMBOLS + 1), np.float32)
    inputs[..., :SYMBOLS] = np.eye(SYMBOLS)[symbols]
    inputs[np.arange(count), flags, SYMBOLS] = 1
    return Batch(inputs, symbols[np.arange(count), flags], flags[:, None])


def main() -> None:
    """Train, write, check."""
    torch.set_num_threads(1)  # the order of sums, and with it the weights, must not depend on the machine's cores
    torch.manual_seed(SEED)
    network = FlagLSTM()
    fit(network, network, sample, steps=600, rate=1e-2)
    held_out = sample(np.random.default_rng(SEED + 1), 2000)
    write(network, held_out, "sequence", NAME, largest=100_000)
    keep(held_out, NAME)


if __name__ == "__main__":
    main()
