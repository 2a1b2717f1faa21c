"""Numerics policy: float types, contraction precision, and the compiler options that make a backend deterministic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from .arguments import choice
from .ir import Eqn, Graph
from .ops import compute

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


def first_break(graph: Graph, weights: Mapping[str, Any], example: Mapping[str, np.ndarray]) -> str:
    """The node and operator of the first equation that turns finite operands into NaN or Inf; empty if there is none.

    Args:
        graph: The graph.
        weights: Its weights.
        example: One example's inputs, in the shapes of the graph.
    """
    with exact_types():
        values: dict[str, Any] = jax.tree.map(jnp.asarray, {**weights, **example})
        for eqn in graph.eqns:
            values.update(compute(eqn, values))
            if _breaks(eqn, values):
                return f", first in node {eqn.source.node!r} ({eqn.source.operator})"
    return ""


def _breaks(eqn: Eqn, values: Mapping[str, Any]) -> bool:
    """Whether an equation made NaN, or Inf out of finite operands."""
    results, operands = (
        [np.asarray(values[var.name]) for var in variables if var.is_float] for variables in (eqn.outvars, eqn.invars)
    )
    if all(np.isfinite(array).all() for array in results):
        return False
    made_nan = any(np.isnan(array).any() for array in results) and not any(np.isnan(array).any() for array in operands)
    return made_nan or all(np.isfinite(array).all() for array in operands)
