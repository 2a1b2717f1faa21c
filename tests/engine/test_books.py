"""Books at three levels: those of the whole graph are the nodes' added up, and relevance is the same at each."""

from __future__ import annotations

import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

from backtrace_jax.engine.forward import forward
from backtrace_jax.engine.plan import plan_walk
from backtrace_jax.engine.walk import walk
from backtrace_jax.question.words import LEDGERS, NODES, TOTAL
from backtrace_jax.rules import find_mode
from backtrace_jax.runtime.numerics import exact_types
from tests.engine import test_recurrence, test_walk
from tests.rules.running import CHEAP

GRAPHS = {
    "recurrent": (test_recurrence.over_time(test_recurrence.ALL, False), test_recurrence.INPUTS),
    "attention": (test_walk.MODEL, test_walk.INPUTS),
}
SUBJECTS = [
    ("recurrent", "default", False),
    ("recurrent", "contrastive", False),
    ("attention", "lrp-epsilon", False),
    ("attention", "contrastive", True),
    ("attention", "attnlrp", True),
]


@functools.cache
def walks(name, mode, masked):
    """A function from the start to what is walked at each level; with masks, half of an inner value is cut off."""
    program, inputs = GRAPHS[name]
    graph = program.graph
    plan = plan_walk(graph, find_mode(mode), graph.outputs[0])
    inner = next(step.eqn.outvars[0] for step in plan.steps[2:] if step.eqn.outvars[0].is_float)
    masks = {inner.name: np.full(inner.shape, 0.5)} if masked else {}

    def run(weights, inputs, start):
        values, starts = forward(graph, weights, inputs), {plan.output.name: start}
        return {str(level): walk(plan, values, starts, masks=masks, ledger=level) for level in (*LEDGERS, None)}

    shape = (2, *plan.output.shape) if plan.paired else plan.output.shape
    with exact_types():
        types = dict(program.weights), inputs, jax.ShapeDtypeStruct(shape, np.float64)
        function = jax.jit(run).lower(*types).compile(compiler_options=CHEAP)
    return plan, shape, lambda start: jax.tree.map(np.asarray, function(*types[:2], start))


@pytest.mark.parametrize(("name", "mode", "masked"), SUBJECTS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_totals_are_those_of_the_nodes(name, mode, masked, data):
    plan, shape, walked = walks(name, mode, masked)
    start = data.draw(hnp.arrays(np.float64, shape, elements=st.floats(-4, 4, width=16)))
    with exact_types():
        found = walked(jnp.asarray(np.abs(start) if plan.paired else start))
    nodes, total, nothing = found[NODES], found[TOTAL], found["None"]
    assert nothing.books[:2] == (None, None)
    own = list(plan.own_rows)
    for each, whole in zip(nodes.books[:2], total.books[:2], strict=True):
        expected, size = each[own].sum(0), nodes.books.absolute[own].sum(0)
        assert whole.shape == (1, *expected.shape)
        assert (np.abs(whole[0, 2:] - expected[2:]) <= 1e-14 * len(own) * size[2:]).all()
        assert not whole[0, :2].any()
    for other in (total, nothing):
        assert {key: array.tobytes() for key, array in other.relevance.items()} == {
            key: array.tobytes() for key, array in nodes.relevance.items()
        }
        np.testing.assert_array_equal(other.books.strain, nodes.books.strain)
