"""Numerics policy: float types, contraction precision, and the one way in which functions are compiled.

What is compiled ahead of time is freed with the last reference to it. What JAX compiles by itself, when a function or
an operation is called, it keeps for each shape until the process ends; so it does with the traces of its own functions,
which are evicted from time to time (`forget_traces`). Freed memory is returned to the system then (`return_memory`).
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import count
from types import FunctionType
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from backtrace_jax.errors import SettingError
from backtrace_jax.errors.arguments import choice

from .executables import compiled_or_kept
from .interrupting import interruptible
from .summing import with_short_sums

Device: TypeAlias = Any  # a jax.Device, which type checkers take for a variable

FLOAT_TYPES = {"float32": np.dtype(np.float32), "float64": np.dtype(np.float64)}
PRECISIONS = ("highest", "high", "default")

_TRACES_KEPT = 64  # lowered functions after which traces are evicted
_lowered = count(1)
_Jitted = type(jax.jit(lambda: None))
_REMEMBERING = (type(lru_cache(lambda: None)), FunctionType)  # as functools makes them, and as JAX wraps those
_OF_TYPES = {
    *(f"jax._src.{each}" for each in ("core", "pjit", "api", "sharding", "sharding_impls", "named_sharding", "layout")),
    *("jax._src.interpreters.pxla", "jax._src.lax.lax", "jax._src.lax.slicing", "jax._src.lax.utils"),
}
"""Modules of JAX whose remembered results follow from types and settings; none is a compiled function."""

COMPILER_OPTIONS: dict[str, dict[str, Any]] = {
    "cpu": {
        "xla_disable_hlo_passes": "cse_barrier_expander",
        "xla_backend_optimization_level": 3,
        "xla_llvm_disable_expensive_passes": False,
        "xla_cpu_enable_fast_math": False,
        "xla_cpu_prefer_vector_width": 256,
    },
    "gpu": {"xla_gpu_deterministic_ops": True, "xla_gpu_exclude_nondeterministic_ops": True},
}
"""Options of each compiled function, by backend. They are set for each function: no process-wide flag is touched, and
neither flags of the same names nor `JAX_DISABLE_MOST_OPTIMIZATIONS` have an effect.

On the CPU, XLA would drop optimisation barriers before it fuses, and then compute a value anew, rounded otherwise, in
each place that reads it: the winner of a selection would not be found among its operands.
"""


_NEEDED: dict[str, Any] = {
    **dict.fromkeys(("jax_scan3", "jax_no_execution", "jax_no_tracing"), False),
    **{f"jax_error_checking_behavior_{kind}": "ignore" for kind in ("nan", "divide", "oob")},
}
"""Settings with which JAX cannot trace, batch or run what is compiled here, and that no context of its own sets."""


def float_type(name: str) -> np.dtype:
    """The float type of this name.

    Raises:
        SettingError: For any other name.
    """
    return FLOAT_TYPES[choice("dtype", name, FLOAT_TYPES)]


def below_normal(arrays: np.ndarray, dtype: Any) -> np.ndarray:
    """Which of these arrays, the first axis counting them, hold no number as large as a type's smallest normal one.

    Those of zeros alone are none of them. XLA takes such numbers for 0 on CPUs.
    """
    largest = np.abs(arrays).reshape(len(arrays), -1).max(axis=1, initial=0)
    return (largest > 0) & (largest < float(jnp.finfo(dtype).smallest_normal))


@contextmanager
def exact_types(precision: str = "highest") -> Iterator[None]:
    """Inside, 64-bit types are kept as they are, contractions have this precision, and nothing global changes.

    The caller's own settings of JAX that change numbers have no effect inside.

    Raises:
        SettingError: When JAX is set to something that it cannot compile explanations with.
    """
    for name, needed in _NEEDED.items():
        if getattr(jax.config, name, needed) != needed:
            raise SettingError(
                f"JAX cannot compile this while {name} is {getattr(jax.config, name)!r}: unset {name.upper()}, or "
                f"jax.config.update({name!r}, {needed!r})"
            )
    with (
        jax.enable_x64(True),
        jax.default_matmul_precision(precision),
        jax.threefry_partitionable(True),
        jax.softmax_custom_jvp(True),
        jax.disable_jit(False),
        jax.enable_checks(False),
    ):
        yield


def random_key(seed: int) -> Any:
    """The key of a seed for JAX's threefry generator, whatever generator and offset of seeds the caller has set."""
    words = np.array([seed >> 32 & 0xFFFFFFFF, seed & 0xFFFFFFFF], np.uint32)
    return jax.random.wrap_key_data(jnp.asarray(words), impl="threefry2x32")


@contextmanager
def within_memory(chunk: int) -> Iterator[None]:
    """Say by name what does not fit into the memory of the machine or the device.

    Args:
        chunk: How many examples are explained at a time.

    Raises:
        SettingError: With what makes it smaller.
    """
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        fewer = "smaller examples" if chunk == 1 else "fewer or smaller examples at a time: chunk=1"
        raise SettingError(f"this does not fit into memory ({error!s:.100}); explain {fewer}") from error


def compiled(function: Callable[..., Any], *types: Any, device: Device, precision: str = "highest") -> Any:
    """Compile a function for arguments of these types (or arrays of them), on one device; or find it compiled."""
    with exact_types(precision), jax.default_device(device):
        lowered = jax.jit(with_short_sums(function), keep_unused=True).lower(
            *types
        )  # so that its text tells all of its arguments
    if next(_lowered) % _TRACES_KEPT == 0:
        forget_traces()
        return_memory()
    return interruptible(compiled_or_kept, lowered, device, COMPILER_OPTIONS.get(device.platform, {}))


def forget_traces() -> None:
    """Evict what JAX's own jitted functions (`jnp.where`, `jnp.add`, ...) keep of every type they were called with.

    JAX has no bound on it: some 100 kB to 2 MB for each shape of a model's inputs. Nothing of the caller's own
    functions is touched; where they call one of JAX's outside of `jit`, that one is compiled anew. What JAX works out
    of types alone while it traces and lowers (shardings, layouts, shapes) is bounded, but by thousands of entries for
    each of many functions: 0.3 MB for each shape. It is evicted as well.
    """
    for each in gc.get_objects():
        kind = type(each)
        if kind is _Jitted and getattr(each, "__module__", "").startswith("jax."):
            each.clear_cache()  # type: ignore[attr-defined]
        elif kind in _REMEMBERING and each.__module__ in _OF_TYPES and hasattr(each, "cache_clear"):
            each.cache_clear()


def return_memory() -> None:
    """Return freed memory to the system, where the C library knows how to: glibc.

    What XLA has compiled and freed lies about in pieces, some 50 kB of each function, and the process grows by them.
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)
