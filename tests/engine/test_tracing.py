"""What occurs over and over is traced once, and means the same as if it were traced every time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from backtrace_jax import Explainer
from backtrace_jax.engine import sharing
from backtrace_jax.engine.tracing import Traces
from benchmarks.scaling.models import WIDTH, concat, residual

X = np.random.default_rng(0).standard_normal((3, WIDTH)).astype(np.float32)


def test_equal_calls_are_traced_once_and_give_the_same_equations():
    traced = []

    def function(arrays):
        traced.append(None)
        one, (other, nothing) = arrays
        total = one * 2 + jnp.sin(other)
        return {"sum": total, "same": [total, one], "none": nothing}

    def calls(call, x, y):
        found = [call(pair) for pair in ((x, (x, None)), (x, (y, None)), (y, (x, None)))]
        return [(each["sum"], each["same"], each["none"]) for each in found], found[0]["sum"] is found[0]["same"][0]

    def through(x, y):
        traces = Traces()
        found, same = calls(lambda arrays: traces.call("key", function, arrays), x, y)
        assert same  # one value in two places stays one
        return found

    x, y = jnp.arange(3.0), jnp.arange(3.0) + 5
    once = jax.make_jaxpr(jax.vmap(through))(x, y)
    assert len(traced) == 1
    assert str(once) == str(jax.make_jaxpr(jax.vmap(lambda x, y: calls(function, x, y)[0]))(x, y))


def test_what_differs_is_traced_anew():
    def through(x):
        traces = Traces()
        double, triple = (lambda factor: lambda a: a * factor)(2), (lambda factor: lambda a: a * factor)(3)
        return traces.call(2, double, x), traces.call(3, triple, x), traces.call(2, double, x[:2])

    found = jax.jit(through)(jnp.arange(3.0))
    jax.tree.map(np.testing.assert_array_equal, found, ([0, 2, 4], [0, 3, 6], [0, 2]))


@pytest.mark.parametrize("model", [residual, concat])
def test_equal_layers_and_operands_are_traced_once(model, monkeypatch):
    counts, applied = [], sharing._applied
    monkeypatch.setattr(sharing, "_applied", lambda *given: counts.append(None) or applied(*given))
    for size in (3, 9):
        counts.append(size)
        Explainer(model(size), mode="lrp-epsilon-plus", chunk=8)({"x": X})
    few, many = counts.index(9) - 1, len(counts) - counts.index(9) - 1
    assert few == many
