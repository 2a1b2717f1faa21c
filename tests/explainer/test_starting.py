"""A second process that explains the same models compiles nothing, traces little, and finds the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import hashlib, json
import jax

heard = []
jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: heard.append(name.rpartition("/")[2]))
import numpy as np
from backtrace_jax import MODES, Explainer, Rule, Selector, composite, explain, mode
from backtrace_jax.engine import pieces
from backtrace_jax.rules import find_mode
from backtrace_jax.runtime import recipes
from backtrace_jax.runtime.numerics import COMPILER_OPTIONS
from tests import tiny
from tests.rules.running import CHEAP

COMPILER_OPTIONS["cpu"].update(CHEAP)
recipes._SETTLED = -1e9  # these files may have been written a moment ago
x = tiny.images()

def half(site, R):
    return {i: R / len(site.operands) for i, _ in enumerate(site.operands)}, {}

def in_pieces():
    pieces.WHOLE, pieces.SHORTEST, pieces.LONGEST = 50, 30, 120
    return Explainer(tiny.convolutional(), mode="contrastive")(x)

recurrent = tiny.network(
    [tiny.node("LSTM", ["s", "w", "r"], ["all", "y"], hidden_size=4)],
    {"s": (1, [5, "batch", 3])},
    w=tiny.random(1, 16, 3),
    r=tiny.random(1, 16, 4, seed=1),
)
own = composite("own", [(Selector(kind="sum"), Rule("half", half))], base="lrp-epsilon-plus")
ways = {
    "default": lambda: explain(tiny.convolutional(), x, target=1),
    "unprepared, path": lambda: explain(tiny.convolutional(), x, mode="integrated-gradients", prepare=False),
    "many": lambda: Explainer(tiny.convolutional()).each(x, "all")[2],
    "loop": lambda: explain(recurrent, tiny.random(5, 2, 3), mode="lrp-epsilon", batch_axis=1),
    "random": lambda: explain(tiny.convolutional(), x, mode="smoothgrad"),
    "own rules": lambda: explain(tiny.convolutional(), x, mode=own),
    "pieces": in_pieces,
}
modes = [mode(name, gamma=gamma) for name in ("lrp-gamma",) for gamma in (0.1, 0.2)]
modes += [find_mode(name) for name in MODES if "box" not in name]
told = [recipes.Telling().of(each).hex() for each in modes]
print(json.dumps(["modes", len(modes), 0, told, {}]))
for name, way in ways.items():
    heard.clear()
    found = way()
    digest = hashlib.sha256(b"".join(array.tobytes() for array in found.relevance.values())).hexdigest()
    times = [heard.count(event) for event in ("backend_compile_duration", "jaxpr_to_mlir_module_duration")]
    print(json.dumps([name, *times, digest, found.fingerprint]))
"""


def run(cache):
    """By the way a model is explained: functions compiled and lowered, a hash of the relevance, the fingerprint."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT],
        env={**os.environ, "BACKTRACE_JAX_CACHE": str(cache), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (_, count, _, modes, _), *lines = map(json.loads, done.stdout.splitlines())
    assert len(set(modes)) == count, "every mode is told apart from the others"
    return {name: told for name, *told in lines}


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("starting") / "cache"
    return [run(folder) for _ in range(2)]


def test_the_second_process_compiles_nothing(processes):
    first, second = ({name: told[0] for name, told in each.items()} for each in processes)
    assert min(first.values()) > 0
    assert second == dict.fromkeys(first, 0)


def test_the_second_process_lowers_only_what_rules_of_the_user_are_in(processes):
    second = {name: told[1] for name, told in processes[1].items()}
    assert second.pop("own rules") > 0
    assert second.pop("default") == 1  # the first of a process asks for the features of the processor
    assert second == dict.fromkeys(second, 0)


def test_bytes_and_fingerprints_are_the_same(processes):
    first, second = ({name: told[2:] for name, told in each.items()} for each in processes)
    assert first == second
