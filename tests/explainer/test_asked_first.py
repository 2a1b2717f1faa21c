"""What is wrong with a question is said before XLA compiles anything, whatever kind of model is asked."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import pytest
from jax import monitoring
from torch import nn

from backtrace_jax import BacktraceError, explain
from backtrace_jax.importers import proof
from tests.tiny import TensorProto, convolutional, images, network, node, random

os.environ.setdefault("KERAS_BACKEND", "jax")

COMPILED = "/jax/core/compile/backend_compile_duration"


@pytest.fixture(scope="module")
def compilations() -> Iterator[Callable[[], int]]:
    """How often XLA has compiled so far: ours, Keras', and operations that JAX compiles when they are called."""
    seen: list[float] = []

    def heard(event: str, seconds: float, **_: Any) -> None:
        if event == COMPILED:
            seen.append(seconds)

    monitoring.register_event_duration_secs_listener(heard)
    yield lambda: len(seen)
    monitoring.unregister_event_duration_listener(heard)


@dataclass(frozen=True)
class Subject:
    """A model of five classes, inputs for it, the name of a value inside it, and whether it takes any numbers."""

    model: Any
    inputs: np.ndarray
    inner: str
    converts: bool = False


def cnn() -> Subject:
    return Subject(convolutional(["y"]), images(), "hidden")


def transformer() -> Subject:
    """Attention over ids of any number, with positions, a causal mask and a mean worked out of the shape."""
    nodes = [
        node("Gather", ["table", "ids"], ["embedded"]),
        node("Shape", ["ids"], ["shape"]),
        node("Gather", ["shape", "one"], ["length"]),
        node("Range", ["zero", "length", "one"], ["places"]),
        node("Gather", ["positions", "places"], ["position"]),
        node("Add", ["embedded", "position"], ["x"]),
        node("Unsqueeze", ["places", "first"], ["row"]),
        node("Unsqueeze", ["places", "second"], ["column"]),
        node("Greater", ["row", "column"], ["later"]),
        node("Where", ["later", "never", "always"], ["mask"]),
        node("Unsqueeze", ["length", "first"], ["size"]),
        node("Concat", ["size", "size"], ["square"], axis=0),
        node("Expand", ["mask", "square"], ["whole"]),
        node("Transpose", ["x"], ["turned"], perm=[0, 2, 1]),
        node("MatMul", ["x", "turned"], ["scores"]),
        node("Add", ["scores", "whole"], ["masked"]),
        node("Softmax", ["masked"], ["shares"], axis=-1),
        node("MatMul", ["shares", "x"], ["attended"]),
        node("ReduceSum", ["attended", "second"], ["sum"], keepdims=0),
        node("Cast", ["length"], ["count"], to=TensorProto.FLOAT),
        node("Div", ["sum", "count"], ["mean"]),
        node("MatMul", ["mean", "head"], ["y"]),
    ]
    constants = {"zero": np.int64(0), "one": np.int64(1), "first": np.array([0]), "second": np.array([1])}
    weights = {"table": random(7, 4), "positions": random(9, 4, seed=1), "head": random(4, 5, seed=2)}
    masks = {"never": np.float32(-1e4), "always": np.float32(0)}
    model = network(nodes, {"ids": (TensorProto.INT64, ["batch", "length"])}, **constants, **weights, **masks)
    return Subject(model, np.array([[1, 2, 3, 4], [6, 5, 4, 0], [0, 1, 0, 1]]), "attended")


def module() -> Subject:
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5))
    return Subject(net.eval(), images(), "0")


def keras_model() -> Subject:
    with warnings.catch_warnings(), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        warnings.simplefilter("ignore")
        keras = pytest.importorskip("keras")
        L = keras.layers
        parts = [L.Input((5, 5, 2)), L.Conv2D(4, 3, activation="relu", name="hidden"), L.Flatten(), L.Dense(5)]
        return Subject(keras.Sequential(parts), images().transpose(0, 2, 3, 1), "hidden", converts=True)


SUBJECTS = {"cnn": cnn, "transformer": transformer, "module": module, "keras": keras_model}

QUESTIONS: dict[str, dict[str, Any]] = {
    "target out of range": {"target": 5},
    "target below the range": {"target": -6},
    "target of another length": {"target": [1, 2]},
    "one-hot target": {"target": np.eye(5)[:3]},
    "target of floats": {"target": 1.5},
    "ragged target": {"target": [[1], [2, 3], [4]]},
    "target as a tuple of two": {"target": (1, 2)},
    "target as text": {"target": "cat"},
    "against the target": {"target": 1, "against": 1},
    "against out of range": {"target": 1, "against": 7},
    "against without classes": {"task": "tabular-regression", "against": 1},
    "position": {"position": 2},
    "position of a sequence that is none": {"task": "token-classification", "position": 9},
    "start of another shape": {"start": np.ones((3, 4), np.float32)},
    "start of NaN": {"start": np.full((3, 5), np.nan)},
    "start and target": {"start": np.ones((3, 5)), "target": 1},
    "start of two arguments": {"start": lambda outputs, more: outputs},
    "task": {"task": "poetry"},
    "task that does not fit": {"task": "binary-segmentation"},
    "scaler": {"scaler": 0.0},
    "scaler beyond the range": {"scaler": 1e300},
    "thresholding": {"thresholding": 0.7},
    "thresholding that is no number": {"thresholding": np.inf},
    "class_axis": {"class_axis": 4},
    "baseline of a mode that has none": {"baseline": "zero", "mode": "lrp-epsilon"},
    "baseline of another shape": {"baseline": np.ones((2, 2), np.float32), "mode": "integrated-gradients"},
    "baseline of another name": {"baseline": {"nope": 0}, "mode": "integrated-gradients"},
    "baseline of NaN": {"baseline": {"": np.nan}, "mode": "integrated-gradients"},
    "conditions without names": {"conditions": [1, 2]},
    "condition on nothing": {"conditions": {"nope": [1]}},
    "condition on a channel that there is not": {"conditions": {"": [99]}},
    "condition of another shape": {"conditions": {"": np.ones((3, 1, 7, 9, 2))}},
    "condition beyond 1": {"conditions": {"": np.full((1,), 2.0)}},
    "layers": {"layers": ["nope"]},
    "layers of a mode that has none": {"layers": [""], "mode": "integrated-gradients"},
    "output": {"output": "nope"},
    "output by number": {"output": 3},
    "wrt": {"wrt": ["nope"]},
    "wrt nothing": {"wrt": []},
    "mode": {"mode": "poetry"},
    "dtype": {"dtype": "float8"},
    "precision": {"precision": "low"},
    "chunk": {"chunk": 3},
    "chunk beyond memory": {"chunk": 2**20},
    "batch_axis": {"batch_axis": 7},
    "batch_axis of text": {"batch_axis": "first"},
    "prove": {"prove": "never"},
    "progress": {"progress": 3},
    "argument that does not exist": {"targets": 3},
}


def asked(subject: Subject, question: dict[str, Any]) -> dict[str, Any]:
    """A question with the names of this model in place of the empty one."""
    named = {"conditions": subject.inner, "layers": subject.inner, "baseline": "x"}
    found = dict(question)
    for key, name in named.items():
        given = found.get(key)
        if isinstance(given, dict):
            found[key] = {name if each == "" else each: value for each, value in given.items()}
        if isinstance(given, list):
            found[key] = [name if each == "" else each for each in given]
    return found


def wrong_inputs(subject: Subject) -> dict[str, Any]:
    x = subject.inputs
    broken = x.astype(np.float32)
    broken[0, 0] = np.nan
    return {
        "no batch": x[0],
        "an axis too many": x[None],
        "no example": x[:0],
        "of text": np.full(x.shape, "a"),
        "complex": x.astype(np.complex64),
        "of another type": None if subject.converts else x > 0,
        "of objects": x.astype(object),
        "NaN": broken,
        "None": None,
        "of another name": {"nope": x},
        "two": (x, x),
        "another width": np.concatenate([x, x], axis=-1) if x.ndim > 2 else x[:, :, None],
        "ids beyond the table": x + 7 if x.dtype.kind == "i" else x[:, :0],
    }


@pytest.mark.parametrize("kind", SUBJECTS)
def test_nothing_is_compiled_before_a_question_is_understood(kind, compilations, monkeypatch):
    """Then the question is answered, and nothing but the explanation is compiled of ours: no forward pass beside it."""
    subject, before = SUBJECTS[kind](), compilations()
    calls = [(name, subject.inputs, asked(subject, question)) for name, question in QUESTIONS.items()]
    calls += [(f"inputs {name}", wrong, {}) for name, wrong in wrong_inputs(subject).items()]
    for name, inputs, question in calls:
        with pytest.raises(BacktraceError):
            print(name, explain(subject.model, inputs, **question))
        assert compilations() == before, name
    monkeypatch.setattr(proof, "compile_forward", None)
    explain(subject.model, subject.inputs, target=1)
    assert compilations() > before
