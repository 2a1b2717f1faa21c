"""The tests run with beartype on every annotated function of the library."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import backtrace_jax
from backtrace_jax.importers import read
from backtrace_jax.ops.linear import reduce_sum


@pytest.mark.parametrize(
    "module", [found.name for found in pkgutil.walk_packages(backtrace_jax.__path__, "backtrace_jax.")]
)
def test_every_module_is_loaded_through_the_checker(module):
    if module.endswith("make_models"):
        pytest.skip("a script that trains the demo's networks")
    loader = importlib.import_module(module).__spec__.loader
    assert type(loader).__module__.startswith("jaxtyping"), loader


def test_a_wrong_type_is_caught():
    with pytest.raises(Exception, match="reduce_sum"):
        reduce_sum("text", axes=(0,), keepdims=False)
    assert read.__module__ == "backtrace_jax.importers"
