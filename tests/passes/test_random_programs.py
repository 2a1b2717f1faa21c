"""Passes never change what a program computes: random programs before and after them, in float64."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from backtrace_jax.engine.forward import forward
from backtrace_jax.ir import Program
from backtrace_jax.passes import channels_last, simplify
from backtrace_jax.passes.check import check
from backtrace_jax.runtime.numerics import exact_types
from tests.passes.graphs import draw
from tests.passes.random_programs import random_program


def values(program: Program, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with exact_types():
        weights, arrays = ({name: jnp.asarray(a) for name, a in some.items()} for some in (program.weights, inputs))
        return {name: np.asarray(value) for name, value in forward(program.graph, weights, arrays).items()}


def largest(arrays: dict[str, np.ndarray]) -> float:
    """Largest finite magnitude on the way: what sums that cancel are off by is a rounding of that."""
    floats = (array[np.isfinite(array)] for array in arrays.values() if array.dtype.kind == "f")
    return max(float(np.abs(array).max(initial=1)) for array in floats)


def check_passes(seed):
    """What passes leave of the program of this number computes the same."""
    before = random_program(seed)
    inputs = {var.name: draw(np.random.default_rng(seed), var) for var in before.graph.inputs}
    wanted = values(before, inputs)
    for after in (simplify(before), channels_last(simplify(before))):
        check(after.graph)
        found = values(after, inputs)
        for old, new in zip(before.graph.outputs, after.graph.outputs, strict=True):
            assert (old.shape, old.dtype) == (new.shape, new.dtype)
            finite = np.isfinite(wanted[old.name])
            off = np.abs(found[new.name] - wanted[old.name])[finite]
            assert off.max(initial=0) <= 1e-12 * largest(wanted)
    return "the same"


@given(st.integers(0, 10**6))
@settings(max_examples=20)
def test_passes_keep_the_function(seed):
    check_passes(seed)
