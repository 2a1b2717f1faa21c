"""Relevance through activations with f(0) ≠ 0: the identity against f(0) as a constant, on trained perceptrons.

    python -m benchmarks.activations sigmoid softplus

Prints the table of docs/activations.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from backtrace_jax import Mode, Selector, composite, explain
from backtrace_jax.rules import FROM_ZERO, find_mode

ACTIVATIONS = {"sigmoid": nn.Sigmoid, "softplus": nn.Softplus}
MODES = ("lrp-epsilon", "lrp-gamma", "default")
STEPS, IMAGES, DELETED = 600, 96, 33


def trained(activation: Callable[[], nn.Module], x: torch.Tensor, y: torch.Tensor) -> nn.Sequential:
    """A perceptron 64-48-48-48-10."""
    torch.default_generator.manual_seed(0)
    hidden = [layer for wide in (64, 48, 48) for layer in (nn.Linear(wide, 48), activation())]
    module = nn.Sequential(*hidden, nn.Linear(48, 10))
    optimiser = torch.optim.Adam(module.parameters(), 3e-3)
    for _ in range(STEPS):
        optimiser.zero_grad()
        nn.functional.cross_entropy(module(x), y).backward()
        optimiser.step()
    return module.eval()


def deletion(module: nn.Module, x: np.ndarray, R: np.ndarray, classes: np.ndarray) -> float:
    """Area between deleting pixels in ascending and in descending order of relevance, in probability."""

    def area(order: np.ndarray) -> float:
        left, found = x.copy(), []
        for step in range(DELETED):
            with torch.no_grad():
                probabilities = module(torch.tensor(left)).softmax(1).numpy()
            found.append(probabilities[np.arange(len(x)), classes].mean())
            left[np.arange(len(x)), order[:, step]] = 0
        return float(np.mean(found))

    descending = np.argsort(-R, axis=1)
    return area(descending[:, ::-1]) - area(descending)


def rows(name: str) -> Iterator[str]:
    """The lines of one activation."""
    x, y = load_digits(return_X_y=True)
    x, held = (x / 16).astype(np.float32), np.arange(len(x)) % 3 == 0
    module = trained(ACTIVATIONS[name], torch.tensor(x[~held]), torch.tensor(y[~held]))
    with torch.no_grad():
        logits = module(torch.tensor(x[held])).numpy()
    yield f"{name}: accuracy {(logits.argmax(1) == y[held]).mean():.3f}"
    images, logits = x[held][:IMAGES], logits[:IMAGES]
    for base in MODES:
        offset = composite(f"{base} from zero", [(Selector(op=name), FROM_ZERO)], base=base)
        for chosen in (find_mode(base), offset):
            yield f"  {chosen.name}: {measured(module, images, logits, chosen)}"


def measured(module: nn.Module, x: np.ndarray, logits: np.ndarray, mode: Mode) -> str:
    """Σ|R| relative to the logit, and deletion."""
    explanation = explain(module, x, mode=mode, scaler=None, task="multi-class classification")
    (R,) = explanation.relevance.values()
    size = np.abs(R).sum(1) / np.abs(logits.max(1))
    area = deletion(module, x, R, logits.argmax(1))
    return f"sum |R| median {np.median(size):.3g}, largest {size.max():.3g}, ABPC {area:.3f}"


if __name__ == "__main__":
    for name in sys.argv[1:] or ACTIVATIONS:
        print(*rows(name), sep="\n", flush=True)
