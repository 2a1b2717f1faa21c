"""What bytes depend on is pinned or named: each setting in a process of its own, since most are read once in one."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import jax
import numpy as np
import onnx
import pytest
from onnx import TensorProto

from backtrace_jax import Explainer, Explanation
from backtrace_jax.engine.fingerprint import differences, instruction_set
from tests.tiny import network, node, random

pytestmark = pytest.mark.optimised
MODES = ("default", "smoothgrad")
SCRIPT = f"""
import hashlib, json, os, sys
import numpy as np
import backtrace_jax

x = np.load(sys.argv[2])
for mode in {MODES!r}:
    explainer = backtrace_jax.Explainer(sys.argv[1], mode=mode, task="multi-class classification")
    explainer(x[:1], target=2)
    os.environ["XLA_FLAGS"] = "--xla_set_too_late"
    found = explainer(x, target=2)
    print(json.dumps([hashlib.sha256(found.relevance["x"].tobytes()).hexdigest(), found.fingerprint]))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model with sums long enough to be rounded in more than one way, and its inputs."""
    folder = tmp_path_factory.mktemp("model")
    model = network(
        [
            node("Gemm", ["x", "w", "b"], ["h"]),
            node("Tanh", ["h"], ["t"]),
            node("Softmax", ["t"], ["s"], axis=-1),
            node("Gemm", ["s", "v"], ["y"]),
        ],
        {"x": (TensorProto.FLOAT, ["batch", 96])},
        w=random(96, 64, seed=1),
        b=random(64, seed=2),
        v=random(64, 5, seed=3),
    )
    onnx.save(model, folder / "model.onnx")
    np.save(folder / "x.npy", random(3, 96, seed=4))
    return [str(folder / "model.onnx"), str(folder / "x.npy")]


def run(files, **environment):
    """Hash of the relevance and fingerprint, by mode, in a process with these variables."""
    kept = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *files], env={**kept, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(zip(MODES, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.fixture(scope="module")
def plain(files):
    return run(files)


def test_settings_of_the_caller_that_change_numbers_are_pinned(files, plain):
    """All at once: threefry's layout, the offset of seeds, optimisation, types, precision, running without jit."""
    flags = "--xla_cpu_enable_fast_math=true --xla_llvm_disable_expensive_passes=true --xla_cpu_prefer_vector_width=512"
    found = run(
        files,
        JAX_THREEFRY_PARTITIONABLE="0",
        JAX_RANDOM_SEED_OFFSET="5",
        JAX_DEFAULT_PRNG_IMPL="rbg",
        JAX_SOFTMAX_CUSTOM_JVP="0",
        JAX_DISABLE_JIT="1",
        JAX_ENABLE_X64="1",
        JAX_DEFAULT_MATMUL_PRECISION="bfloat16",
        JAX_DISABLE_MOST_OPTIMIZATIONS="1",
        XLA_FLAGS=flags,
    )
    for mode in MODES:
        assert found[mode][0] == plain[mode][0], mode
        assert differences(plain[mode][1], found[mode][1]) == {
            "xla_flags": ("", flags),
            "jax_settings.jax_disable_most_optimizations": ("False", "True"),
        }


def test_a_file_of_flags_is_named_by_its_content(files, plain, tmp_path):
    """So is the instruction set, as XLA was told to see it."""
    flags = tmp_path / "flags"
    flags.write_text("--xla_cpu_max_isa=SSE4_2\n--xla_cpu_multi_thread_eigen=false\n")
    found = run(files, XLA_FLAGS=str(flags))
    for mode in MODES:
        told = differences(plain[mode][1], found[mode][1])
        assert told["xla_flags"] == ("", "--xla_cpu_max_isa=SSE4_2 --xla_cpu_multi_thread_eigen=false")
        if "avx2" in plain[mode][1]["instruction_set"].split():
            assert "avx2" not in told["instruction_set"][1].split()
        assert set(told) <= {"xla_flags", "instruction_set"}


def test_the_instruction_set_is_that_of_the_processor():
    path = "/proc/cpuinfo"
    if not os.path.exists(path):
        pytest.skip("only Linux lists a processor's features")
    with open(path) as file:
        known = next(line for line in file if line.startswith(("flags", "Features"))).split(":")[1].split()
    assert {"avx2", "avx512f", "fma"} & set(known) == {"avx2", "avx512f", "fma"} & set(instruction_set().split())


def test_what_is_named_is_as_it_was_at_compiling(monkeypatch, tmp_path):
    call = Explainer(
        network([node("Gemm", ["x", "w"], ["y"])], {"x": (TensorProto.FLOAT, ["n", 4])}, w=random(4, 3)),
        task="multi-class classification",
    )
    x = random(1, 4, seed=1)
    first = call(x, target=1)
    with monkeypatch.context() as patch:
        patch.setenv("PJRT_NPROC", "77")
        patch.setattr(jax, "__version__", "another")
        again = call(x, target=1)
        later = call(random(1, 4, seed=2), target=1)
    assert differences(first.fingerprint, again.fingerprint) == differences(first.fingerprint, later.fingerprint) == {}
    first.save(tmp_path / "saved.npz")
    assert Explanation.load(tmp_path / "saved.npz").fingerprint == first.fingerprint


def test_differences_name_what_only_one_has_and_what_is_inside_of_fields():
    one = {"mode": "default", "options": {"a": 1, "b": 2}, "old": 1}
    other = {"mode": "default", "options": {"a": 1, "b": 3}, "new": [1]}
    assert differences(one, other) == {"options.b": (2, 3), "old": (1, None), "new": (None, [1])}
    assert differences(one, one) == {}
