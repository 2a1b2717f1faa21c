"""What both scripts share: fit on fresh batches, measure on held-out ones, write ONNX and check it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from backtrace_jax.demo.make_models import export
from tests.zoo.runtime import onnxruntime_outputs

FOLDER = Path(__file__).parent
SEED = 0
KEPT_EXAMPLES = 300
LEAST_ACCURACY = 0.99


@dataclass(frozen=True)
class Batch:
    """Sequences with known causes.

    Attributes:
        inputs: [batch, places, ...], what the model reads.
        labels: [batch], or [batch, answers], what it must answer.
        cause: [batch, causes], the places that decide the (first) answer.
    """

    inputs: np.ndarray
    labels: np.ndarray
    cause: np.ndarray


Sample = Callable[[np.random.Generator, int], Batch]


def fit(network: nn.Module, answers: Callable[[Tensor], Tensor], sample: Sample, *, steps: int, rate: float) -> None:
    """Adam with a rising and falling learning rate; every batch of 64 sequences is new."""
    random = np.random.default_rng(SEED)
    optimiser = torch.optim.Adam(network.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps)
    for _ in range(steps):
        batch = sample(random, 64)
        logits, labels = answers(torch.from_numpy(batch.inputs)), torch.from_numpy(batch.labels)
        optimiser.zero_grad()
        nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten()).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()


def write(network: nn.Module, held_out: Batch, input_name: str, name: str, *, largest: int) -> None:
    """Write the model, and compare what was written with the labels and with torch on all held-out sequences."""
    path = FOLDER / f"{name}.onnx"
    export(network, held_out.inputs[:2], input_name, path)
    (found,) = onnxruntime_outputs(onnx.load(path), {input_name: held_out.inputs})
    with torch.no_grad():
        expected = network(torch.from_numpy(held_out.inputs)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    accuracy, size = (found.argmax(1) == held_out.labels).mean(), path.stat().st_size
    assert accuracy >= LEAST_ACCURACY, accuracy
    assert size < largest, size
    print(f"{name}: accuracy {accuracy:.4f} on {len(found)} held-out sequences, {size} bytes")


def keep(held_out: Batch, name: str) -> None:
    """Write the first held-out sequences; all values are integers from 0 to 255."""
    arrays = {"inputs": held_out.inputs, "label": held_out.labels, "cause": held_out.cause}
    small = {key: array[:KEPT_EXAMPLES].astype(np.uint8) for key, array in arrays.items()}
    np.savez_compressed(FOLDER / f"{name}.npz", **small)
