"""What XLA makes of an explanation: books that close as they do step by step, and nothing larger than the weights."""

from __future__ import annotations

import re

import jax
import numpy as np
import pytest

from backtrace_jax.engine.books import KEPT, Books
from backtrace_jax.engine.compile import Constant, Request, compile_explain
from backtrace_jax.engine.cost import cost
from backtrace_jax.engine.forward import compile_forward
from backtrace_jax.engine.plan import plan_walk
from backtrace_jax.ir import Program
from backtrace_jax.question.answers import read_answer
from backtrace_jax.question.tasks import QuestionForm, resolve_task
from backtrace_jax.question.words import open_question
from backtrace_jax.rules import DEAD, find_mode
from backtrace_jax.runtime.numerics import exact_types
from tests.engine.graphs import SINGLE, program
from tests.rules.running import assert_books_close

pytestmark = pytest.mark.optimised
CHUNK = 32
NOTHING = Constant({}, {})
generator = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _the_same_numbers_for_every_test():
    generator.bit_generator.state = np.random.default_rng(0).bit_generator.state


def compiled(model: Program, chunk: int = CHUNK, *, custom: bool = True, prepare: bool = True):
    """The compiled explanation, and the types of its examples."""
    graph = model.graph
    mode = find_mode("default")
    plan = plan_walk(graph, mode, graph.outputs[0])
    request = Request(
        plan, mode, resolve_task("auto", read_answer(graph, plan.output), QuestionForm(custom)), {}, "highest"
    )
    inputs = {var.name: jax.ShapeDtypeStruct((chunk, *var.shape), var.dtype) for var in graph.inputs}
    given = jax.ShapeDtypeStruct((chunk, *plan.output.shape), plan.output.dtype) if custom else None
    types = inputs, open_question(chunk)._replace(start=given)
    weights = {var.name: jax.ShapeDtypeStruct(var.shape, var.dtype) for var in graph.params}
    return compile_explain(request, weights, NOTHING, types, jax.devices()[0], prepare=prepare), types


def explained(model: Program, chunk: int):
    """Result for random examples under random start relevance."""
    explain, (inputs, asked) = compiled(model, chunk)
    types = inputs, asked.start
    inputs, given = jax.tree.map(lambda kind: generator.normal(size=kind.shape).astype(kind.dtype), types)
    with exact_types():
        prepared = explain.prepare(dict(model.weights))
        return explain.call(prepared, NOTHING, inputs, asked._replace(start=given)), given


def affine(builder, x):
    """Multiplied and added entry by entry, which XLA fuses into whatever reads it."""
    scale, shift = (generator.normal(size=x.shape).astype(SINGLE) for _ in range(2))
    return builder.emit("add", builder.emit("mul", x, scale), shift)


def normal(builder, x):
    return builder.emit("layer_norm", affine(builder, x), axes=(len(x.shape) - 1,), epsilon=1e-5)


ROWS, IMAGE = (1, 37, 19), (1, 5, 18, 19)
POOL = {"window": (3, 3), "strides": (2, 2), "padding": ((1, 1), (1, 1)), "dilation": (1, 1)}
SELECTIONS = {
    "over rows": (ROWS, lambda b, x: b.emit("reduce_max", x, axes=(1,), keepdims=False)),
    "over columns": (ROWS, lambda b, x: b.emit("reduce_max", x, axes=(2,), keepdims=True)),
    "over all": (ROWS, lambda b, x: b.emit("reduce_max", x, axes=(1, 2), keepdims=False)),
    "smallest": (ROWS, lambda b, x: b.emit("reduce_min", x, axes=(1,), keepdims=False)),
    "of two": (ROWS, lambda b, x: b.emit("maximum", x, b.emit("reverse", affine(b, x), axes=(1,)))),
    "pool": (IMAGE, lambda b, x: b.emit("max_pool", x, **POOL)),
}


@pytest.mark.parametrize("name", SELECTIONS)
@pytest.mark.parametrize(("before", "chunk"), [(affine, 1), (normal, 1), (normal, CHUNK)])
def test_winners_are_found_after_fusion(name, before, chunk):
    """A winner is an entry equal to the maximum: XLA must not compare a recomputed entry, rounded otherwise."""
    shape, choose = SELECTIONS[name]
    model = program(lambda b, x: choose(b, before(b, x)), x=(shape, SINGLE))
    result, given = explained(model, chunk)
    assert_books_close(Books(*(np.asarray(book).reshape(-1, 2 + len(KEPT)) for book in result.books[:2]), None), 1e-5)
    assert (np.asarray(result.books.absolute)[..., 2 + KEPT.index(DEAD)] == 0).all()
    kept = np.asarray(result.books.signed)[..., 2:].sum((1, 2))
    handed = np.asarray(result.relevance["x"], np.float64).reshape(chunk, -1).sum(1)
    started = given.reshape(chunk, -1).astype(np.float64)
    np.testing.assert_allclose(handed + kept, started.sum(1), rtol=0, atol=1e-5 * np.abs(started).sum())


WIDE = 4096


def largest_shape(text: str) -> int:
    """Entries of the largest array that the text of a compiled module mentions."""
    shapes = re.findall(r"\b(?:pred|bf16|[fsu]\d+)\[([\d,]*)\]", text)
    return max(int(np.prod([int(size) for size in shape.split(",") if size])) for shape in shapes)


@pytest.mark.parametrize(("activation", "copies"), [("relu", 1), ("tanh", 2)])
def test_nothing_is_larger_than_the_weights(activation, copies):
    """One 4096 -> 4096 layer at chunk 32: |K| (or K⁺ and K⁻) is the most that is made, and never [chunk, out, in]."""
    K = np.zeros((WIDE, WIDE), SINGLE)
    model = program(lambda b, x: b.emit(activation, b.emit("matmul", x, K)), x=((1, WIDE), SINGLE))
    for prepare in (True, False):
        explain, _ = compiled(model, prepare=prepare)
        temporary = explain.call.memory_analysis().temp_size_in_bytes
        assert largest_shape(explain.call.as_text()) == WIDE * WIDE
        assert explain.derived_bytes + temporary <= 1.1 * copies * K.nbytes
        assert (explain.derived_bytes >= K.nbytes) == prepare


def residual(builder, x, blocks: int):
    """A residual stream that normalised linear maps read and add to."""
    for _ in range(blocks):
        K = generator.normal(size=(x.shape[-1],) * 2).astype(SINGLE)
        x = builder.emit("add", x, builder.emit("matmul", normal(builder, x), K))
    return x


def test_work_grows_with_depth_and_not_with_its_square():
    """What a residual stream has received is added up once: as many more instructions for every block."""
    sizes = []
    for blocks in (2, 4, 6):
        explain, _ = compiled(program(lambda b, x, n=blocks: residual(b, x, n), x=(ROWS, SINGLE)), 1)
        sizes.append(explain.call.as_text().count(" = "))
    first, second = np.diff(sizes)
    assert second <= 1.05 * first


def test_evidence_takes_the_memory_of_one_layer():
    """Of each layer only its input waits for relevance; what follows from it is gathered in its turn."""
    x, taken = (1, 64, 128), []
    for blocks in (4, 8):
        explain, _ = compiled(program(lambda b, x, n=blocks: stacked(b, x, n), x=(x, SINGLE)), 1)
        taken.append(explain.call.memory_analysis().temp_size_in_bytes)
    (grown,) = np.diff(taken)
    assert grown <= 4 * 1.1 * np.zeros(x, SINGLE).nbytes


def stacked(builder, x, blocks: int):
    """Linear maps one after the other."""
    for _ in range(blocks):
        x = builder.emit("matmul", x, generator.normal(size=(x.shape[-1],) * 2).astype(SINGLE))
    return x


def test_largest_shape_reads_the_text():
    assert largest_shape("a = f32[2,3]{1,0} b(f64[4,5,6] c, pred[] d, s64[7] e)") == 120


def test_cost_counts_floating_point_operations():
    K = np.zeros((64, 32), SINGLE)
    assert cost(program(lambda b, x: b.emit("matmul", x, K), x=((1, 64), SINGLE))) == 2 * 64 * 32


def test_the_forward_pass_alone():
    K = generator.normal(size=(4, 3)).astype(SINGLE)
    model = program(lambda b, x: {"z": b.emit("matmul", x, K), "x": x}, x=((2, 4), SINGLE))
    x = generator.normal(size=(2, 4)).astype(SINGLE)
    z, same = compile_forward(model.graph, dict(model.weights), {"x": x})(dict(model.weights), {"x": x})
    np.testing.assert_allclose(z, x @ K, rtol=1e-5)
    np.testing.assert_array_equal(same, x)
