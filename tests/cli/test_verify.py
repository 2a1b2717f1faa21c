"""`backtrace-jax verify`: what it passes on, prints and returns."""

from __future__ import annotations

import numpy as np
import pytest

from backtrace_jax import demo
from backtrace_jax.cli.main import main
from backtrace_jax.explainer import verifying
from backtrace_jax.explainer.verification import Check, Difference

DIGITS = demo.sample("digits")
NAMES = ["each example alone", "in batches of 2, 3 and 7", "at other positions"]


@pytest.fixture
def verify(tmp_path, capsys, monkeypatch):
    """The command on three digits, without other processes: (exit code, lines on stdout, stderr)."""
    monkeypatch.setattr(
        verifying._Verifying, "in_process", lambda self, name, *more, **changed: Check(name, skipped="here")
    )
    np.save(tmp_path / "digits.npy", DIGITS.inputs[:3])

    def call(*options) -> tuple[int, list[str], str]:
        code = main(["verify", str(DIGITS.model), str(tmp_path / "digits.npy"), *map(str, options)])
        out, err = capsys.readouterr()
        return code, out.splitlines(), err

    return call


def test_the_same_bytes_end_with_0_and_the_hash(verify):
    code, lines, err = verify("--mode", "lrp-epsilon", "--target", "3,1,4")
    assert (code, err) == (0, "")
    assert [line[:28].strip() for line in lines[:3]] == NAMES
    assert all(line.endswith("same bytes") for line in lines[:3])
    assert lines[-1].startswith("SHA-256 ")
    assert lines[-1].endswith(" in all of them, 3 examples")


def test_a_difference_ends_with_1(verify, monkeypatch):
    found = Difference("relevance['image']", 2, (0, 3, 4), "0.25", "0.5")
    monkeypatch.setattr(verifying, "first_difference", lambda one, other, places: found if len(places) == 1 else None)
    code, lines, _ = verify()
    assert code == 1
    assert lines[0].endswith("DIFFERS: relevance['image'] of example 2 at [0, 3, 4]: 0.25 against 0.5")
    assert lines[-1] == "differs: each example alone, in batches of 2, 3 and 7 (3 examples)"


def test_against_names_pytorch_and_a_class(verify, monkeypatch):
    seen = {}

    def compared(model, explanation, settings):
        seen.update(model=model, against=explanation.fingerprint["against"])
        yield Check("outputs beside PyTorch", found="they agree")

    monkeypatch.setattr(verifying, "check_comparable", lambda model, settings: None)
    monkeypatch.setattr(verifying, "compared", compared)
    code, lines, _ = verify("--against", "torch", "--target", 3, "--against", 5)
    assert code == 0
    assert seen["model"] == DIGITS.model
    assert set(seen["against"]) == {5}
    assert lines[-2].split() == ["outputs", "beside", "PyTorch", "they", "agree"]


def test_two_contrasted_classes_are_refused(verify):
    code, lines, err = verify("--against", 3, "--against", 5)
    assert (code, lines) == (1, [])
    assert "more than once" in err
