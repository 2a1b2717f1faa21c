"""What is explained of a JAX model, and its relevance in float64."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from backtrace_jax.importers.jax import read
from backtrace_jax.ir import Program
from backtrace_jax.passes import simplify, with_float_type
from tests.passes.graphs import outputs

Arrays = dict[str, np.ndarray]


def imported(model: Any, x: Any, batch_axis: Any = 0) -> Program:
    """A model as it is lowered for an example with its batch."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found = read(model, x, batch_axis, proven=False)
        return found.lower({name: array.shape for name, array in found.arrays(x).items()})


def simplified(model: Any, x: Any, batch_axis: Any = 0) -> Program:
    """The same in float64 and in the form that rules speak about."""
    return simplify(with_float_type(imported(model, x, batch_axis), np.dtype(np.float64)))


def check_forward(model: Any, x: np.ndarray, batch_axis: Any = 0) -> Program:
    """A model of one array computes what it says, as lowered and as simplified; gives what it was lowered to."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        expected = np.asarray(model(jax.numpy.asarray(x)))
    program = imported(model, x, batch_axis)
    (name,) = (var.name for var in program.graph.inputs)
    np.testing.assert_allclose(outputs(program, {name: x})[0], expected, rtol=1e-5, atol=1e-6)
    wide = simplify(with_float_type(program, np.dtype(np.float64)))
    np.testing.assert_allclose(outputs(wide, {name: x.astype(np.float64)})[0], expected, rtol=1e-5, atol=1e-5)
    return program


def body_of(program: Program) -> Any:
    """The one scan of a program."""
    (scan,) = (eqn for eqn in program.graph.eqns if eqn.op == "scan")
    return scan
