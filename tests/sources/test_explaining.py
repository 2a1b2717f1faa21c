"""Sources explained: the relevance of an example is the same whatever it is read from."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from onnx import TensorProto
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from backtrace_jax import Explainer, InputError, SettingError, explain, explain_dataset
from backtrace_jax.datasets import job
from tests import tiny
from tests.sources.test_texts import IDS, TEXTS, tokenizer

COUNT = 20
X = tiny.random(COUNT, 3)
LABELS = np.arange(COUNT) % 2
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 5, 5, 3), np.uint8)
LONG, FLOAT = TensorProto.INT64, TensorProto.FLOAT


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(job, "block_size", lambda size, flops: 8)


@pytest.fixture(scope="module")
def rows():
    nodes = [
        tiny.node("Gemm", ["x", "w"], ["h"]),
        tiny.node("Relu", ["h"], ["a"]),
        tiny.node("Gemm", ["a", "v"], ["y"]),
    ]
    return Explainer(tiny.network(nodes, {"x": (FLOAT, ["n", 3])}, w=tiny.random(3, 4), v=tiny.random(4, 2, seed=1)))


@pytest.fixture(scope="module")
def texts():
    """The mean of embeddings of tokens that are not padding, and two classes."""
    nodes = [
        tiny.node("Gather", ["table", "input_ids"], ["e"]),
        tiny.node("Cast", ["attention_mask"], ["m"], to=FLOAT),
        tiny.node("Unsqueeze", ["m", "last"], ["mm"]),
        tiny.node("Mul", ["e", "mm"], ["kept"]),
        tiny.node("ReduceSum", ["kept", "one"], ["s"], keepdims=0),
        tiny.node("Gemm", ["s", "v"], ["y"]),
    ]
    takes = dict.fromkeys(("input_ids", "attention_mask"), (LONG, ["n", "length"]))
    table, last, one = tiny.random(54, 4), np.array([2]), np.array([1])
    return Explainer(tiny.network(nodes, takes, table=table, last=last, one=one, v=tiny.random(4, 2, seed=1)))


def frame():
    return pd.DataFrame(X, columns=["a", "b", "c"]).assign(label=LABELS)


def parquet(folder):
    frame().to_parquet(folder / "rows.parquet")
    return folder / "rows.parquet"


KINDS = {
    "frame": lambda folder: frame(),
    "parquet": parquet,
    "loader": lambda folder: DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(LABELS)), batch_size=3),
    "dataset": lambda folder: TensorDataset(torch.from_numpy(X), torch.from_numpy(LABELS)),
    "generator": lambda folder: ((X[n : n + 6], LABELS[n : n + 6]) for n in range(0, COUNT, 6)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_relevance_is_that_of_the_array(tmp_path, rows, kind):
    expected = rows(X, target=LABELS)
    run = explain_dataset(rows, KINDS[kind](tmp_path), tmp_path / "store", carry=("label",), target="label")
    found = run.open()
    assert found["relevance.x"].values.tobytes() == expected.relevance["x"].tobytes()
    assert found["carried.label"].values.tolist() == LABELS.tolist()
    assert pickle.loads(pickle.dumps(run))[7].relevance["x"].tobytes() == expected.relevance["x"][7:8].tobytes()
    streamed = [*rows.stream(KINDS[kind](tmp_path), carry=("label",), target="label", batch=7)]
    assert b"".join(each.relevance["x"].tobytes() for each in streamed) == expected.relevance["x"].tobytes()


def test_texts_are_explained_in_their_lengths(tmp_path, texts):
    run = explain_dataset(texts, TEXTS, tmp_path / "store", tokenizer=tokenizer(), lengths=(8, 32))
    found = run.open()
    for n, ids in enumerate(IDS):
        size = next(m for m in (8, 32) if m >= len(ids))
        row, mask = np.zeros((1, size), np.int64), np.zeros((1, size), np.int64)
        row[0, : len(ids)], mask[0, : len(ids)] = ids, 1
        expected = texts({"input_ids": row, "attention_mask": mask}).relevance["input_ids"]
        assert run[n].relevance["input_ids"].tobytes() == expected.tobytes()
        assert found["inputs.input_ids"].values[n, : len(ids)].tolist() == ids
        assert not found["relevance.input_ids"].values[n, len(ids) :].any()
    assert found["carried.tokens_cut"].values.tolist() == [0] * len(TEXTS)


def test_a_picture_that_cannot_be_read_does_not_stop_the_others(tmp_path):
    for n, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(tmp_path / f"{n}.png")
    (tmp_path / "2.png").write_bytes(b"no picture")
    nodes = [tiny.node("Flatten", ["x"], ["f"]), tiny.node("Gemm", ["f", "w"], ["y"])]
    model = tiny.network(nodes, {"x": (FLOAT, ["n", 3, 5, 5])}, w=tiny.random(75, 2))
    run = explain_dataset(model, tmp_path, tmp_path / "store.zarr", mean=0.5, std=0.25)
    assert run.status.tolist() == [1, 1, 2, 1, 1]
    assert "2.png' is not a picture" in run.failed[2]
    images = (np.moveaxis(PIXELS[:2], -1, 1).astype(np.float32) / 255 - np.float32(0.5)) / np.float32(0.25)
    expected = explain(model, images, ledger="total")
    assert run.open()["relevance.x"].values[:2].tobytes() == expected.relevance["x"].tobytes()
    with pytest.raises(InputError, match=r"example 2 cannot be read: .*2\.png"):
        [*Explainer(model).stream(tmp_path, mean=0.5, std=0.25)]


def test_a_module_is_traced_with_the_first_example(tmp_path):
    torch.manual_seed(0)
    module = torch.nn.Linear(3, 2)
    run = explain_dataset(module, KINDS["loader"](tmp_path), tmp_path / "store", carry=("label",), prove="first")
    expected = explain(module, torch.from_numpy(X))
    assert run.open()["relevance.input"].values.tobytes() == expected.relevance["input"].tobytes()


def test_a_loader_that_shuffles_is_streamed_but_not_stored(tmp_path, rows):
    loader = DataLoader(TensorDataset(torch.from_numpy(X)), batch_size=5, shuffle=True)
    assert sum(len(each.inputs["x"]) for each in rows.stream(loader)) == COUNT
    with pytest.raises(SettingError, match=r"shuffles.*shuffle=False"):
        explain_dataset(rows, loader, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_loader_is_sent_to_where_it_is_explained(rows):
    with pytest.raises(InputError, match="explain_dataset"):
        rows(DataLoader(TensorDataset(torch.from_numpy(X)), batch_size=3))
