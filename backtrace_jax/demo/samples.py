"""The demo's models and their held-out examples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Sample:
    """One demo model, its held-out examples, and what is known about them.

    Attributes:
        model: Path of the ONNX file.
        inputs: The examples, batch first.
        labels: [batch], the true classes.
        class_names: Name of every class.
        feature_names: Name of every input value; None for pictures.
    """

    model: Path
    inputs: np.ndarray
    labels: np.ndarray
    class_names: list[str]
    feature_names: list[str] | None


def sample(name: str) -> Sample:
    """Read a demo model: `digits` or `breast_cancer`."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        arrays = dict(file.items())
    features = arrays["feature_names"].tolist() if "feature_names" in arrays else None
    inputs = arrays["image"] if features is None else arrays["features"]
    return Sample(FOLDER / f"{name}.onnx", inputs, arrays["label"], arrays["class_names"].tolist(), features)
