"""The last open version of DLBacktrace, on the same network built in Keras, channels last; one example at a time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from dl_backtrace.tf_backtrace import Backtrace
from tensorflow import keras

from ..stored import Stored
from . import CONTESTANTS, Prepared

TASK = "multi-class-classification"


def digits(weights: Mapping[str, np.ndarray]) -> keras.Model:
    """`networks.Digits` with its weights as Keras lays them out."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10),
        ]
    )
    kernels = [weights[f"conv{number}.weight"].transpose(2, 3, 1, 0) for number in (1, 2)]
    first = weights["fc1.weight"].reshape(64, 32, 2, 2).transpose(2, 3, 1, 0).reshape(128, 64)
    kernels += [first, weights["fc2.weight"].T]
    biases = [weights[f"{name}.bias"] for name in ("conv1", "conv2", "fc1", "fc2")]
    model.set_weights([array for pair in zip(kernels, biases, strict=True) for array in pair])
    return model


def prepare(stored: Stored, batch: int, mode: str, device: str) -> Prepared:
    """A call traces the values of the example, and then relevance."""
    with stored.weights() as weights:
        tracer = Backtrace(model=digits(weights))
    (images,) = stored.inputs(batch).values()
    images = images.transpose(0, 2, 3, 1)
    named = CONTESTANTS["dl-backtrace-0.0.24"].modes[mode]
    settings = {"mode": named, "scaler": 1.0, "multiplier": 1.0, "task": TASK}
    return Prepared(lambda: tracer.eval(tracer.predict(images), **settings))
