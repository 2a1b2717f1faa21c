"""Saturation ranges and signs, read off the graph."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backtrace_jax.analysis.bearing import bearing
from backtrace_jax.analysis.facts import gates, nonnegative_values, saturation
from backtrace_jax.engine.forward import forward
from backtrace_jax.runtime.numerics import exact_types
from tests.engine.graphs import DOUBLE, jax_arrays, plan_of, program

X = ((2, 4), DOUBLE)
RANGES = {"tanh": (-2, 2), "sigmoid": (-4, 4), "softmax": (-1, 2), "silu": (-6, math.inf)}


def limits(build) -> dict[str, tuple[float, float]]:
    """Ranges of a graph in which z is called z."""

    def named(builder, x):
        z = builder.emit("matmul", x, np.ones((4, 4)))
        builder.rename(z, "z")
        return build(builder, z)

    return saturation(program(named, x=X).graph)


@pytest.mark.parametrize("op", RANGES)
def test_the_activation_that_alone_consumes_a_value_limits_it(op):
    assert limits(lambda b, z: b.emit(op, z)) == {"z": RANGES[op]}


@pytest.mark.parametrize("op", ["relu", "exp", "erf", "softplus", "neg", "hard_swish", "log_softmax"])
def test_other_functions_set_no_limits(op):
    assert limits(lambda b, z: b.emit(op, z)) == {}


def test_limits_reach_through_reshapes_and_transposes():
    def build(builder, z):
        rows = builder.emit("reshape", z, shape=(4, 2))
        return builder.emit("softmax", builder.emit("transpose", rows, perm=(1, 0)), axis=1)

    assert limits(build) == dict.fromkeys(("z", "reshape", "transpose"), (-1, 2))


def tanh_of(builder, z, start, limit):
    """tanh of some columns of z [2, 4]."""
    return builder.emit("tanh", builder.emit("slice", z, start=(0, start), limit=(2, limit), stride=(1, 1)))


def test_limits_of_parts_are_arrays():
    """As for gates that come from one product: each part is consumed by its own activation, the last by none."""

    def build(builder, z):
        gate = builder.emit("sigmoid", builder.emit("slice", z, start=(0, 2), limit=(2, 3), stride=(1, 1)))
        return {"y": builder.emit("mul", tanh_of(builder, z, 0, 2), builder.emit("expand", gate, shape=(2, 2)))}

    low, high = limits(build)["z"]
    np.testing.assert_array_equal(low, [[-2, -2, -4, -np.inf]])
    np.testing.assert_array_equal(high, [[2, 2, 4, np.inf]])


def test_what_two_parts_share_has_no_limits():
    low, high = limits(lambda b, z: b.emit("add", tanh_of(b, z, 0, 3), tanh_of(b, z, 2, 3)))["z"]
    np.testing.assert_array_equal(low, [[-2, -2, -np.inf, -np.inf]])
    np.testing.assert_array_equal(high, [[2, 2, np.inf, np.inf]])


def test_limits_reach_through_concatenations():
    def build(builder, z):
        return builder.emit("tanh", builder.emit("concat", z, np.ones((2, 1)), axis=1))

    assert limits(build)["z"] == (-2, 2)


NOT_ALONE = {
    "two activations": lambda b, z: b.emit("add", b.emit("tanh", z), b.emit("sigmoid", z)),
    "the same twice": lambda b, z: b.emit("add", b.emit("tanh", z), b.emit("tanh", z)),
    "a residual": lambda b, z: b.emit("add", b.emit("tanh", z), z),
    "an output": lambda b, z: {"y": b.emit("tanh", z), "z": z},
    "two readers behind a reshape": lambda b, z: b.emit(
        "add",
        b.emit("tanh", b.emit("reshape", z, shape=(8,))),
        b.emit("exp", b.emit("reshape", z, shape=(8,))),
    ),
    "a sum before the activation": lambda b, z: b.emit("tanh", b.emit("add", z, np.ones((2, 4)))),
    "copies": lambda b, z: b.emit("tanh", b.emit("expand", z, shape=(3, 2, 4))),
}


@pytest.mark.parametrize("name", NOT_ALONE)
def test_no_limits_where_the_activation_is_not_alone(name):
    assert "z" not in limits(NOT_ALONE[name])


def test_the_reshape_itself_may_be_an_output():
    def build(builder, z):
        rows = builder.emit("reshape", z, shape=(8,))
        return {"y": builder.emit("tanh", rows), "rows": rows}

    assert limits(build) == {}


def test_the_plan_carries_limits_and_signs_to_the_step():
    def build(builder, x):
        z = builder.emit("matmul", builder.emit("relu", x), np.ones((4, 4)))
        return builder.emit("tanh", z)

    pointwise, linear, _ = plan_of(program(build, x=X)).steps
    assert (linear.saturation, linear.nonnegative) == ((-2, 2), (True, False))
    assert (pointwise.saturation, pointwise.nonnegative) == (None, (False,))


def signs(build) -> bool:
    """Whether the output is known not to be negative."""
    graph = program(build, x=X).graph
    return graph.outputs[0].name in nonnegative_values(graph)


KNOWN = {
    "relu": lambda b, x: b.emit("relu", x),
    "abs": lambda b, x: b.emit("abs", x),
    "exp": lambda b, x: b.emit("exp", x),
    "sigmoid": lambda b, x: b.emit("sigmoid", x),
    "softmax": lambda b, x: b.emit("softmax", x, axis=1),
    "clip from 0": lambda b, x: b.emit("clip", x, low=0, high=6),
    "clip from above 0": lambda b, x: b.emit("clip", x, low=0.5, high=None),
    "pooled": lambda b, x: b.emit("reduce_mean", b.emit("relu", x), axes=(0,), keepdims=True),
    "largest": lambda b, x: b.emit("reduce_max", b.emit("relu", x), axes=(0,), keepdims=True),
    "sum of two": lambda b, x: b.emit("add", b.emit("relu", x), b.emit("exp", x)),
    "parts side by side": lambda b, x: b.emit("concat", b.emit("relu", x), b.emit("exp", x), axis=0),
    "moved": lambda b, x: b.emit("reverse", b.emit("reshape", b.emit("relu", x), shape=(8,)), axes=(0,)),
    "looked up": lambda b, x: b.emit("gather", b.emit("relu", x), np.array([1, 0]), axis=0),
    "chosen": lambda b, x: b.emit("where", np.ones((2, 4), bool), b.emit("relu", x), b.emit("exp", x)),
}
UNKNOWN = {
    "input": lambda b, x: x,
    "tanh": lambda b, x: b.emit("tanh", x),
    "gelu": lambda b, x: b.emit("gelu", x, approximate=False),
    "difference": lambda b, x: b.emit("sub", b.emit("relu", x), b.emit("exp", x)),
    "negated": lambda b, x: b.emit("neg", b.emit("relu", x)),
    "sum with a constant": lambda b, x: b.emit("add", b.emit("relu", x), -np.ones(4)),
    "sum with any": lambda b, x: b.emit("add", b.emit("relu", x), x),
    "product": lambda b, x: b.emit("mul", b.emit("relu", x), -np.ones(4)),
    "clip from below 0": lambda b, x: b.emit("clip", x, low=-1, high=6),
    "clip without low": lambda b, x: b.emit("clip", x, low=None, high=6),
    "clip whose bounds cross": lambda b, x: b.emit("clip", x, low=0, high=-1),
    "chosen, one of any sign": lambda b, x: b.emit("where", np.ones((2, 4), bool), b.emit("relu", x), x),
    "log_softmax": lambda b, x: b.emit("log_softmax", x, axis=1),
    "padded": lambda b, x: b.emit("pad", b.emit("relu", x), np.array(-1.0), low=(1, 0), high=(0, 0)),
}


@pytest.mark.parametrize("name", KNOWN)
def test_signs_that_are_known(name):
    assert signs(KNOWN[name])


@pytest.mark.parametrize("name", UNKNOWN)
def test_signs_that_are_not(name):
    assert not signs(UNKNOWN[name])


LAYERS = {
    **{f"known {name}": build for name, build in KNOWN.items()},
    **{f"unknown {name}": build for name, build in UNKNOWN.items() if name != "clip whose bounds cross"},
}


def chained(names):
    """Layers one after the other, brought back to the shape of the input in between."""

    def build(builder, x):
        for name in names:
            y = LAYERS[name](builder, x)
            flat = builder.emit("reshape", y, shape=(int(np.prod(y.shape)),))
            x = builder.emit(
                "reshape", builder.emit("gather", flat, np.arange(8) % flat.shape[0], axis=0), shape=(2, 4)
            )
        return x

    return build


@settings(max_examples=40)
@given(st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_what_is_called_nonnegative_never_is_negative(names, seed):
    model = program(chained(names), x=X)
    x = np.random.default_rng(seed).normal(size=X[0])
    with exact_types():
        values = forward(model.graph, jax_arrays(model.weights), jax_arrays({"x": x}))
    for name in nonnegative_values(model.graph):
        assert (np.asarray(values[name]) >= 0).all(), name


def test_a_signal_let_through_by_a_gate_is_no_gate():
    def named(builder, x, g):
        builder.rename(share := builder.emit("gate", builder.emit("exp", g)), "share")
        builder.rename(builder.emit("mul", x, share), "passed")
        left = builder.emit("sub", np.ones(()), share)
        builder.rename(left, "left")
        return left

    graph = program(named, x=X, g=X).graph
    assert gates(graph, bearing(graph, {"x", "g"})) == {"share": "gate", "left": "gate"}
