"""Random graphs: what is explained example by example is what the model computes on the whole batch, or refused."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from hypothesis import HealthCheck, assume, event, given, settings
from onnx.reference import ReferenceEvaluator

from backtrace_jax import BacktraceError
from backtrace_jax.batch.layout import left
from backtrace_jax.batch.leaving import leavings
from backtrace_jax.importers import read
from backtrace_jax.ops.control import run
from backtrace_jax.runtime.numerics import exact_types
from tests.batch.random_graphs import graphs

COUNT = 3


def inputs_of(model, count=COUNT):
    shape = [size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    return np.random.default_rng(5).normal(size=(count, *shape)).astype(np.float32)


def whole(model, x):
    """What ONNX's own implementation computes on the batch; graphs that it cannot run are none."""
    try:
        found = np.asarray(next(iter(ReferenceEvaluator(model).run(None, {"x": x}))))
    except Exception:
        found = np.full((), np.nan)
    assume(found.size and np.isfinite(found).all())
    return found


def alone(model, x):
    """What is explained: each example through the graph for one, and where the batch of its output was."""
    imported = read(model)
    leaving = leavings(imported, {"x": 0}, {"x": x.shape[1:]}, len(x))
    program = left(imported.lower({"x": (1, *x.shape[1:])}), leaving)
    (output,) = program.graph.outputs
    with exact_types():
        weights = {name: jnp.asarray(array) for name, array in program.weights.items()}
        results = [run(program.graph.eqns, {"x": jnp.asarray(row[None]), **weights})[output.name] for row in x]
    axis = 0 if leaving is None else leaving[0].axis  # None: the output is batch first as it comes
    return np.concatenate([np.asarray(each) for each in results]), axis


def check_same(found, axis, expected):
    if axis is not None:
        np.testing.assert_allclose(found, np.moveaxis(expected, axis, 0), rtol=1e-4, atol=1e-4)
    elif found.size == expected.size:  # examples and entries of theirs share one axis
        np.testing.assert_allclose(np.sort(found, None), np.sort(expected, None), rtol=1e-4, atol=1e-4)
    else:
        for each in found:
            np.testing.assert_allclose(each, expected, rtol=1e-4, atol=1e-4)


def outcome(model):
    """How a graph fares: each example alone is its part of the whole, or the graph is refused."""
    x = inputs_of(model)
    expected = whole(model, x)
    try:
        found, axis = alone(model, x)
    except BacktraceError:
        return "refused"
    check_same(found, axis, expected)
    return "the same"


@settings(max_examples=150, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(graphs())
def test_each_example_alone_is_its_part_of_the_whole_or_refused(model):
    event(outcome(model))
