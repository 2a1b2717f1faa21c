"""An explainer and other processes: forked ones are told, new ones compute, and pickles say how."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import backtrace_jax.errors
from backtrace_jax import BacktraceError, Explainer, SettingError
from backtrace_jax.errors import MixedExamplesError
from tests.tiny import convolutional


def test_a_fork_is_told_and_a_new_process_computes_the_same():
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "tests.forking"], capture_output=True, cwd=root, check=True, timeout=300
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["forked"]) == 3
    for said in found["forked"]:
        assert said.startswith("SettingError: this process was forked from one in which JAX has run")
        assert "get_context('spawn')" in said
    assert found["anew"] == found["here"] > 0


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_an_explainer_says_how_it_reaches_another_process(copied):
    with pytest.raises(
        SettingError, match=r"make one from the model's file where it is needed .*export\(model, path\)"
    ):
        copied(Explainer(convolutional()))


def kinds(root=BacktraceError):
    return [root, *(each for kind in root.__subclasses__() for each in kinds(kind))]


@pytest.mark.parametrize("kind", [each for each in kinds() if each.__module__ == backtrace_jax.errors.__name__])
def test_errors_reach_other_processes(kind):
    """A worker whose error cannot be pickled takes its pool down."""
    error = kind("Add mixes them", "pass one") if kind is MixedExamplesError else kind("what is wrong")
    error.args = (f"node 'a': {error}",)
    other = pickle.loads(pickle.dumps(error))
    assert type(other) is kind
    assert str(other) == str(error)
