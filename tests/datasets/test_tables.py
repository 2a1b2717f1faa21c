"""A store as a Parquet file, read by pandas and polars."""

from __future__ import annotations

import numpy as np
import pandas
import polars
import pytest
from onnx import TensorProto

from backtrace_jax import SettingError, explain, explain_dataset
from backtrace_jax.datasets import job, tables
from tests.tiny import network, node, random

FRAME = pandas.DataFrame(random(20, 3, seed=3).astype("f4"), columns=["income", "age", "debt"])


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(job, "block_size", lambda size, flops: 8)


def loans():
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "v"], ["y"])]
    inputs = {"x": (TensorProto.FLOAT, ["batch", 3])}
    return network(nodes, inputs, ("y",), w=random(3, 4), v=random(4, 2, seed=1))


def test_rows_are_examples_and_columns_have_the_names_of_features(tmp_path):
    labelled = FRAME.assign(label=[f"person {i}" for i in range(20)])
    labelled.loc[9, "age"] = np.nan
    run = explain_dataset(loans(), labelled, tmp_path / "store", carry="label", ledger="nodes")
    run.to_parquet(tmp_path / "table.parquet")
    table = pandas.read_parquet(tmp_path / "table.parquet")

    expected = explain(loans(), FRAME.to_numpy())
    good = table["status"] == 1
    assert good.tolist() == [i != 9 for i in range(20)]
    assert table["reason"][9] == run.failed[9]
    assert table["example"].tolist() == list(range(20))
    assert table["carried.label"].tolist() == labelled["label"].tolist()
    for i, name in enumerate(FRAME.columns):
        np.testing.assert_array_equal(table[f"relevance.x.{name}"][good], expected.relevance["x"][good, i])
    np.testing.assert_array_equal(table["outputs.y.1"][good], expected.outputs["y"][good, 1])
    np.testing.assert_array_equal(table["target"][good], expected.target[good])
    np.testing.assert_array_equal(table["ledger.signed.start"][good], expected.ledger.signed[good, 0])
    node_name, books = next(iter(expected.ledger.by_node.items()))
    np.testing.assert_array_equal(table[f"nodes.absolute.{node_name}.bias"][good], books.absolute[good, 3])
    assert polars.read_parquet(tmp_path / "table.parquet").shape == table.shape


def test_the_same_bytes_and_nothing_half_written(tmp_path):
    run = explain_dataset(loans(), FRAME, tmp_path / "store", store_dtype="float16")
    for name in ("one", "other"):
        run.to_parquet(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    with pytest.raises(SettingError, match="cannot write"):
        run.to_parquet(tmp_path / "nowhere" / "table.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "other", "store"]


def test_what_is_no_table_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MOST", 19)
    run = explain_dataset(loans(), FRAME, tmp_path / "store")
    with pytest.raises(SettingError, match=r"a table would have 20 columns, 6 of them of 'ledger.absolute'.*run.open"):
        run.to_parquet(tmp_path / "table.parquet")


def test_two_columns_of_one_name_are_refused(tmp_path):
    twice = FRAME.set_axis(["income", "age", "income"], axis=1)
    run = explain_dataset(loans(), FRAME, tmp_path / "store")
    run._store.about["source"]["features"] = {"x": [*twice.columns]}
    with pytest.raises(SettingError, match=r"two columns of a table would be called 'relevance.x.income'"):
        run.to_parquet(tmp_path / "table.parquet")
