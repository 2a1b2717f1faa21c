"""Numerics policy: float types, contraction precision, and the one way in which functions are compiled.

What is compiled ahead of time is freed with the last reference to it. What JAX compiles by itself, when a function or
an operation is called, it keeps for each shape until the process ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import jax
import numpy as np

from .arguments import choice
from .interrupting import interruptible

Device: TypeAlias = Any  # a jax.Device, which type checkers take for a variable

FLOAT_TYPES = {"float32": np.dtype(np.float32), "float64": np.dtype(np.float64)}
PRECISIONS = ("highest", "high", "default")

COMPILER_OPTIONS: dict[str, dict[str, Any]] = {
    "cpu": {"xla_disable_hlo_passes": "cse_barrier_expander"},
    "gpu": {"xla_gpu_deterministic_ops": True, "xla_gpu_exclude_nondeterministic_ops": True},
}
"""Options of each compiled function, by backend; set per function, so no process-wide flag is touched.

On the CPU, XLA would drop optimisation barriers before it fuses, and then compute a value anew, rounded otherwise, in
each place that reads it: the winner of a selection would not be found among its operands.
"""


def float_type(name: str) -> np.dtype:
    """The float type of this name.

    Raises:
        SettingError: For any other name.
    """
    return FLOAT_TYPES[choice("dtype", name, FLOAT_TYPES)]


@contextmanager
def exact_types(precision: str = "highest") -> Iterator[None]:
    """Inside, 64-bit types are kept as they are and contractions have this precision; nothing global changes."""
    with jax.enable_x64(True), jax.default_matmul_precision(precision):
        yield


def compiled(function: Callable[..., Any], *types: Any, device: Device, precision: str = "highest") -> Any:
    """Compile a function for arguments of these types (or arrays of them), on one device."""
    with exact_types(precision), jax.default_device(device):
        lowered = jax.jit(function).lower(*types)
        return interruptible(lowered.compile, compiler_options=COMPILER_OPTIONS.get(device.platform, {}))
