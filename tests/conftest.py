"""What holds for every test: two host devices, strict dtypes and ranks, checked types, fixed examples."""

from __future__ import annotations

import gc
import os

TWO_DEVICES = "--xla_force_host_platform_device_count"
if TWO_DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {TWO_DEVICES}=2".strip()
os.environ.setdefault("OMP_NUM_THREADS", "2")  # for torch
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["BACKTRACE_JAX_CACHE"] = "off"  # what is compiled is neither taken from the user's home nor left there

WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
if WORKER and hasattr(os, "sched_setaffinity"):  # a core for each worker, or their thread pools are in each other's way
    CORES = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {CORES[int(WORKER.removeprefix("gw")) % len(CORES)]})

import hypothesis  # noqa: E402
import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

from tests.zoo.runtime import onnxruntime_outputs as run_onnxruntime  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile("tests", derandomize=True, deadline=None, max_examples=50)
hypothesis.settings.load_profile("tests")


jaxtyping.install_import_hook("backtrace_jax", "beartype.beartype")


def pytest_collection_modifyitems(items):
    """Networks of random weights deserve their warnings; they are shown, and tests of warnings ask for them."""
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("default::backtrace_jax.errors.RelevanceWarning"))


@pytest.fixture
def onnxruntime_outputs():
    """The function (model, inputs) -> outputs of onnxruntime."""
    return run_onnxruntime


@pytest.fixture(autouse=True)
def _compiled_to_run_once(request, monkeypatch):
    """What XLA's optimisations cost is not earned back, so only tests marked `optimised` compile as users do."""
    from backtrace_jax.runtime.numerics import COMPILER_OPTIONS
    from tests.rules.running import CHEAP

    if request.node.get_closest_marker("optimised") is None:
        for name, value in CHEAP.items():
            monkeypatch.setitem(COMPILER_OPTIONS["cpu"], name, value)


@pytest.fixture(autouse=True, scope="module")
def _compiled_functions_are_let_go():
    """Every compiled function holds memory maps; a process may have some 65,000 of them, and there are many tests."""
    yield
    from backtrace_jax.explainer.explaining import kept_explainer
    from backtrace_jax.ops.registry import _on_host
    from tests.rules.running import COMPILED

    kept_explainer.cache_clear()
    _on_host.cache_clear()
    COMPILED.clear()
    jax.clear_caches()
    gc.collect()
