"""The same weights get the same relevance, whichever library holds them.

Relevance is that of the first unit, in float64 and operation by operation, of what is explained of each. Graphs that
differ in names and order alone need no comparison.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from backtrace_jax.ir import Program
from tests.importers.keras_zoo import as_keras_runs
from tests.spellings.comparing import alike, relevance

from . import twins_keras, twins_linen, twins_nnx, twins_torch
from .same_weights import Arrays, explained, exported, linen_twin, nnx_twin

MODES = ("default", "lrp-epsilon-plus", "attnlrp")
TOLERANCE = 1e-4
_NUMBERS = np.random.default_rng(11)


def image(channels: int, size: int) -> np.ndarray:
    return _NUMBERS.normal(size=(1, channels, size, size)).astype(np.float32)


def tokens() -> np.ndarray:
    return np.array([[3, 5, 2, 9, 7]])


INPUTS = {
    "LeNet": (image(1, 16),),
    "ResNet": (image(3, 16),),
    "ViT": (image(3, 8),),
    "Bert": (tokens(), np.array([[1, 1, 1, 1, 0]]), np.array([[0, 0, 1, 1, 1]])),
    "Llama": (tokens(),),
    "Lstm": (_NUMBERS.normal(size=(1, 6, 4)).astype(np.float32),),
}


@cache
def source(name: str) -> Any:
    return twins_torch.drawn(getattr(twins_torch, name)())


def last(array: np.ndarray) -> np.ndarray:
    """Pictures with their channels last, as Flax and Keras have them."""
    return np.moveaxis(array, 1, -1) if array.ndim == 4 else array


def from_onnx(name: str) -> Any:
    return explained(exported(source(name), INPUTS[name]), INPUTS[name])


def from_keras(name: str) -> Any:
    with as_keras_runs():
        return explained(twins_keras.BUILT[name](source(name)), tuple(map(last, INPUTS[name])))


def from_linen(name: str) -> Any:
    return explained(linen_twin(getattr(twins_linen, name)(), source(name)), tuple(map(last, INPUTS[name])))


def from_nnx(name: str) -> Any:
    return explained(nnx_twin(getattr(twins_nnx, name), source(name)), tuple(map(last, INPUTS[name])))


ROADS = {
    "onnx": (from_onnx, [name for name in INPUTS if name != "Llama"]),  # this exporter has no RMS norm
    "keras": (from_keras, twins_keras.BUILT),
    "linen": (from_linen, INPUTS),
    "nnx": (from_nnx, ("LeNet", "ViT", "Llama")),
}
"""How a network is read, and which ones."""


@cache
def wanted(name: str) -> tuple[Program, Arrays]:
    return explained(source(name), INPUTS[name])


@cache
def wanted_relevance(name: str, mode: str) -> list[np.ndarray]:
    return [last(each) for each in relevance(*wanted(name), mode).values()]


@pytest.mark.parametrize(
    ("name", "road"), [(name, road) for name in INPUTS for road in ROADS if name in ROADS[road][1]]
)
def test_every_library_gets_the_relevance_that_torch_gets(name, road):
    program, inputs = ROADS[road][0](name)
    if alike(program, wanted(name)[0]):
        return
    for mode in MODES:
        expected = wanted_relevance(name, mode)
        found = [last(each) if road == "onnx" else each for each in relevance(program, inputs, mode).values()]
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert np.abs(other).max() > 1e-5
            np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE * np.abs(other).max(), err_msg=mode)
