"""What XLA makes of an explanation: books that close as they do step by step, and nothing larger than the weights."""

from __future__ import annotations

import re

import jax
import numpy as np
import pytest

from backtrace_jax.engine.compile import Request, compile_explain, compile_forward, cost
from backtrace_jax.engine.plan import plan_walk
from backtrace_jax.ir import Program
from backtrace_jax.numerics import exact_types
from backtrace_jax.rules import find_mode
from backtrace_jax.tasks import resolve_task
from tests.engine.graphs import SINGLE, program
from tests.rules.running import assert_books_close

CHUNK = 32
generator = np.random.default_rng(0)


def compiled(model: Program, chunk: int = CHUNK, *, custom: bool = True):
    """The compiled explanation, and the types of its examples."""
    graph = model.graph
    plan = plan_walk(graph, find_mode("default"), graph.outputs[0])
    request = Request(plan, resolve_task("auto", graph, plan.output, 1.0, custom=custom), {}, "highest")
    inputs = {var.name: jax.ShapeDtypeStruct((chunk, *var.shape), var.dtype) for var in graph.inputs}
    given = jax.ShapeDtypeStruct((chunk, *plan.output.shape), plan.output.dtype) if custom else None
    types = inputs, jax.ShapeDtypeStruct((chunk,), np.dtype(np.int64)), given
    weights = {var.name: jax.ShapeDtypeStruct(var.shape, var.dtype) for var in graph.params}
    return compile_explain(request, weights, types, jax.devices()[0]), types


def explained(model: Program):
    """Result for random examples under random start relevance."""
    call, (inputs, _, given) = compiled(model)
    inputs, given = jax.tree.map(lambda kind: generator.normal(size=kind.shape).astype(kind.dtype), (inputs, given))
    with exact_types():
        return call(dict(model.weights), inputs, np.full(CHUNK, -1), given), given


def affine(builder, x):
    """Multiplied and added entry by entry, which XLA fuses into whatever reads it."""
    scale, shift = (generator.normal(size=x.shape).astype(SINGLE) for _ in range(2))
    return builder.emit("add", builder.emit("mul", x, scale), shift)


POOL = {"window": (3, 3), "strides": (2, 2), "padding": ((1, 1), (1, 1)), "dilation": (1, 1)}
SHAPE = (1, 37, 19)
SELECTIONS = {
    "reduce_max": (lambda b, x: b.emit("reduce_max", affine(b, x), axes=(1,), keepdims=False), SHAPE),
    "reduce_min": (lambda b, x: b.emit("reduce_min", affine(b, x), axes=(2,), keepdims=True), SHAPE),
    "maximum": (lambda b, x: b.emit("maximum", affine(b, x), b.emit("reverse", affine(b, x), axes=(1,))), SHAPE),
    "max_pool": (lambda b, x: b.emit("max_pool", affine(b, x), **POOL), (1, 5, 17, 19)),
    "gelu, reduce_max": (
        lambda b, x: b.emit("reduce_max", b.emit("gelu", affine(b, x), approximate=False), axes=(1,), keepdims=False),
        SHAPE,
    ),
    "layer_norm, reduce_max": (
        lambda b, x: b.emit(
            "reduce_max", b.emit("layer_norm", affine(b, x), axes=(2,), epsilon=1e-5), axes=(1,), keepdims=False
        ),
        SHAPE,
    ),
    "silu, max_pool": (lambda b, x: b.emit("max_pool", b.emit("silu", affine(b, x)), **POOL), (1, 5, 17, 19)),
}


@pytest.mark.parametrize("name", SELECTIONS)
def test_winners_are_found_after_fusion(name):
    """A winner is an entry equal to the maximum: XLA must not compare a recomputed entry, rounded otherwise."""
    build, shape = SELECTIONS[name]
    result, given = explained(program(build, x=(shape, SINGLE)))
    assert_books_close(jax.tree.map(np.asarray, result.books), 1e-5)
    kept = np.asarray(result.books.signed)[..., 2:].sum((1, 2))
    handed = np.asarray(result.relevance["x"], np.float64).sum((1, 2, 3)[: len(shape)]).reshape(CHUNK, -1).sum(1)
    np.testing.assert_allclose(handed + kept, given.reshape(CHUNK, -1).sum(1, dtype=np.float64), rtol=0, atol=1e-3)


WIDE = 4096


def largest_shape(text: str) -> int:
    """Entries of the largest array that the text of a compiled module mentions."""
    shapes = re.findall(r"\b(?:pred|bf16|[fsu]\d+)\[([\d,]*)\]", text)
    return max(int(np.prod([int(size) for size in shape.split(",") if size])) for shape in shapes)


@pytest.mark.parametrize(("activation", "copies"), [("relu", 1), ("tanh", 2)])
def test_nothing_is_larger_than_the_weights(activation, copies):
    """One 4096 -> 4096 layer at chunk 32: |K| (or K⁺ and K⁻) is the most that is made, and never [chunk, out, in]."""
    K = np.zeros((WIDE, WIDE), SINGLE)
    call, _ = compiled(program(lambda b, x: b.emit(activation, b.emit("matmul", x, K)), x=((1, WIDE), SINGLE)))
    assert largest_shape(call.as_text()) == WIDE * WIDE
    assert call.memory_analysis().temp_size_in_bytes <= 1.1 * copies * K.nbytes


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
