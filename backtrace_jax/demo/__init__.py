"""Two small models that are shipped with the library, explained: digits and tumours.

Both were trained by `make_models.py`, on data that comes with scikit-learn; the demo itself needs neither scikit-learn
nor torch, only matplotlib, for the pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import explain
from ..errors import SettingError
from ..explanation import Explanation
from ..report import pictures, terminal

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


def run(out: Path = Path("backtrace-jax-demo")) -> None:
    """Explain both models, print one example of each, and draw pictures into a folder, which is made if need be.

    Args:
        out: The folder for `digits.png` and `breast_cancer.png`.

    Raises:
        SettingError: The folder cannot be made.
        MissingDependencyError: matplotlib is not installed.
    """
    from . import drawing

    _make(out)
    for title, name, draw in (
        ("Handwritten digits: a convolutional network", "digits", drawing.digits),
        ("Breast cancer: a perceptron on 30 measurements", "breast_cancer", drawing.tumours),
    ):
        known = sample(name)
        explanation = explain(known.model, known.inputs)
        print(f"{title}\n\n{_text(explanation, known)}\n")
        pictures.save(draw(explanation, known), out / f"{name}.png")
        print(f"picture      {out / name}.png\n")


def _text(explanation: Explanation, known: Sample) -> str:
    right = int((explanation.outputs["logits"].argmax(axis=1) == known.labels).sum())
    score = f"right        {right} of {len(known.labels)}"
    one = terminal.summary(
        explanation, 0, feature_names=known.feature_names, class_names=known.class_names, label=int(known.labels[0])
    )
    return f"{terminal.batch(explanation)}\n{score}\n\n{one}"


def _make(folder: Path) -> None:
    pictures.require_matplotlib()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError(f"cannot make the folder '{folder}': {error.strerror or error}; choose another") from error
