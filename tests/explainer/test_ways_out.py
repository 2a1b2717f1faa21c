"""No message advises what was done already: each mistake is made with the very setting that helps others out of it."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest

from backtrace_jax import BacktraceError, RelevanceWarning, explain, mode
from backtrace_jax.cli.main import main
from backtrace_jax.runtime.numerics import within_memory
from tests.tiny import TensorProto, convolutional, images, network, node, random

FLOAT, DOUBLE = TensorProto.FLOAT, TensorProto.DOUBLE
ONE = np.ones((3, 2), np.float32)


def dense(*weights, dims=("batch", 2)):
    K = np.array(weights, np.float32)[:, None]
    return network([node("MatMul", ["x", "K"], ["y"])], {"x": (FLOAT, dims)}, K=K)


def two_inputs():
    return network([node("Add", ["a", "b"], ["y"])], {name: (FLOAT, ["batch", "n"]) for name in "ab"})


def passing(*dims):
    return network([node("Tanh", ["x"], ["y"])], {"x": (FLOAT, dims)})


def vanishing():
    """Doubles whose products are too small for their range."""
    nodes = [node("MatMul", ["x", "K"], ["h"]), node("Tanh", ["h"], ["y"])]
    return network(nodes, {"x": (DOUBLE, ["batch", 2])}, K=np.array([[1e-200], [2e-200]]))


def out_of_memory():
    with within_memory(1):
        raise MemoryError


def lacks_batch():
    torch = pytest.importorskip("torch")
    return explain(torch.nn.Linear(3, 2), torch.zeros(4, 0, 3), batch_axis=1)


MASKED = np.zeros((2, 2, 2, 2), np.float32) + np.array([1, 0], np.float32)[:, None, None]

DONE = {
    "no batch, in inputs": (
        lambda: explain(passing("batch", 6), np.zeros(6, np.float32), batch_axis=None),
        "shape [6], the model takes x: float32 [?, 6]; the batch axis is missing: x[None]",
        "batch_axis",
    ),
    "no batch, several axes": (
        lambda: explain(passing("batch", 1, 8, 8), np.zeros((8, 8), np.float32), batch_axis=None),
        "x[None, None]",
        "batch_axis",
    ),
    "a batch behind": (
        lambda: explain(passing(5, "batch", 3), np.zeros((4, 2, 3), np.float32), batch_axis=1),
        "shape [4, 2, 3], the model takes x: float32 [5, ?, 3]",
        r"batch_axis|x\[",
    ),
    "the axis of an input": (
        lambda: explain(two_inputs(), (random(2, 3), random(3, 4)), batch_axis={"b": 1}),
        "batch_axis={'b': 0}, batch_axis={'b': None}",
        r"'b': 1",
    ),
    "the second axis of all": (
        lambda: explain(two_inputs(), (random(2, 3), random(2, 4)), batch_axis=1),
        "batch_axis={'b': 0}, batch_axis={'b': None}",
        r"'b': 1",
    ),
    "a batch of a module": (lacks_batch, "no batch along axis 1", "first axis"),
    "a calm mode": (
        lambda: explain(dense(1001.0, -1000.0), ONE, mode=mode("lrp-gamma", gamma=1e-9)),
        "try mode 'default'",
        "lrp-gamma",
    ),
    "a mode without epsilon": (
        lambda: explain(dense(1001.0, -1000.0), ONE, mode="lrp-zero"),
        "try mode 'default' or 'lrp-gamma'",
        "epsilon",
    ),
    "double precision, stabilised": (
        lambda: explain(dense(0.5, 0.5), ONE, mode=mode("lrp-epsilon", epsilon=1.0), dtype="float64"),
        "try a smaller epsilon",
        "float64",
    ),
    "double precision, beyond its range": (
        lambda: explain(vanishing(), np.full((1, 2), 1e-200), dtype="float64"),
        "scale the model or its inputs",
        "dtype=",
    ),
    "a regression": (
        lambda: explain(passing("batch", 2, 3), random(1, 2, 3), task="regression", target=1),
        "target=(0..1, 0..2), or pass another task=: 'next-token'",
        "'regression'",
    ),
    "a target": (
        lambda: explain(
            passing("batch", 2, 2, 2), MASKED, task="multi-class-segmentation", class_axis=1, target=1, against=0
        ),
        "choose another target",
        "target= as well",
    ),
    "bias ignored": (
        lambda: explain(convolutional(), np.zeros_like(images()), mode=mode("lrp-epsilon", bias="ignore")),
        "only 0 %",
        "bias=",
    ),
    "chunks of one": (out_of_memory, "smaller examples", "chunk"),
}


@pytest.mark.parametrize("name", DONE)
def test_what_was_done_is_not_advised(name):
    call, words, done = DONE[name]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RelevanceWarning)
        try:
            call()
        except BacktraceError as error:
            said = str(error)
        else:
            said = " ".join(str(each.message) for each in caught)
    assert words in said, said
    assert not re.search(done, said), said
    assert len(said) <= 300


def test_the_command_line_does_not_either(tmp_path, monkeypatch, capsys):
    def fail(*arguments, **settings):
        raise MemoryError

    monkeypatch.setattr("backtrace_jax.explain", fail)
    (tmp_path / "m.onnx").write_bytes(dense(0.5, 0.5).SerializeToString())
    np.save(tmp_path / "x.npy", ONE)
    for more, way in (([], "--chunk 1"), (["--chunk=1"], "smaller examples")):
        assert main(["explain", str(tmp_path / "m.onnx"), str(tmp_path / "x.npy"), *more]) == 1
        assert capsys.readouterr().err.endswith(f"{way}\n")
