"""Ray Data on this machine: the store of one process, byte for byte, and batches of a user's own dataset."""

from __future__ import annotations

import os
import pickle
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from backtrace_jax import BacktraceError, ExplainBatches, Explainer, InputError, SettingError, explain, explain_dataset
from backtrace_jax.datasets import cluster
from backtrace_jax.datasets.cluster import absolute
from backtrace_jax.errors import MissingDependencyError
from tests import tiny
from tests.sources.test_texts import tokenizer

FEATURES = 1000
ROWS = np.random.default_rng(0).normal(size=(5000, FEATURES)).astype(np.float32)
"""Three blocks, the last one shorter."""

ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "PYTHONWARNINGS": "ignore"}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "dense.onnx"
    nodes = [
        tiny.node("MatMul", ["x", "w"], ["h"]),
        tiny.node("Relu", ["h"], ["r"]),
        tiny.node("MatMul", ["r", "v"], ["y"]),
    ]
    inputs = {"x": (TensorProto.FLOAT, ["batch", FEATURES])}
    onnx.save(tiny.network(nodes, inputs, w=tiny.random(FEATURES, 4), v=tiny.random(4, 3, seed=1)), path)
    return path


@pytest.fixture(scope="session")
def ray():
    """Two processors of this machine, with a folder that goes afterwards (sockets want a short path)."""
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    before, folder = dict(os.environ), tempfile.mkdtemp(prefix="ray")
    os.environ.update(ENVIRONMENT)
    quiet = {"logging_level": "ERROR", "log_to_driver": False, "include_dashboard": False}
    ray.init(num_cpus=2, object_store_memory=100 * 2**20, _temp_dir=folder, **quiet)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield ray
    ray.shutdown()
    os.environ.clear()
    os.environ.update(before)
    shutil.rmtree(folder, ignore_errors=True)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.optimised  # as workers compile it
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_goes_on_with_the_bytes_of_one_process(ray, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("rows.npy", ROWS)
    chosen = {"mode": "lrp-epsilon", "target": np.arange(len(ROWS)) % 3}
    explain_dataset(model, ROWS, "alone", **chosen)
    counts = []

    def stop(done, total):
        counts.append(done)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=f" of {len(ROWS)} examples are stored"):
        explain_dataset(model, ROWS, "cluster", progress=stop, **chosen)
    (first,), told = counts, []
    assert 0 < first < len(ROWS) / 2
    run = explain_dataset(model, ROWS, "cluster", cluster="ray", progress=lambda *each: told.append(each), **chosen)
    assert run.finished
    assert told[-1] == (len(ROWS), len(ROWS))
    assert [total for _, total in told] == [len(ROWS)] * 2
    assert told[0][0] > first
    assert files(tmp_path / "cluster") == files(tmp_path / "alone")


class InLine:
    """What is called of Ray Data, done here: workers are made anew from pickles, and handed their blocks in turn."""

    ActorPoolStrategy = dict

    def from_items(self, items, override_num_blocks):
        self.items = items
        return self

    def map_batches(self, worker, *, fn_constructor_args, **resources):
        self.worker = worker(*pickle.loads(pickle.dumps(fn_constructor_args)))
        return self

    def iter_batches(self, batch_size):
        for item in self.items:
            found = self.worker({name: np.array([value]) for name, value in item.items()})
            yield {name: np.array(values, object) for name, values in found.items()}


def test_a_worker_s_own_error_is_raised(model, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "ray_data", InLine)
    rows = ROWS.copy()
    rows[4500, 1] = np.nan
    told = []
    with pytest.raises(InputError, match="example 4500"):
        explain_dataset(
            model, rows, tmp_path / "store", cluster="ray", on_error="raise", progress=lambda done, _: told.append(done)
        )
    assert told == [2048, 4096]


@pytest.mark.optimised
@pytest.mark.filterwarnings("ignore")
def test_a_dataset_s_own_batches(ray, model):
    """Two blocks of a dataset of Ray's, cut into batches of 3, and the bytes of one call."""
    labels = np.arange(8) % 3
    dataset = ray.data.from_items([{"x": row, "label": label} for row, label in zip(ROWS[:8], labels, strict=True)])
    asked = {"mode": "lrp-epsilon", "target": "label"}
    one = ray.data.ActorPoolStrategy(size=1)
    found = dataset.map_batches(
        ExplainBatches, fn_constructor_args=(str(model),), fn_constructor_kwargs=asked, batch_size=3, compute=one
    )
    rows = {tuple(row["x"]): row for row in found.take_all()}
    whole = explain(model, ROWS[:8], mode="lrp-epsilon", target=labels, ledger="total")
    for i, x in enumerate(ROWS[:8]):
        row = rows[tuple(x)]
        assert row["label"] == row["target"] == labels[i]
        assert np.asarray(row["relevance.x"], np.float32).tobytes() == whole.relevance["x"][i].tobytes()
        assert np.asarray(row["ledger.signed"]).tobytes() == whole.ledger.signed[i].tobytes()


def test_batches_name_what_failed(model):
    """Without Ray: the class is called with columns."""
    rows = ROWS[:4].copy()
    rows[2, 0] = np.inf
    found = ExplainBatches(model, on_error="record")({"x": rows, "name": np.array(["a", "b", "c", "d"])})
    assert found["name"].tolist() == ["a", "b", "c", "d"]
    assert found["status"].tolist() == [1, 1, 2, 1]
    assert "x" in found["reason"][2]
    assert not found["reason"][[0, 1, 3]].any()
    whole = explain(model, ROWS[:4], ledger="total")
    assert found["relevance.x"][[0, 1, 3]].tobytes() == whole.relevance["x"][[0, 1, 3]].tobytes()
    with pytest.raises(BacktraceError, match="example 2"):
        ExplainBatches(model)({"x": rows})


def test_texts_of_a_batch_are_explained_in_their_lengths():
    """Entries behind shorter ones are zero."""
    nodes = [
        tiny.node("Gather", ["table", "input_ids"], ["e"]),
        tiny.node("ReduceSum", ["e", "one"], ["s"], keepdims=0),
        tiny.node("Gemm", ["s", "v"], ["y"]),
    ]
    table, v = tiny.random(54, 4), tiny.random(4, 2, seed=1)
    model = tiny.network(
        nodes, {"input_ids": (TensorProto.INT64, ["n", "length"])}, table=table, v=v, one=np.array([1])
    )
    explains = ExplainBatches(model, tokenizer=tokenizer(), lengths="exact", target="label")
    found = explains({"text": np.array(["w1 w2", "w1 w2 w3 w4"]), "label": np.array([1, 0]), "id": np.arange(2)})
    assert found["target"].tolist() == [1, 0]
    shorter, longer = found["relevance.input_ids"]
    assert len(longer) == len(shorter)
    assert np.count_nonzero(longer) == len(longer) == np.count_nonzero(shorter) + 2
    assert not shorter[-2:].any()


def test_what_cannot_be_sent_is_refused(model, tmp_path, monkeypatch):
    with pytest.raises(SettingError, match="takes the model's file"):
        explain_dataset(Explainer(model), ROWS[:3], tmp_path / "store", cluster="ray")
    monkeypatch.setattr(cluster, "ray_data", InLine)
    with pytest.raises(SettingError, match="a stream is read by one process"):
        explain_dataset(model, ({"x": row} for row in ROWS[:3]), tmp_path / "store", cluster="ray")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'backtrace-jax\[ray\]'"):
        explain_dataset(model, ROWS[:3], tmp_path / "store", cluster="ray")
    with pytest.raises(SettingError, match="cluster"):
        explain_dataset(model, ROWS[:3], tmp_path / "store", cluster="dask")
    assert not (tmp_path / "store").exists()
    assert absolute("a/b") == Path.cwd() / "a/b"
    assert absolute(ROWS) is ROWS
