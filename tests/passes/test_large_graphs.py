"""Passes take work in proportion to the graph, and wide nodes become what costs no more than they hold."""

import numpy as np
import pytest
from onnx import numpy_helper

from backtrace_jax import explain
from backtrace_jax.passes import simplify
from backtrace_jax.passes.rewriting import Rewriting
from backtrace_jax.passes.sums import flatten_sums
from backtrace_jax.passes.tidy import tidy
from benchmarks.scaling import models
from tests.passes.graphs import check_unchanged, operations, program


def chain_of_sums(size):
    def build(builder, x):
        total = x
        for _ in range(size):
            total = builder.emit("add", total, builder.emit("sin", x))
        return total

    return program(build, (2, 3))


@pytest.mark.parametrize("size", [20, 200])
def test_a_chain_of_sums_is_read_once(size, monkeypatch):
    """Every operand is put into one new equation only, however long the chain."""
    operands = []
    equation = Rewriting.equation
    monkeypatch.setattr(
        Rewriting,
        "equation",
        lambda self, like, op, *invars, **more: operands.extend(invars) or equation(self, like, op, *invars, **more),
    )
    before = chain_of_sums(size)
    after = flatten_sums(before)
    assert operations(after).count("add") == 1
    assert len(operands) == size + 1
    check_unchanged(before, after)


@pytest.mark.parametrize("pattern", ["x" * 20, "xyxxyyx" * 5])
def test_a_few_values_joined_many_times_are_gathered(pattern):
    def build(builder, x, y):
        return builder.emit("concat", *({"x": x, "y": y}[name] for name in pattern), axis=1)

    before = program(build, (2, 3), (2, 4))
    after = tidy(before)
    assert operations(after) == ["concat"] * (len(set(pattern)) - 1) + ["gather"]
    check_unchanged(before, after)


def test_many_different_values_stay_joined():
    before = program(
        lambda builder, x: builder.emit(
            "concat", *(builder.emit("integer_pow", x, exponent=i) for i in range(70)), axis=1
        ),
        (2, 3),
    )
    after = tidy(before)
    assert operations(after)[-1] == "concat"
    check_unchanged(before, after)


def test_new_names_stay_short():
    """Thousands of new values may ask for one name."""
    rewriting = Rewriting(program(lambda builder, x: builder.emit("sin", x), (2,)))
    names = [rewriting.param("x0", np.zeros(1)).name for _ in range(2000)]
    assert names[:2] == ["x0'", "x0'2"]
    assert len(set(names)) == 2000
    assert max(map(len, names)) < 10


@pytest.mark.parametrize("mode", ["default", "gradient"])
def test_relevance_of_a_value_joined_many_times_is_that_of_all_its_copies(mode):
    """Sixty copies, each with weights of its own, are one value with their sum in a linear model."""
    x = np.random.default_rng(0).standard_normal((1, models.WIDTH)).astype(np.float32)
    found = explain(models.concat_same(60), {"x": x}, mode=mode, dtype="float64", scaler=1.0)
    weights = numpy_helper.to_array(models.concat_same(60).graph.initializer[-1]).astype(float)
    assert found.target is not None
    K = weights.reshape(60, models.WIDTH, 4)[..., found.target[0]]
    y = np.tanh(x.astype(float))[0]
    if mode == "gradient":
        expected = K.sum(0) * (1 - y**2)
    else:
        sizes = (np.abs(K) * np.abs(y)).sum(0)
        expected = sizes / sizes.sum()
    np.testing.assert_allclose(found.relevance["x"][0], expected, rtol=1e-9)


@pytest.mark.parametrize("kind", ["chain", "residual", "sum", "consumers", "diamonds", "doubling", "outputs"])
def test_visits_grow_with_the_graph(kind, monkeypatch):
    """Four times the size: at most five times the equations looked at by all passes together."""
    from backtrace_jax.importers.onnx import load, lower

    seen = []
    replaced = Rewriting._replaced
    monkeypatch.setattr(
        Rewriting, "_replaced", lambda self, eqn, *more: (seen.append(len(eqn.invars)), replaced(self, eqn, *more))[1]
    )

    def visited(size):
        seen.clear()
        model = models.MODELS[kind](size)
        simplify(lower(load(model), {info.name: (1, models.WIDTH) for info in model.graph.input}))
        return sum(seen)

    assert visited(60) <= 5 * visited(15)
