"""Memory that is short, settings of JAX that stand in the way, and numbers below the normal range."""

from __future__ import annotations

import ctypes
import os
import platform

import jax
import numpy as np
import pytest

from backtrace_jax.errors import SettingError
from backtrace_jax.runtime.numerics import below_normal, exact_types, return_memory, within_memory
from benchmarks.processes import resident


@pytest.mark.parametrize(
    "error", [MemoryError("full"), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory " + "x" * 900)]
)
def test_what_does_not_fit_is_told_with_a_way_out(error):
    with pytest.raises(SettingError, match=r"does not fit into memory .*chunk=1") as caught, within_memory(8):
        raise error
    assert caught.value.__cause__ is error
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("error", [jax.errors.JaxRuntimeError("INTERNAL: broken"), ValueError("RESOURCE_EXHAUSTED")])
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error)) as caught, within_memory(8):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("name", ["jax_scan3", "jax_no_execution"])
def test_settings_that_jax_cannot_compile_with_are_named(name):
    if name not in jax.config.values:
        pytest.skip(f"a JAX without {name}")
    jax.config.update(name, True)
    try:
        with pytest.raises(SettingError, match=rf"while {name} is True: unset {name.upper()}"), exact_types():
            raise AssertionError
    finally:
        jax.config.update(name, False)
    with exact_types():
        assert jax.config.jax_enable_x64


def test_arrays_that_are_read_as_zero():
    found = np.array([[0, 1e-40], [0, 0], [1e-40, 1e-30], [-1e-39, 1e-45], [np.nan, 1e-40]])
    np.testing.assert_array_equal(below_normal(found, np.float32), [True, False, False, True, False])
    assert not below_normal(found, np.float64).any()
    assert not below_normal(np.zeros((1, 0)), np.float32).any()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_returned_to_the_system():
    """Also what lies below a block that is still in use."""
    library = ctypes.CDLL(None)
    library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    blocks = [library.malloc(60_000) for _ in range(2000)]  # 114 MiB
    for block in blocks:
        ctypes.memset(block, 1, 60_000)
    for block in blocks[:-1]:
        library.free(block)
    held = resident(os.getpid())
    return_memory()
    assert held - resident(os.getpid()) > 80
    library.free(blocks[-1])
