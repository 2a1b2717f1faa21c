"""A second process that explains the same models compiles nothing, and finds the same bytes."""

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

compilations = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, *_, **__: compilations.append(name) if name == "/jax/core/compile/backend_compile_duration" else None
)
import numpy as np
from backtrace_jax import Explainer, Rule, Selector, composite, explain
from backtrace_jax.engine import pieces
from backtrace_jax.runtime.numerics import COMPILER_OPTIONS
from tests import tiny
from tests.rules.running import CHEAP

COMPILER_OPTIONS["cpu"].update(CHEAP)
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
for name, way in ways.items():
    compilations.clear()
    found = way()
    digest = hashlib.sha256(b"".join(array.tobytes() for array in found.relevance.values())).hexdigest()
    print(json.dumps([name, len(compilations), digest, found.fingerprint]))
"""


def run(cache):
    """By the way a model is explained: how often something is compiled, a hash of the relevance, the fingerprint."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT],
        env={**os.environ, "BACKTRACE_JAX_CACHE": str(cache), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = map(json.loads, done.stdout.splitlines())
    return {name: told for name, *told in lines}


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("starting") / "cache"
    return [run(folder) for _ in range(2)]


def test_the_second_process_compiles_nothing(processes):
    first, second = ({name: told[0] for name, told in each.items()} for each in processes)
    assert min(first.values()) > 0
    assert second == dict.fromkeys(first, 0)


def test_bytes_and_fingerprints_are_the_same(processes):
    first, second = ({name: told[1:] for name, told in each.items()} for each in processes)
    assert first == second
