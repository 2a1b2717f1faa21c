"""Two small models that are shipped with the library, explained: digits and tumours.

Both were trained by `make_models.py`, on data that comes with scikit-learn; the demo itself needs neither scikit-learn
nor torch, only matplotlib, for the pictures.
"""

from __future__ import annotations

from pathlib import Path

from backtrace_jax import explain
from backtrace_jax.errors import SettingError
from backtrace_jax.explanation.explanation import Explanation

from .samples import Sample, sample

__all__ = ["Sample", "run", "sample"]
from backtrace_jax.explanation import pictures, terminal


def run(out: Path = Path("backtrace-jax-demo")) -> None:
    """Explain both models, print one example of each, and draw pictures into a folder, which is made if need be.

    Args:
        out: The folder for `digits.png` and `breast_cancer.png`.

    Raises:
        SettingError: The folder cannot be made.
        MissingDependencyError: matplotlib is not installed.
    """
    from . import drawing  # which needs matplotlib

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
