"""Gradient modes: the walk gives JAX's own gradient, and the variants of it that were published (RULES 11)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import jax
import numpy as np
import pytest

from backtrace_jax.engine.forward import forward
from backtrace_jax.engine.plan import plan_walk
from backtrace_jax.engine.walk import walk
from backtrace_jax.ir import Program
from backtrace_jax.ops import OPS, POINTWISE, QUOTIENT, evaluate_by_xla
from backtrace_jax.passes.build import Builder
from backtrace_jax.rules import find_mode, mode
from backtrace_jax.runtime.numerics import exact_types
from tests.engine.graphs import DOUBLE, INDEX, program
from tests.ops.specimens import SPECIMENS
from tests.rules.cases import entries, nonzero
from tests.rules.running import CHEAP, close, walk_back, walk_op

Arrays = Mapping[str, np.ndarray]


def walked_and_derived(model: Program, inputs: Arrays, start: np.ndarray, chosen: str = "gradient") -> list[Arrays]:
    """What the walk gives the inputs, and JAX's gradient of the output weighed by the start."""
    graph = model.graph
    plan = plan_walk(graph, find_mode(chosen), graph.outputs[0])
    carried = {var.name for var in plan.inputs}

    def run(weights, inputs, start):
        values = forward(graph, weights, inputs)
        relevance = walk(plan, values, {plan.output.name: start}).relevance

        def answer(bearing):
            return (start * forward(graph, weights, {**inputs, **bearing})[plan.output.name]).sum()

        derived = jax.grad(answer)({name: inputs[name] for name in carried})
        return {name: relevance[name] for name in carried}, derived

    with exact_types():
        arguments = dict(model.weights), dict(inputs), start
        found = jax.jit(run).lower(*arguments).compile(compiler_options=CHEAP)(*arguments)
        return [jax.tree.map(np.asarray, each) for each in found]


def check(model: Program, inputs: Arrays, seed: int = 0) -> None:
    start = np.random.default_rng(seed).normal(size=model.graph.outputs[0].shape)
    walked, derived = walked_and_derived(model, inputs, start)
    assert walked.keys() == derived.keys()
    for name, gradient in derived.items():
        close(walked[name], gradient)
    assert max(np.abs(gradient).max() for gradient in derived.values()) > 0.1


def side_by_side(names: list[str]) -> Program:
    """Specimens on inputs of their own, their results one after the other."""
    builder, flat = Builder(), []
    for name in names:
        specimen = SPECIMENS[name]
        operands = [
            builder.input(f"{name} {i}", operand, DOUBLE) if isinstance(operand, tuple) else operand
            for i, operand in enumerate(specimen.operands)
        ]
        result = builder.emit(specimen.op, *operands, **specimen.params)
        flat.append(builder.emit("reshape", result, shape=(int(np.prod(result.shape)),)))
    return builder.finish({"y": builder.emit("concat", *flat, axis=0)})


POSITIVE_ONLY = ("log", "rsqrt", "sqrt", "pow", "acosh", "lgamma", "digamma")
RANGES = {**dict.fromkeys(("acos", "asin", "atanh", "erf_inv"), (-0.9, 0.9)), "probit": (0.1, 0.9)}


def drawn(generator: np.random.Generator, name: str, position: int, shape: tuple[int, ...]) -> np.ndarray:
    """Operands inside the domain of the operation."""
    if name in RANGES:
        return generator.uniform(*RANGES[name], size=shape)
    if name in POSITIVE_ONLY and position == 0:
        return generator.uniform(1.1, 3, size=shape)
    quotient = OPS[SPECIMENS[name].op].kind == QUOTIENT
    return nonzero(generator, shape) if quotient and position == 1 else generator.normal(size=shape)


_RETYPING = ("cast", "quantize", "dequantize")  # whose results cannot stand beside doubles
FAMILIES = {
    "one-input functions": [
        name for name in SPECIMENS if OPS[SPECIMENS[name].op].kind == POINTWISE and name not in _RETYPING
    ],
    "everything else": [name for name in SPECIMENS if OPS[SPECIMENS[name].op].kind != POINTWISE],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_operation(family):
    """Also where both factors of a product, or both sides of a quotient, depend on the inputs."""
    names, generator = FAMILIES[family], np.random.default_rng(0)
    model = side_by_side(names)
    shapes = {var.name: var.shape for var in model.graph.inputs}
    inputs = {key: drawn(generator, *_split(key), shape) for key, shape in shapes.items()}
    check(model, inputs)


def _split(key: str) -> tuple[str, int]:
    name, position = key.rsplit(" ", 1)
    return name, int(position)


generator = np.random.default_rng(3)
W, V, U, TABLE, K = (generator.normal(size=shape) for shape in ((6, 6), (6, 4), (6, 6), (9, 6), (3, 2, 2, 2)))
b, scale, shift = (generator.normal(size=(1, 6)) for _ in range(3))


def transformer(builder, x):
    """Attention with a mask, a shortcut, layer normalisation, a gated dense layer, a mean."""
    q, k, v = (builder.emit("matmul", x, weight) for weight in (W, U, W @ U))
    scores = builder.emit("matmul", q, builder.emit("transpose", k, perm=(1, 0)))
    masked = builder.emit("add", scores, np.where(np.tri(5) > 0, 0.0, -np.inf))
    mixed = builder.emit("matmul", builder.emit("softmax", masked, axis=1), v)
    both = builder.emit("layer_norm", builder.emit("add", x, mixed), scale, shift, axes=(1,), epsilon=1e-5)
    gated = builder.emit("mul", both, builder.emit("sigmoid", builder.emit("matmul", both, U, b)))
    return builder.emit("matmul", builder.emit("reduce_mean", gated, axes=(0,), keepdims=True), V)


def convolutional(builder, x):
    """Convolution, bias, rectifier, max pooling, flattening, a dense layer, log-softmax."""
    geometry = {"strides": (1, 1), "padding": ((1, 0), (0, 1)), "dilation": (1, 1)}
    maps = builder.emit("relu", builder.emit("conv", x, K, b[0, :3].reshape(1, 3, 1, 1), groups=1, **geometry))
    pooled = builder.emit("max_pool", maps, window=(2, 2), **{**geometry, "strides": (2, 2)})
    flat = builder.emit("reshape", pooled, shape=(1, 27))
    dense = builder.emit("matmul", flat, np.resize(W, (27, 4)) + np.arange(27)[:, None] % 3)
    return builder.emit("log_softmax", dense, axis=1)


def rational(builder, x):
    """A quotient of two values, powers, and a value used twice."""
    squares = builder.emit("integer_pow", x, exponent=2)
    below = builder.emit("add", builder.emit("reduce_sum", squares, axes=(1,), keepdims=True), np.array([[1.0]]))
    return builder.emit("sub", builder.emit("div", builder.emit("mul", x, squares), below), x)


NETWORKS: dict[str, tuple[Callable[..., object], tuple[int, ...]]] = {
    "transformer": (transformer, (5, 6)),
    "convolutional": (convolutional, (1, 2, 5, 5)),
    "rational": (rational, (3, 4)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name):
    build, shape = NETWORKS[name]
    check(program(build, x=(shape, DOUBLE)), {"x": np.random.default_rng(1).normal(size=shape)})


def test_tied_winners_share_the_derivative():
    """A subgradient like any other, and the one that does not depend on the order of the entries."""
    walked = walk_op(
        "reduce_max", [np.array([1.0, 3.0, 3.0])], np.array(4.0), mode="gradient", axes=(0,), keepdims=False
    )
    close(walked.relevance["x0"], np.array([0.0, 2.0, 2.0]))


KINKS = {  # what an operation's derivative is at places of which some are kinks, as PyTorch has it
    "abs": ({}, [-2, 0, 3], [-1, 0, 1]),
    "relu": ({}, [-2, 0, 3], [0, 0, 1]),
    "clip": ({"low": 0.0, "high": 6.0}, [-1, 0, 1, 6, 7], [0, 0, 1, 0, 0]),
    "leaky_relu": ({"alpha": 0.25}, [-2, 0, 3], [0.25, 0.25, 1]),
    "elu": ({"alpha": 0.5}, [0, 3], [0.5, 1]),
    "selu": ({"alpha": 1.5, "gamma": 2.0}, [0, 3], [3, 2]),
    "celu": ({"alpha": 0.5}, [0, 3], [1, 1]),
    "hard_sigmoid": ({"alpha": 0.5, "beta": 0.5}, [-1, 0, 1], [0, 0.5, 0]),
    "hard_swish": ({}, [-3, 0, 3], [-0.0, 0.5, 1]),
    "thresholded_relu": ({"alpha": 1.0}, [0, 1, 2], [0, 0, 1]),
}


@pytest.mark.parametrize("op", KINKS)
def test_derivatives_at_kinks(op):
    """At an end of its range a function no longer follows its operand, however it is computed."""
    params, x, slope = KINKS[op]
    walked = walk_op(op, [np.array(x, float)], np.full(len(x), 2.0), mode="gradient", **params)
    close(walked.relevance["x0"], 2.0 * np.array(slope))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_compiled_products_and_sums_leave_kinks_where_they_are(dtype):
    """Sixths are not exact; rounded together with the sum, x/6 + 1/2 would be above 0 at -3."""
    x, sixth = np.array([-3.0, 0.0, 3.0], dtype), {"alpha": 1 / 6, "beta": 0.5}
    for op, params, slope in (("hard_sigmoid", sixth, [0, 1 / 6, 0]), ("hard_swish", {}, [0, 0.5, 1])):
        with exact_types():
            found = jax.jit(jax.vmap(jax.grad(partial(OPS[op].apply, **params))))(x)
        np.testing.assert_allclose(found, slope, rtol=1e-6)


def test_the_derivative_of_a_leaky_rectifier_with_known_slopes():
    walked = walk_op("prelu", [np.array([-1.0, 0, 2]), np.full(3, 0.25)], np.ones(3), mode="gradient", constant=(1,))
    close(walked.relevance["x0"], np.array([0.25, 0.25, 1]))


@pytest.mark.parametrize(("low", "high"), [(None, 1), (0, None), (2, 1), (-math.inf, math.inf)])
def test_clipped_values(low, high):
    """Bounds that cross leave the upper one, as ONNX says; NaN stays."""
    x = np.array([-math.inf, -1.0, 0.0, 0.5, 1.0, 2.0, math.nan])
    found = evaluate_by_xla("clip", [x], {"low": low, "high": high})
    raised = x if low is None else np.maximum(x, low)
    np.testing.assert_array_equal(found, raised if high is None else np.minimum(raised, high))


def test_an_infinite_derivative_counts_as_none():
    walked = walk_op("sqrt", [np.array([0.0, 4.0])], np.ones(2), mode="gradient")
    close(walked.relevance["x0"], np.array([0.0, 0.25]))


def test_a_token_gets_the_derivative_along_its_row():
    """The sum over the looked-up row, as for any relevance (RULES 9)."""
    model = program(lambda b, ids: b.emit("matmul", b.emit("gather", TABLE, ids, axis=0), V), ids=((3,), INDEX))
    start = np.random.default_rng(0).normal(size=(3, 4))
    walked = walk_back(model, {"ids": np.array([4, 4, 0])}, start, mode="gradient")
    close(walked.relevance["ids"], (start @ V.T).sum(1))


# guided backpropagation and deconvnet, on a perceptron written out in NumPy


def perceptron(builder, x):
    hidden = builder.emit("relu", builder.emit("matmul", x, W, b))
    hidden = builder.emit("relu", builder.emit("matmul", hidden, U, shift))
    return builder.emit("matmul", hidden, V)


def backwards(x: np.ndarray, start: np.ndarray, through: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """The signal that returns to x, given what a rectifier does with (its input, what came back)."""
    first = x @ W + b
    second = np.maximum(first, 0) @ U + shift
    return through(first, through(second, start @ V.T) @ U.T) @ W.T


THROUGH = {
    "gradient": lambda z, R: np.where(z > 0, R, 0),
    "guided-backprop": lambda z, R: np.where((z > 0) & (R > 0), R, 0),
    "deconvnet": lambda z, R: np.where(R > 0, R, 0),
}


@pytest.mark.parametrize("name", THROUGH)
def test_rectifiers(name):
    model = program(perceptron, x=((2, 6), DOUBLE))
    for seed in range(4):
        generator = np.random.default_rng(seed)
        x, start = entries(generator, (2, 6)), generator.normal(size=(2, 4))
        walked = walk_back(model, {"x": x}, start, mode=name)
        close(walked.relevance["x"], backwards(x, start, THROUGH[name]))
        others = [backwards(x, start, THROUGH[other]) for other in THROUGH if other != name]
        assert min(np.abs(walked.relevance["x"] - other).max() for other in others) > 0.01


def test_rectifiers_before_max_pooling():
    """A convolution, a rectifier, max pooling: what comes back negative stops at the rectifier, or does not."""
    x, kernel, start = np.array([[[1.0, -2.0, 3.0, 1.0]]]), np.array([[[1.0, -1.0]]]), np.array([[[2.0, -5.0]]])
    sizes = {"padding": ((0, 0),), "dilation": (1,)}

    def build(builder, x):
        z = builder.emit("relu", builder.emit("conv", x, kernel, strides=(1,), groups=1, **sizes))
        return builder.emit("max_pool", z, window=(2,), strides=(1,), **sizes)

    model = program(build, x=((1, 1, 4), DOUBLE))
    expected = {"gradient": [2, -2, -5, 5], "guided-backprop": [2, -2, 0, 0], "deconvnet": [2, -2, 0, 0]}
    for name, share in expected.items():  # z = 3, -5, 2: the windows' winners are the first and the last
        close(walk_back(model, {"x": x}, start, mode=name).relevance["x"], np.array([[share]], float))


def test_only_rectifiers_differ():
    for name in ("guided-backprop", "deconvnet"):
        assert mode(name).rules[1:] == mode("gradient").rules
