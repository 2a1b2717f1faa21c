"""`backtrace-jax run`: what it passes on, prints and returns."""

from __future__ import annotations

import argparse
import io
import sys
import time
from dataclasses import fields

import numpy as np
import pytest

import backtrace_jax
from backtrace_jax import Run, demo
from backtrace_jax.cli import streams, values
from backtrace_jax.cli.main import main
from backtrace_jax.cli.parser import make_parser
from backtrace_jax.explainer.asking import Asked
from backtrace_jax.question.settings import Settings
from backtrace_jax.sources import Reading

DIGITS = demo.sample("digits")


@pytest.fixture
def run(tmp_path, capsys):
    """The command on eight digits and their labels: (exit code, stdout, stderr)."""
    path = tmp_path / "digits.npz"
    np.savez(path, image=DIGITS.inputs[:8], label=DIGITS.labels[:8])

    def call(*options, images=None) -> tuple[int, str, str]:
        if images is not None:
            np.savez(path, image=images, label=DIGITS.labels[: len(images)])
        given = [DIGITS.model, path, "--out", tmp_path / "store", "--carry", "label", *options]
        code = main(["run", *map(str, given)])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_a_dataset_is_explained_and_summed_up(run, tmp_path):
    code, out, err = run("--mode", "lrp-epsilon", "--target", "label", "--layers", "logits", "--reduce", "channels")
    assert code == 0
    assert err.splitlines()[-1].startswith("explained 8 of 8 (")
    made = Run(tmp_path / "store")
    assert made.finished
    opened = made.open()
    np.testing.assert_array_equal(opened["carried.label"], DIGITS.labels[:8])
    np.testing.assert_array_equal(opened["target"], DIGITS.labels[:8])
    assert opened["relevance.image"].shape == (8, 8, 8)
    assert made.fingerprint["fingerprint"]["mode"] == "lrp-epsilon"
    assert str(made.summary()) in out
    assert "failed       0 of 8" in out
    again = run("--mode", "lrp-epsilon", "--target", "label", "--layers", "logits", "--reduce", "channels")
    assert again == (0, out, "")
    code, out, err = run("--mode", "lrp-gamma", "--target", "label", "--layers", "logits", "--reduce", "channels")
    assert (code, out) == (1, "")
    assert "belongs to another run: mode is 'lrp-epsilon' there" in err


def test_examples_that_fail_are_named_and_end_with_3(run):
    images = DIGITS.inputs[:8].copy()
    images[5, 0, 2, 2] = np.nan
    code, out, _ = run(images=images)
    assert code == 3
    assert "failed       1 of 8\n  example 5: " in out
    assert "examples     7" in out


def test_a_stop_says_how_to_go_on(run, monkeypatch):
    def stopped(*given, **chosen):
        raise KeyboardInterrupt("stopped: 4 of 8 examples are stored in 'store'; the same call goes on from there")

    monkeypatch.setattr(backtrace_jax, "explain_dataset", stopped)
    code, out, err = run()
    assert (code, out) == (130, "")
    assert err == "interrupted: stopped: 4 of 8 examples are stored in 'store'; the same call goes on from there\n"


def test_every_setting_has_an_option():
    """But for what no text can say: arrays and functions."""
    given = vars(make_parser().parse_args(["run", "model.onnx", "source", "--out", "store"]))
    names = {field.name for kind in (Settings, Asked, Reading) for field in fields(kind)}
    assert names - given.keys() == {"start", "conditions", "progress"}
    assert {name: given[name] for name in ("mean", "std", "ledger")} == {"mean": 0.0, "std": 1.0, "ledger": "total"}


def test_how_a_source_is_read_is_passed_on(run, monkeypatch):
    seen = {}

    def explained(model, source, out, **chosen):
        seen.update(chosen)
        raise KeyboardInterrupt

    monkeypatch.setattr(backtrace_jax, "explain_dataset", explained)
    run("--columns", "x=age,income", "mask=valid", "--lengths", "32,64", "--text", "premise", "hypothesis")
    assert seen["columns"] == {"x": ("age", "income"), "mask": ("valid",)}
    assert seen["lengths"] == (32, 64)
    assert seen["text"] == ["premise", "hypothesis"]
    run("--columns", "age,income", "--lengths", "exact", "--against", 5, "--mean", "0.5,0.4,0.3", "--ignore", "rest")
    assert seen["ignore"] == "rest"
    assert seen["columns"] == ("age", "income")
    assert seen["lengths"] == "exact"
    assert seen["against"] == 5
    assert seen["mean"] == (0.5, 0.4, 0.3)
    code, _, err = run("--columns", "age", "x=income")
    assert code == 1
    assert "name the input of each" in err


@pytest.mark.parametrize("text", ["", "a,,b", "=a", " =a"])
def test_no_columns(text):
    with pytest.raises(argparse.ArgumentTypeError, match="names no columns"):
        values.columns(text)


def test_lines_of_progress_have_rate_and_time_left(monkeypatch, capsys):
    clock = iter([0.0, 10.0, 31.0, 40.0, 100.0])
    monkeypatch.setattr(streams.time, "monotonic", lambda: next(clock))
    with streams.long_progress(1000) as advance:
        for done in (1500, 2240, 2500, 5000):
            advance(done, 5000)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["explained 2,240 of 5,000 (40/s, 1:09 left)", "explained 5,000 of 5,000 (40/s, 0:00 left)"]


def test_a_stream_has_no_end_in_sight():
    assert streams.progress_line(12_000, None, 512.3) == "explained 12,000 (512/s)"
    assert streams.progress_line(10, 100_010, 10.0) == "explained 10 of 100,010 (10/s, 2:46:40 left)"


def test_a_terminal_shows_a_bar_that_knows_what_was_done_before(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with streams.long_progress(60) as advance:
        time.sleep(0.15)  # a bar is drawn ten times a second
        advance(80, 100)
    assert "explaining: 60 examples" in terminal.getvalue()
    assert "80%" in terminal.getvalue()
    assert "| 80/100 [" in terminal.getvalue()
