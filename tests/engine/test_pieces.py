"""Long functions are compiled in pieces: same result, equal pieces once, and nothing wide is computed anew."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxpr_as_fun

from backtrace_jax import Explainer
from backtrace_jax.engine import compile, pieces
from backtrace_jax.engine.forms import Forms
from backtrace_jax.engine.forward import compile_batched_forward, compile_forward, forward
from backtrace_jax.engine.keeping import MANY, keep_wide
from backtrace_jax.engine.plan import plan_walk
from backtrace_jax.question.answers import read_answer
from backtrace_jax.question.tasks import QuestionForm, resolve_task
from backtrace_jax.question.words import open_question
from backtrace_jax.rules import find_mode
from backtrace_jax.runtime.numerics import exact_types
from benchmarks.scaling.models import WIDTH, residual
from tests.engine.graphs import program

X = np.random.default_rng(0).standard_normal((3, WIDTH)).astype(np.float32)


@pytest.fixture
def short(monkeypatch):
    """Pieces of a few equations, of whatever is compiled."""
    monkeypatch.setattr(pieces, "WHOLE", 50)
    monkeypatch.setattr(pieces, "SHORTEST", 30)
    monkeypatch.setattr(pieces, "LONGEST", 120)


def layers(depth):
    """A traced chain of equal layers, and its weights."""
    weights = [jnp.asarray(np.random.default_rng(i).standard_normal((WIDTH, WIDTH)) / 4) for i in range(depth)]

    def chain(x, *weights):
        for w in weights:
            x = jnp.tanh(x @ w) + jnp.sin(x) / 2
        return x, 3.0, weights[0]

    return jax.make_jaxpr(chain)(jnp.asarray(X), *weights), (jnp.asarray(X), *weights), chain


def compiled_pieces(closed):
    return pieces.compile_pieces(closed, device=jax.devices()[0]).pieces


def test_pieces_compute_the_function(short):
    closed, arguments, chain = layers(40)
    assert len(closed.jaxpr.eqns) > pieces.WHOLE
    found = pieces.compile_pieces(closed, device=jax.devices()[0])(arguments)
    for each, expected in zip(found, chain(*arguments), strict=True):
        np.testing.assert_allclose(each, expected, rtol=1e-4)


def test_equal_layers_are_compiled_once(short):
    """Four times the depth takes four times the pieces, and no more to compile."""
    few, many = (compiled_pieces(layers(depth)[0]) for depth in (40, 160))
    assert len(many) > 3 * len(few)
    assert max(len({id(each.run) for each in found}) for found in (few, many)) <= 4


def test_pieces_are_cut_at_the_same_places_every_time(short):
    spans = [list(pieces._spans(layers(40)[0].jaxpr.eqns)) for _ in range(2)]
    assert spans[0] == spans[1]
    assert all(end - start <= 120 for start, end in spans[0])


def test_no_piece_runs_that_nobody_waits_for(short, monkeypatch):
    closed, arguments, _ = layers(40)
    run = pieces.compile_pieces(closed, device=jax.devices()[0])
    asked = []

    def interrupted():
        asked.append(None)
        if len(asked) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(pieces, "stop_if_interrupted", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(arguments)
    assert len(asked) == 3


@pytest.mark.parametrize("mode", ["default", "gradient"])
def test_explanations_are_the_same_in_pieces(mode, monkeypatch, short):
    found = Explainer(residual(6), mode=mode, chunk=8)({"x": X})
    monkeypatch.setattr(pieces, "WHOLE", 10**6)
    expected = Explainer(residual(6), mode=mode, chunk=8)({"x": X})
    np.testing.assert_allclose(found.relevance["x"], expected.relevance["x"], rtol=1e-4, atol=1e-7)
    np.testing.assert_array_equal(found.target, expected.target)


def weights_and_inputs(blocks: int, chunk: int):
    """A deep model, and examples of it."""
    kernels = [np.random.default_rng(i).standard_normal((WIDTH, WIDTH)).astype(np.float32) / 4 for i in range(blocks)]

    def deep(b, x):
        for kernel in kernels:
            x = b.emit("tanh", b.emit("matmul", x, kernel))
        return x

    model = program(deep, x=((1, WIDTH), np.dtype(np.float32)))
    return model, np.random.default_rng(1).standard_normal((chunk, 1, WIDTH)).astype(np.float32)


@pytest.mark.parametrize("whole", [50, 10**6])
def test_functions_are_traced_once(whole, short, monkeypatch):
    """However they are compiled."""
    monkeypatch.setattr(pieces, "WHOLE", whole)
    traced = []

    def counted(*some, **more):
        traced.append(None)
        return forward(*some, **more)

    for module in ("compile", "forward"):
        monkeypatch.setattr(f"backtrace_jax.engine.{module}.forward", counted)
    model, X = weights_and_inputs(30, 8)
    compile_forward(model.graph, dict(model.weights), {"x": X[0]})
    assert len(traced) == 1
    compile_batched_forward(model.graph, dict(model.weights), {"x": X})
    assert len(traced) == 2
    explaining(model, X)
    assert len(traced) == 3


@pytest.mark.parametrize("whole", [50, 10**6])
def test_chunks_one_after_the_other_give_what_all_examples_at_once_give(whole, short, monkeypatch):
    """And leave alone those that hold no examples."""
    monkeypatch.setattr(pieces, "WHOLE", whole)
    model, X = weights_and_inputs(30, 8)
    found, expected = explaining(model, X, chunks=4, used=3), explaining(model, X)
    found = jax.tree.map(lambda array: np.reshape(array, (8, *array.shape[2:])), found)
    assert found.relevance["x"].shape == X.shape
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one[:6], other[:6], rtol=1e-4, atol=1e-6), found, expected
    )
    assert not any(np.any(array[6:]) for array in jax.tree.leaves(found))


@pytest.mark.parametrize("compiles", [True, False])
def test_entries_that_are_not_asked_for_are_not_computed(compiles):
    """One entry of a hundred costs one run of the function, whatever else has room."""
    seen = []

    def function(x):
        jax.debug.callback(lambda value: seen.append(float(value)), x[0])
        return x + 1

    def call(arrays, count):
        return pieces.first_ones(function, arrays, count, jax.ShapeDtypeStruct((2,), np.float32))

    arrays = np.arange(200, dtype=np.float32).reshape(100, 2)
    run = jax.jit(call) if compiles else call
    for count in (1, 3, 0, 100):
        seen.clear()
        found = np.asarray(run(arrays, np.int32(count)))
        jax.effects_barrier()
        assert sorted(seen) == arrays[:count, 0].tolist()
        np.testing.assert_array_equal(found, np.where(np.arange(100)[:, None] < count, arrays + 1, 0))


def explaining(model, X, chunks=1, used=1):
    """The result for a chunk, or for as many of several chunks as are used, compiled for it."""
    graph, mode, constant = model.graph, find_mode("default"), compile.Constant({}, {})
    plan = plan_walk(graph, mode, graph.outputs[0])
    task = resolve_task("auto", read_answer(graph, plan.output), QuestionForm(False))
    request, examples = compile.Request(plan, mode, task, {}, "highest"), ({"x": X}, open_question(len(X)))
    if chunks > 1:
        examples = jax.tree.map(lambda array: np.reshape(array, (chunks, -1, *array.shape[1:])), examples)
    chunk = examples if chunks == 1 else jax.tree.map(lambda array: array[0], examples)
    explain = compile.compile_explain(request, model.weights, constant, chunk, jax.devices()[0], chunks=chunks)
    count = [np.int32(used)] if chunks > 1 else []
    with exact_types():
        return explain.call(explain.prepare(dict(model.weights)), constant, *examples, *count)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x: x + 0.0, lambda x: x + -0.0),
        (lambda x: x * 2.0, lambda x: x * 3.0),
        (lambda x: x[:2], lambda x: x[1:3]),
        (lambda x: jax.jit(lambda y: y * 2.0)(x), lambda x: jax.jit(lambda y: y * 3.0)(x)),
        (lambda x: (x + 1, x), lambda x: (x, x + 1)),
    ],
)
def test_what_differs_is_not_taken_for_equal(one, other):
    x = jnp.ones(3)
    forms = Forms()
    assert forms.of(jax.make_jaxpr(one)(x).jaxpr) != forms.of(jax.make_jaxpr(other)(x).jaxpr)
    assert forms.of(jax.make_jaxpr(one)(x).jaxpr) == forms.of(jax.make_jaxpr(one)(x).jaxpr)


def test_functions_with_derivatives_of_their_own_are_equal():
    """JAX writes another derivative rule into every call, and nobody differentiates what is compiled."""
    x, forms = jnp.ones(3), Forms()
    traced = [jax.make_jaxpr(lambda x: jax.nn.relu(x) + jax.nn.softmax(x))(x).jaxpr for _ in range(2)]
    assert "custom_jvp_call" in {eqn.primitive.name for eqn in traced[0].eqns}
    assert forms.of(traced[0]) == forms.of(traced[1])
    assert forms.of(traced[0]) != forms.of(jax.make_jaxpr(lambda x: jax.nn.relu6(x) + jax.nn.softmax(x))(x).jaxpr)


def test_a_split_into_many_stays_apart():
    """Fused with each other and with all their readers, splits take the square of their results to compile."""

    def function(x):
        return [jnp.sin(each) for each in jnp.split(x, MANY + 1)]

    x = jnp.arange(3.0 * (MANY + 1))
    kept = keep_wide(jax.make_jaxpr(function)(x))
    names = [eqn.primitive.name for eqn in kept.jaxpr.eqns]
    assert names[:3] == ["optimization_barrier", "split", "optimization_barrier"]
    np.testing.assert_array_equal(jaxpr_as_fun(kept)(x), function(x))


def test_a_forward_pass_in_pieces(short):
    """Its outputs in their order, of weights that are arguments."""
    kernels = [np.random.default_rng(i).standard_normal((WIDTH, WIDTH)).astype(np.float32) / 4 for i in range(30)]

    def deep(b, x):
        y = x
        for kernel in kernels:
            y = b.emit("tanh", b.emit("matmul", y, kernel))
        return {"deep": y, "x": x}

    model = program(deep, x=(X.shape, np.dtype(np.float32)))
    run = compile_forward(model.graph, dict(model.weights), {"x": X})
    for sign in (1, -1):
        expected = X.astype(np.float64)
        for kernel in kernels:
            expected = np.tanh(expected @ (sign * kernel))
        found, same = run({name: sign * weight for name, weight in model.weights.items()}, {"x": X})
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-7)
        np.testing.assert_array_equal(same, X)


def test_what_many_read_is_computed_once_and_stays_apart():
    """Two values of one type, each read by many, are kept under names of their own."""

    def function(x, y):
        a, b = jnp.sin(x), jnp.cos(y)
        return jnp.concatenate([a * i for i in range(MANY + 2)] + [b * i for i in range(MANY + 2)])

    x, y = jnp.arange(3.0), jnp.arange(3.0) + 7
    kept = keep_wide(jax.make_jaxpr(function)(x, y))
    results = [var for eqn in kept.jaxpr.eqns for var in eqn.outvars]
    assert len(results) == len(set(results))
    barriers = [eqn for eqn in kept.jaxpr.eqns if eqn.primitive.name == "optimization_barrier"]
    assert len(barriers) == 4  # behind both values, and on both sides of the concatenation
    np.testing.assert_array_equal(jaxpr_as_fun(kept)(x, y)[0], function(x, y))
