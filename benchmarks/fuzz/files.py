"""Writes the archives that mutations start from: saved explanations and Keras files, small ones.

    python -m benchmarks.fuzz.files

They are stored, since what Keras writes differs from run to run, and a mutation is to be the same wherever it is made.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "files"


def write_explanations() -> None:
    """Explanations in the forms that differ in what they hold: one channel, two, and none that is conserved."""
    from backtrace_jax import explain

    from .corpus import corpus

    path = FOLDER / "model.onnx"
    path.write_bytes(corpus(full=False)["handmade/dense"])
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
    for mode in ("default", "contrastive", "gradient"):
        explain(path, x, mode=mode, layers="all" if mode == "default" else None).save(FOLDER / f"{mode}.npz")
    path.unlink()


def write_models() -> None:
    """Keras models of layers of several kinds, in both formats."""
    import keras

    layers = keras.layers
    dense = keras.Sequential([layers.Input((4,)), layers.Dense(3, activation="relu"), layers.Dense(2)])
    picture = layers.Input((4, 4, 1))
    spatial = layers.Flatten()(layers.MaxPooling2D()(layers.Conv2D(2, 3, padding="same")(picture)))
    recurrent = [layers.Input((3,), dtype="int32"), layers.Embedding(5, 2), layers.LSTM(2), layers.Dense(1)]
    models = {"dense": dense, "spatial": keras.Model(picture, spatial), "recurrent": keras.Sequential(recurrent)}
    for name, model in models.items():
        model.save(FOLDER / f"{name}.keras")
    dense.save(FOLDER / "dense.h5")


if __name__ == "__main__":
    os.environ.setdefault("KERAS_BACKEND", "jax")
    FOLDER.mkdir(exist_ok=True)
    write_explanations()
    write_models()
