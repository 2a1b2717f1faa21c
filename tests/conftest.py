"""What holds for every test: two host devices, strict dtypes and ranks, checked types, fixed examples."""

from __future__ import annotations

import importlib.abc
import os
import sys

TWO_DEVICES = "--xla_force_host_platform_device_count"
if TWO_DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {TWO_DEVICES}=2".strip()
os.environ.setdefault("OMP_NUM_THREADS", "2")  # for torch
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import hypothesis  # noqa: E402
import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

from tests.zoo.runtime import onnxruntime_outputs as run_onnxruntime  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile("tests", derandomize=True, deadline=None, max_examples=50)
hypothesis.settings.load_profile("tests")


class PathFinder(importlib.abc.MetaPathFinder):
    """Asks the finders of sys.path and of editable installs in turn.

    jaxtyping's hook wraps the one finder called PathFinder, and that does not know `backtrace_jax.importers`,
    whose files an editable install finds in another folder. So the hook is given this one to wrap.
    """

    @staticmethod
    def find_spec(fullname, path=None, target=None):
        names = ("PathFinder", "_EditableFinder")
        finders = [finder for finder in sys.meta_path if getattr(finder, "__name__", "") in names]
        specs = (finder.find_spec(fullname, path, target) for finder in finders)
        return next((spec for spec in specs if spec is not None), None)


def check_types(package: str) -> None:
    """Let beartype check every annotated argument and result of a package that is imported later."""
    sys.meta_path.insert(0, PathFinder)
    try:
        jaxtyping.install_import_hook(package, "beartype.beartype")
    finally:
        sys.meta_path.remove(PathFinder)


check_types("backtrace_jax")


@pytest.fixture
def onnxruntime_outputs():
    """The function (model, inputs) -> outputs of onnxruntime."""
    return run_onnxruntime
