"""The networks' weights and an example for each, the same in every environment."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

ARCHIVE = Path(__file__).with_name("weights.npz")
HEADS, WIDTH, LENGTH, WORDS = 2, 8, 5, 11
SHAPES = {
    "mlp": (1, 6),
    "resnet": (1, 8, 8, 2),
    "series": (1, 12, 3),
    "mobile": (1, 6, 6, 2),
    "convnext": (1, 6, 6, 2),
    "unet": (1, 8, 8, 1),
    "lstm": (1, 6, 4),
    "gru": (1, 6, 4),
    "bert": (1, LENGTH),
    "gpt": (1, LENGTH),
    "llama": (1, LENGTH),
    "vit": (1, 4, 4, 1),
}
"""Each network and the shape of one example; pictures and series come channels last."""
OVER_TOKENS = ("bert", "gpt", "llama")


@cache
def weights_of(name: str) -> dict[str, np.ndarray]:
    """Weights of a network by their names in torch."""
    with np.load(ARCHIVE) as archive:
        return {key.partition("/")[2]: archive[key] for key in archive.files if key.startswith(f"{name}/")}


def example(name: str) -> np.ndarray:
    """Numbers of both signs, or token ids."""
    generator = np.random.default_rng(0)
    if name in OVER_TOKENS:
        return generator.integers(0, WORDS, SHAPES[name])
    return generator.normal(size=SHAPES[name]).astype(np.float32)


def angles() -> np.ndarray:
    """By how much rotary attention turns each pair of entries at each place."""
    half = WIDTH // HEADS // 2
    return np.tile(np.outer(np.arange(LENGTH), 10.0 ** -np.arange(half)), 2).astype(np.float32)


def recorded(name: str, exporter: str) -> Path:
    """Where the file lies that an exporter of another environment made of a network."""
    return ARCHIVE.parent / "recorded" / f"{name}.{exporter}.onnx"
