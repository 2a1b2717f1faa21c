"""A whole dataset in one call: the same bytes as `explain`, in a store that goes on where it was stopped."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from backtrace_jax import InputError, NumericsError, Run, SettingError, explain, explain_dataset
from backtrace_jax.datasets import job
from backtrace_jax.engine.fingerprint import differences
from tests import tiny

COUNT, BLOCK = 40, 16
MODEL = tiny.convolutional()


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(job, "block_size", lambda size, flops: BLOCK)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).standard_normal((COUNT, 2, 5, 5)).astype(np.float32)


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def same(found, expected):
    assert differences(found.fingerprint, expected.fingerprint).keys() <= {"threads", "devices", "xla_flags"}
    for part in ("relevance", "inputs", "outputs", "layers"):
        assert [*getattr(found, part)] == [*getattr(expected, part)]
        for name, array in getattr(expected, part).items():
            assert getattr(found, part)[name].tobytes() == array.tobytes()
            assert getattr(found, part)[name].dtype == array.dtype
    assert found.target.tobytes() == expected.target.tobytes()
    assert found.output == expected.output
    assert found.warnings == expected.warnings


@pytest.mark.parametrize("settings", [{"layers": "hidden"}, {"mode": "contrastive", "ledger": "nodes"}])
def test_an_example_of_a_run_is_what_explain_gives(tmp_path, images, settings):
    run = explain_dataset(MODEL, images, tmp_path / "store", **settings)
    assert len(run) == COUNT
    assert run.finished
    for index in (0, 17, -1):
        found = run[index]
        index %= COUNT
        expected = explain(MODEL, images[index : index + 1], **{"ledger": "total", **settings})
        same(found, expected)
        assert found.ledger.signed.tobytes() == expected.ledger.signed.tobytes()
        assert [*found.ledger.by_node] == [*expected.ledger.by_node]
        for name, book in expected.ledger.by_node.items():
            assert found.ledger.by_node[name].absolute.tobytes() == book.absolute.tobytes()
        for name, channel in expected.channels.items():
            assert found.channels[name].relevance["x"].tobytes() == channel.relevance["x"].tobytes()
            assert found.channels[name].ledger.signed.tobytes() == channel.ledger.signed.tobytes()


def test_a_column_with_missing_cells_is_asked_by(tmp_path, images):
    given = {"x": images[:5], "label": np.float64([np.nan, 3, 1, 0.5, 0])}
    run = explain_dataset(MODEL, given, tmp_path / "store", target="label")
    assert run.open()["target"].values.tolist() == [0, 3, 1, 0, 0]
    assert run.failed == {
        i: f"target: column 'label' holds {value}, which is no whole number" for i, value in ((0, "nan"), (3, "0.5"))
    }
    with pytest.raises(SettingError, match="column 'label' holds 'a'"):
        explain_dataset(MODEL, {**given, "label": np.array(["a"] * 5)}, tmp_path / "other", target="label")


def test_a_run_is_gone_through_in_order(tmp_path, images):
    run = explain_dataset(MODEL, images[:5], tmp_path / "store")
    assert [each.inputs["x"].tobytes() for each in run] == [image.tobytes() for image in images[:5]]
    run = explain_dataset(MODEL, np.where(np.arange(5).reshape(5, 1, 1, 1) == 3, np.nan, images[:5]), tmp_path / "bad")
    with pytest.raises(InputError, match="example 3 could not be explained"):
        list(run)


def test_an_address_is_no_folder(tmp_path, images, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingError, match="out must be a path on this machine"):
        explain_dataset(MODEL, images, "s3://bucket/store")
    assert not [*tmp_path.iterdir()]


def test_a_run_opens_in_xarray(tmp_path, images):
    labels = np.arange(COUNT)
    names = np.array([f"patient {i}" for i in labels])
    source = {"x": images, "label": labels, "who/else": names}
    run = explain_dataset(MODEL, source, tmp_path / "store", carry=["label", "who/else"])
    found = Run(tmp_path / "store").open()
    assert found["relevance.x"].dims == ("example", "x.0", "x.1", "x.2")
    assert found["relevance.x"][17].values.tobytes() == run[17].relevance["x"].tobytes()
    assert found["carried.label"].values.tolist() == labels.tolist()
    assert found["carried.who%2Felse"].values.tolist() == names.tolist()
    assert found["status"].values.tolist() == [1] * COUNT


def test_what_is_asked_of_each_example(tmp_path, images):
    targets, columns = np.arange(COUNT) % 5, {"x": images, "label": np.arange(COUNT) % 4}
    by_array = explain_dataset(MODEL, images, tmp_path / "array", target=targets, against=(targets + 1) % 5)
    by_column = explain_dataset(MODEL, columns, tmp_path / "column", target=4, against="label")
    shared = explain_dataset(MODEL, images, tmp_path / "one", target=3)
    for i in (0, 21):
        one = images[i : i + 1]
        same(by_array[i], explain(MODEL, one, target=targets[i], against=(targets[i] + 1) % 5, ledger="total"))
        same(by_column[i], explain(MODEL, one, target=4, against=i % 4, ledger="total"))
        same(shared[i], explain(MODEL, one, target=3, ledger="total"))


def test_a_run_that_was_stopped_goes_on_and_has_the_same_bytes(tmp_path, images):
    class StopError(Exception):
        pass

    def stop(done, total):
        raise StopError

    explain_dataset(MODEL, images, tmp_path / "whole")
    with pytest.raises(StopError):
        explain_dataset(MODEL, images, tmp_path / "stopped", progress=stop)
    begun = Run(tmp_path / "stopped")
    assert 0 < np.count_nonzero(begun.status) < COUNT
    assert not begun.finished
    with pytest.raises(SettingError, match="example 39 is still to be explained"):
        begun[39]
    (tmp_path / "stopped" / "target" / "c" / "1.abc.partial").write_bytes(b"half")
    seen = []
    explain_dataset(MODEL, images, tmp_path / "stopped", progress=lambda done, total: seen.append((done, total)))
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")
    assert seen[-1] == (COUNT, COUNT)


def test_bad_examples_are_recorded_and_the_others_explained(tmp_path, images):
    bad = images.copy()
    bad[[3, 20], 0, 0, 0] = np.nan, np.inf
    run = explain_dataset(MODEL, bad, tmp_path / "store")
    good = explain_dataset(MODEL, images, tmp_path / "good")
    assert [*run.failed] == [3, 20]
    assert "nan at index" in run.failed[3]
    assert run[4].relevance["x"].tobytes() == good[4].relevance["x"].tobytes()
    assert not run.open()["relevance.x"][3].any()
    with pytest.raises(InputError, match="example 3 could not be explained: input 'x' has nan"):
        run[3]
    with pytest.raises(InputError, match="example 3: input 'x' has nan"):
        explain_dataset(MODEL, bad, tmp_path / "raised", on_error="raise")


def test_another_run_is_refused_with_what_differs(tmp_path, images):
    explain_dataset(MODEL, images, tmp_path / "store")
    with pytest.raises(SettingError, match="another run: mode is 'default' there and 'lrp-gamma' here"):
        explain_dataset(MODEL, images, tmp_path / "store", mode="lrp-gamma")
    with pytest.raises(SettingError, match=r"source\.count is 40 there and 20 here"):
        explain_dataset(MODEL, images[:20], tmp_path / "store")
    with pytest.raises(SettingError, match="model_sha256"):
        explain_dataset(tiny.convolutional(("y", "box")), images, tmp_path / "store")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "diary.txt").write_text("dear diary")
    with pytest.raises(InputError, match="is no store of explanations"):
        explain_dataset(MODEL, images, tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["diary.txt"]


def test_the_package_imports_no_zarr():
    asked = "import sys, backtrace_jax; print({'zarr', 'xarray'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True).stdout == "set()\n"


def test_relevance_is_reduced_and_rounded(tmp_path, images):
    whole = explain_dataset(MODEL, images, tmp_path / "whole", layers="hidden").open()
    run = explain_dataset(MODEL, images, tmp_path / "sums", layers="hidden", reduce="channels", store_dtype="float16")
    found = run.open()
    for key in ("relevance.x", "layers.hidden"):
        exact = whole[key].values.sum(axis=1)
        assert found[key].dtype == np.float16
        assert found[key].values.tobytes() == exact.astype(np.float16).tobytes()
        assert np.abs(found[key].values.astype(np.float32) - exact).max() <= run.rounding_error
    assert 0 < run.rounding_error < 1e-3
    with pytest.raises(SettingError, match=r"has it reduced: run.open\(\)"):
        run[3]


def test_a_function_reduces(tmp_path, images):
    run = explain_dataset(
        MODEL, images, tmp_path / "store", reduce=lambda name, relevance: abs(relevance).max(axis=(1, 2))
    )
    expected = np.abs(explain(MODEL, images).relevance["x"]).max(axis=(1, 2))
    assert run.open()["relevance.x"].values.tobytes() == expected.tobytes()
    with pytest.raises(SettingError, match="must return floats with the 1 examples in front"):
        explain_dataset(MODEL, images, tmp_path / "wrong", reduce=lambda name, relevance: relevance.sum())
    assert not (tmp_path / "wrong").exists()


def test_what_is_only_rounded_comes_back_and_says_so(tmp_path, images):
    run = explain_dataset(MODEL, images, tmp_path / "store", store_dtype="float16")
    exact = explain(MODEL, images[5:6]).relevance["x"]
    assert run[5].relevance["x"].tobytes() == exact.astype(np.float16).tobytes()
    assert "rounded to float16" in run[5].warnings[-1]


def test_relevance_beyond_the_range_of_what_is_stored_is_a_bad_example(tmp_path, images):
    run = explain_dataset(MODEL, images[:4], tmp_path / "store", store_dtype="float16", scaler=1e6)
    assert "does not fit float16" in run.failed[0]
    with pytest.raises(NumericsError, match="example 0: its relevance does not fit float16"):
        explain_dataset(MODEL, images, tmp_path / "raised", store_dtype="float16", scaler=1e6, on_error="raise")


def test_numbers_of_another_type_come_back_as_the_model_took_them(tmp_path, images):
    run = explain_dataset(MODEL, images.astype(np.float64), tmp_path / "store")
    assert run[3].inputs["x"].dtype == np.float32
    assert run[3].inputs["x"].tobytes() == images[3:4].tobytes()


def test_global_views_come_with_it(tmp_path, images):
    summary = explain_dataset(MODEL, images, tmp_path / "store").summary()
    whole = explain(MODEL, images)
    assert summary.examples == COUNT
    np.testing.assert_allclose(summary.ledger[0], whole.ledger.signed.sum(axis=0), rtol=1e-12)
    np.testing.assert_allclose(
        summary.channels["x"].mean, whole.relevance["x"].astype(np.float64).sum(axis=(2, 3)).mean(axis=0), rtol=1e-12
    )
