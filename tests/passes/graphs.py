"""Small programs, and the value of their outputs in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np

from backtrace_jax.engine.forward import forward
from backtrace_jax.ir import Program, Var
from backtrace_jax.passes.build import Builder, Value
from backtrace_jax.passes.check import check
from backtrace_jax.runtime.numerics import exact_types

DOUBLE, SINGLE = np.dtype(np.float64), np.dtype(np.float32)


def program(
    build: Callable[..., Value | Mapping[str, Value]], *shapes: tuple[int, ...], dtype: np.dtype = DOUBLE
) -> Program:
    """A program whose one output, or whose outputs by name, `build` computes from a builder and inputs x0, x1, ..."""
    builder = Builder()
    inputs = [builder.input(f"x{i}", shape, dtype) for i, shape in enumerate(shapes)]
    result = build(builder, *inputs)
    return builder.finish(result if isinstance(result, Mapping) else {"y": result})


def draw(generator: np.random.Generator, var: Var) -> np.ndarray:
    """A value for an input."""
    return generator.normal(size=var.shape).astype(var.dtype)


def outputs(program: Program, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Outputs of the forward pass, operation by operation."""
    with exact_types():
        weights, arrays = ({name: jnp.asarray(a) for name, a in some.items()} for some in (program.weights, inputs))
        values = forward(program.graph, weights, arrays)
        return [np.asarray(values[var.name]) for var in program.graph.outputs]


def operations(program: Program) -> list[str]:
    """Names of the operations in order."""
    return [eqn.op for eqn in program.graph.eqns]


def check_unchanged(before: Program, after: Program, tolerance: float = 1e-12) -> None:
    """Both are well formed, have the same inputs and outputs, and compute the same."""
    check(after.graph)
    assert after.graph.inputs == before.graph.inputs
    assert after.graph.output_names == before.graph.output_names
    assert set(after.weights) >= {var.name for var in after.graph.params}
    generator = np.random.default_rng(0)
    inputs = {var.name: draw(generator, var) for var in before.graph.inputs}
    for old, new in zip(outputs(before, inputs), outputs(after, inputs), strict=True):
        size = np.abs(old[np.isfinite(old)]).max()
        np.testing.assert_allclose(new, old, rtol=tolerance, atol=tolerance * size, strict=True)
