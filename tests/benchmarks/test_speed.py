"""The speed benchmarks: the smallest of them runs, and what is made of its results. No time is judged here."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.speed import __main__ as command
from benchmarks.speed import guard, harness, results, tables
from benchmarks.speed.contestants import CONTESTANTS
from benchmarks.speed.stored import Stored
from benchmarks.speed.workloads import SERIES, WORKLOADS

OWN = ("forward", "jax-gradient", "torch-forward", "onnxruntime-forward", "explanation")
PEER = "zennit"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Results of one round on the smallest network, without the environments of the peers."""
    folder = tmp_path_factory.mktemp("speed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BACKTRACE_JAX_BENCHMARKS", str(folder / "workloads"))
        patch.setenv("BACKTRACE_JAX_PEERS", str(folder / "peers"))
        for name in ("XLA_FLAGS", "OMP_NUM_THREADS"):
            patch.delenv(name, raising=False)
        run(patch, folder / "found.json", "default", *OWN)
        run(patch, folder / "found.json", "lrp-epsilon", PEER)
    return folder / "found.json"


def run(patch, path, mode, *contestants):
    asked = ["--workloads", "digits_cnn", "--batches", "1", "--modes", mode, "--repeats", "1", "--results", str(path)]
    patch.setattr(sys, "argv", ["speed", *asked, "--contestants", *contestants])
    command.main()


@pytest.fixture(scope="module")
def found(path):
    return results.read(path)


@pytest.fixture(scope="module")
def rows(found):
    return {row["contestant"]: row for row in found["rows"]}


def test_every_contestant_has_a_row(rows):
    assert set(rows) == {*OWN, PEER}
    for name in OWN:
        row = rows[name]
        assert row["median"] > 0
        assert row["quartiles"][0] <= row["median"] <= row["quartiles"][1]
        assert row["repeats"] == 1
        assert 2**20 < row["running_bytes"] <= row["peak_bytes"]
        assert set(row["versions"]) == set(CONTESTANTS[name].packages)
        assert row["mode"] == ("default" if name == "explanation" else "")


def test_what_is_compiled_is_told(rows):
    assert all(rows[name]["compile_seconds"] > 0 for name in ("forward", "jax-gradient", "explanation"))
    assert rows["torch-forward"]["compile_seconds"] is None
    assert rows["explanation"]["notes"]["chunk"] == "default"


def test_ratios_are_of_the_same_round(rows):
    assert set(rows["explanation"]["ratios"]) == {"forward", "jax-gradient"}
    assert set(rows["forward"]["ratios"]) == {"torch-forward", "onnxruntime-forward"}
    ratio = rows["explanation"]["ratios"]["forward"]
    assert ratio["interleaved"]
    assert ratio["median"] == pytest.approx(rows["explanation"]["median"] / rows["forward"]["median"], rel=1e-2)


def test_a_peer_without_environment_is_left_out_with_the_reason(rows):
    assert rows[PEER]["skipped"] == "no environment 'zennit' here"


def test_no_path_is_in_the_results(path):
    text = path.read_text()
    assert str(path.parent) not in text
    assert str(Path.home()) not in text
    assert sys.prefix not in text


def test_the_page(path, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tables", str(path), "--page", str(tmp_path / "page.md")])
    tables.main()
    page = (tmp_path / "page.md").read_text()
    assert "(`digits_cnn`)" in page
    assert "- zennit lrp-epsilon, batch 1: no environment" in page
    assert sum(line.startswith("| 1 |") for line in page.splitlines()) == len(OWN)


def test_the_page_in_docs_is_made_of_the_results_here(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tables", "--page", str(tmp_path / "page.md")])
    tables.main()
    assert (tmp_path / "page.md").read_text() == tables.PAGE.read_text()


def test_the_guard(found, path, tmp_path, monkeypatch, capsys):
    asked = ["guard", "--results", str(path), "--baseline", str(tmp_path / "baseline.json")]
    monkeypatch.setattr(sys, "argv", [*asked, "--update"])
    assert guard.main() == 0
    monkeypatch.setattr(sys, "argv", asked)
    assert guard.main() == 0
    baseline = json.loads((tmp_path / "baseline.json").read_text())
    name = "digits_cnn | 1 | default | explanation | forward"
    baseline["ratios"][name] /= 2
    (tmp_path / "baseline.json").write_text(json.dumps(baseline))
    assert guard.main() == 1
    assert name in capsys.readouterr().out


def test_a_peer_that_comes_closer_is_a_regression():
    row = {"workload": "resnet18", "batch": 8, "mode": "lrp-epsilon", "contestant": "zennit"}
    row["ratios"] = {"explanation": {"median": 2.0, "interleaved": True}}
    name = "resnet18 | 8 | lrp-epsilon | zennit | explanation"
    assert list(guard.regressions({name: 3.0}, {"rows": [row]}, 0.1))
    assert not list(guard.regressions({name: 1.5}, {"rows": [row]}, 0.1))


def test_what_cannot_be_measured_any_more_is_a_regression():
    row = {"workload": "resnet18", "batch": 8, "mode": "default", "contestant": "explanation", "skipped": "why"}
    name = "resnet18 | 8 | default | explanation | forward"
    assert list(guard.regressions({name: 3.0}, {"rows": [row]}, 0.1)) == [f"{name}: was measured, but now: why"]


def jobs(name, batch=1):
    workload = WORKLOADS[name]
    return harness.jobs(Stored(workload, Path(name)), batch, workload.modes, tuple(CONTESTANTS), "cpu")


def test_explanations_and_peers_of_a_mode_stay_beside_the_anchors():
    asked = jobs("resnet50", 8)
    need = asked[0].stored.workload.expected_bytes(8)
    parts = harness.blocks(asked, 6 * need)
    assert {job for part in parts for job in part} == set(asked)
    slow = [part for part in parts if part[0].contestant.slow]
    assert all(len(part) == 1 for part in slow)
    for part in parts[: len(parts) - len(slow)]:
        assert len(part) <= 6
        assert {"forward", "jax-gradient"} <= {job.contestant.name for job in part}
    homes = {job: number for number, part in enumerate(parts) for job in part}
    (ours, peer) = (job for job in asked if job.mode == "lrp-epsilon-plus")
    assert homes[ours] == homes[peer]


def test_what_does_not_fit_runs_alone():
    asked = jobs("llama_1b_128")
    assert [len(part) for part in harness.blocks(asked, 16 * 2**30)] == [1] * len(asked)


def test_ratios_without_a_common_round_are_of_medians():
    first, second = {(0, 0): 2.0, (0, 1): 4.0}, {(1, 0): 1.0}
    assert results.ratio(first, second) == {"median": 3.0, "quartiles": [3.0, 3.0], "interleaved": False}
    assert results.ratio(first, {(0, 1): 2.0})["median"] == 2.0


def test_another_machine_does_not_write_into_these_results(found):
    with pytest.raises(ValueError, match="this machine"):
        results.merged(found, {**found["environment"], "cores": 1000}, [])


def test_every_point_of_a_series_is_a_workload():
    assert all(workload in WORKLOADS for series in SERIES.values() for _, workload, _ in series.points)
