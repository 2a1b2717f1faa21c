"""Examples of several lengths, examples without an answer, modules: what differs from one example to the next."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from onnx import TensorProto

from backtrace_jax import Explainer, InputError, SettingError, UnsupportedError, explain, explain_dataset
from backtrace_jax.datasets import job
from backtrace_jax.sources import Examples, Group, Schema
from tests.tiny import convolutional, network, node, random

IDS = np.random.default_rng(0).integers(0, 9, (20, 6))


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(job, "block_size", lambda size, flops: 8)


def texts():
    """A score of each token, and their sum."""
    return network(
        [
            node("Gather", ["table", "ids"], ["rows"]),
            node("MatMul", ["rows", "w"], ["scores"]),
            node("ReduceSum", ["scores", "axes"], ["y"], keepdims=0),
        ],
        {"ids": (TensorProto.INT64, ["batch", "tokens"])},
        ("y", "scores"),
        table=random(9, 4),
        w=random(4, 3, seed=1),
        axes=np.int64([1]),
    )


class Texts:
    """Texts of 6 and of 3 tokens, in turn."""

    schema = Schema({"ids": ((6,), "int64")}, kept={"ids": None}, lengths=(3, 6), identity={"kind": "texts"})
    count = 20

    def read(self, first, last):
        places = np.arange(last - first)
        short = (first + places) % 2 == 1
        groups = [Group(places[~short], {"ids": IDS[first:last][~short]})]
        groups += [Group(places[short], {"ids": IDS[first:last][short, :3]})] if short.any() else []
        return Examples(last - first, tuple(groups))

    def stream(self):
        raise AssertionError


def test_texts_of_two_lengths(tmp_path):
    run = explain_dataset(texts(), Texts(), tmp_path / "store")
    assert run.finished
    for index, length in ((4, 6), (13, 3)):
        found, expected = run[index], explain(texts(), IDS[index : index + 1, :length], ledger="total")
        assert found.relevance["ids"].tobytes() == expected.relevance["ids"].tobytes()
        assert found.inputs["ids"].tobytes() == expected.inputs["ids"].tobytes()
        assert found.outputs["scores"].tobytes() == expected.outputs["scores"].tobytes()
        assert found.ledger.signed.tobytes() == expected.ledger.signed.tobytes()
    stored = run.open()
    assert stored["relevance.ids"].shape == (20, 6)
    assert stored["length.relevance.ids"].values[:, 0].tolist() == [6, 3] * 10
    assert not stored["relevance.ids"].values[1::2, 3:].any()


def logarithm():
    return network(
        [node("Log", ["x"], ["l"]), node("Gemm", ["l", "w"], ["y"])],
        {"x": (TensorProto.FLOAT, ["batch", 3])},
        w=random(3, 4),
    )


def test_examples_without_an_answer_are_bad_ones(tmp_path):
    x = np.random.default_rng(0).uniform(1, 2, (20, 3)).astype(np.float32)
    good = explain_dataset(logarithm(), x, tmp_path / "good", mode="gradient")
    x[[0, 5, 6, 19], 1] = -1
    run = explain_dataset(logarithm(), x, tmp_path / "store", mode="gradient")
    assert [*run.failed] == [0, 5, 6, 19]
    assert "output 'y' is NaN or Inf on these inputs, first in node" in run.failed[6]
    assert run[7].relevance["x"].tobytes() == good[7].relevance["x"].tobytes()
    x[:] = -1
    with pytest.raises(Exception, match="output 'y' is NaN or Inf"):
        explain_dataset(logarithm(), x, tmp_path / "none", mode="gradient")
    assert not (tmp_path / "none").exists()


def test_a_class_that_does_not_exist_is_a_bad_example(tmp_path):
    x = random(10, 2, 5, 5)
    source = {"x": x, "label": np.int64([0, 1, 2, 3, 7, 0, 0, 0, 0, 0])}
    run = explain_dataset(convolutional(), source, tmp_path / "store", target="label")
    assert [*run.failed] == [4]
    assert "target 7 is out of range" in run.failed[4]


def test_a_stream_of_explanations():
    x = random(10, 2, 5, 5)
    explainer = Explainer(convolutional())
    found = [*explainer.stream(x, batch=4, target=np.arange(10) % 5)]
    assert [len(each) for each in found] == [4, 4, 2]
    expected = explainer(x, target=np.arange(10) % 5)
    assert np.concatenate([each.relevance["x"] for each in found]).tobytes() == expected.relevance["x"].tobytes()
    x[7, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match="example 7: input 'x' has nan"):
        [*explainer.stream(x, batch=4)]
    assert [len(each) for each in explainer.stream(x, batch=4, on_error="record")] == [4, 3, 2]
    for batch in (0, -1):
        with pytest.raises(SettingError, match="batch is a number of examples from 1"):
            explainer.stream(x, batch=batch)


def test_a_module_and_an_explainer(tmp_path):
    torch = pytest.importorskip("torch")
    module = torch.nn.Linear(3, 2)
    x = random(10, 3)
    run = explain_dataset(module, {"input": x, "label": np.arange(10)}, tmp_path / "store", carry=["label"])
    assert run[3].relevance["input"].tobytes() == explain(module, x[3:4], ledger="total").relevance["input"].tobytes()
    again = explain_dataset(Explainer(module, example=x[:1], ledger="total"), x, tmp_path / "other")
    assert again[3].relevance["input"].tobytes() == run[3].relevance["input"].tobytes()
    with pytest.raises(SettingError, match="an Explainer has its settings; pass mode= to it"):
        explain_dataset(Explainer(module, example=x[:1]), x, tmp_path / "third", mode="gradient")


WITHOUT = """
    import sys
    class Forbidden:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in ("backtrace_jax", "jax", "jaxlib", "importers"):
                raise ImportError(name)
    sys.meta_path.insert(0, Forbidden())
    import json, numpy as np, pandas, xarray, zarr
    group = zarr.open_group(sys.argv[1], mode="r")
    relevance = group["relevance.x"][:]
    data = xarray.open_zarr(sys.argv[1], consolidated=False, chunks=None)
    assert np.array_equal(data["relevance.x"].values, relevance)
    assert data["relevance.x"].dims == ("example", "x.0")
    frame = data[["relevance.x", "outputs.y"]].to_dataframe()
    table = pandas.DataFrame(relevance, columns=["age", "height", "weight"])
    assert table.shape == (20, 3) and len(frame) == 20 * 3 * 4
    print(json.dumps([float(relevance.sum()), data["reason"].values.tolist()[5], data["status"].values.tolist()]))
"""


def test_a_store_opens_without_this_package(tmp_path):
    x = np.random.default_rng(0).uniform(1, 2, (20, 3)).astype(np.float32)
    x[5, 1] = np.nan
    run = explain_dataset(logarithm(), x, tmp_path / "store", mode="gradient")
    command = [sys.executable, "-c", textwrap.dedent(WITHOUT), tmp_path / "store"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert not found.returncode, found.stderr
    total, reason, status = json.loads(found.stdout)
    assert total == float(run.open()["relevance.x"].values.sum())
    assert reason == run.failed[5]
    assert status == [1] * 5 + [2] + [1] * 14


def test_a_model_that_mixes_examples_is_refused_before_anything_is_written(tmp_path):
    mixing = network(
        [
            node("ReduceMean", ["x", "axes"], ["mean"]),
            node("Sub", ["x", "mean"], ["d"]),
            node("Gemm", ["d", "w"], ["y"]),
        ],
        {"x": (TensorProto.FLOAT, ["batch", 3])},
        w=random(3, 4),
        axes=np.int64([0]),
    )
    with pytest.raises(UnsupportedError, match="ReduceMean"):
        explain_dataset(mixing, random(20, 3), tmp_path / "store")
    assert not [*tmp_path.iterdir()]
