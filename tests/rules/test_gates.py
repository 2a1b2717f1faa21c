"""What gates what: in CP-LRP every gate is a constant and the other factor takes all (RULES 4); other modes halve."""

from __future__ import annotations

import numpy as np
import pytest

from backtrace_jax.ir import Program
from backtrace_jax.passes.build import Builder
from backtrace_jax.rules import ACTIVATIONS, SHARES
from tests.rules.running import DOUBLE, Walked, assert_books_close, close, walk_back

SETTINGS = {
    "celu": {"alpha": 1.0},
    "elu": {"alpha": 1.0},
    "gelu": {"approximate": False},
    "hard_sigmoid": {"alpha": 0.2, "beta": 0.5},
    "leaky_relu": {"alpha": 0.1},
    "selu": {"alpha": 1.6, "gamma": 1.05},
    "softmax": {"axis": 1},
    "swish": {"alpha": 1.7},
    "thresholded_relu": {"alpha": 0.1},
}
SHAPE = (3, 4)


def unit(function: str, *, first: bool = True, signal: str = "") -> Program:
    """act(g) · u, a gated linear unit; u may come out of a function itself."""
    builder = Builder()
    g, u = builder.input("g", SHAPE, DOUBLE), builder.input("u", SHAPE, DOUBLE)
    slope = (np.full((), 0.2),) if function == "prelu" else ()
    gate = builder.emit(function, g, *slope, **SETTINGS.get(function, {}))
    through = builder.emit(signal, u, **SETTINGS.get(signal, {})) if signal else u
    return builder.finish({"y": builder.emit("mul", *((gate, through) if first else (through, gate)))})


def draw() -> tuple[dict[str, np.ndarray], np.ndarray]:
    generator = np.random.default_rng(0)
    return {"g": generator.normal(size=SHAPE) + 0.5, "u": generator.normal(size=SHAPE)}, generator.normal(size=SHAPE)


def names(walked: Walked) -> list[str]:
    return [var.name for var in walked.plan.inputs]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("function", [*ACTIVATIONS, *SHARES])
def test_a_gate_is_a_constant_in_cp_lrp(function, first):
    inputs, R = draw()
    walked = walk_back(unit(function, first=first), inputs, R, mode="cp-lrp")
    assert names(walked) == ["u"]
    close(walked.relevance["u"], np.where(walked.result == 0, 0, R))
    assert_books_close(walked.books)


@pytest.mark.parametrize("mode", ["default", "attnlrp", "lrp-epsilon", "lrp-gamma", "lrp-epsilon-plus"])
@pytest.mark.parametrize("function", ["silu", "gelu", "relu", "sigmoid"])
def test_other_modes_give_half_to_either_factor(function, mode):
    inputs, R = draw()
    R = np.where(inputs["g"] > 0, R, 0)  # where the gate is open
    walked = walk_back(unit(function), inputs, R, mode=mode)
    for share in (walked.relevance["g"], walked.relevance["u"]):
        close(share, R / 2, 1e-6)


def test_a_share_gates_an_activation():
    """tanh(u) · sigmoid(g), as in WaveNet and in recurrent cells: the sigmoid is the gate."""
    inputs, R = draw()
    assert names(walk_back(unit("sigmoid", signal="tanh"), inputs, R, mode="cp-lrp")) == ["u"]


@pytest.mark.parametrize(("function", "signal"), [("silu", "gelu"), ("sigmoid", "softmax")])
def test_two_of_a_kind_halve(function, signal):
    inputs, R = draw()
    assert names(walk_back(unit(function, signal=signal), inputs, R, mode="cp-lrp")) == ["g", "u"]


def test_activations_are_no_weights_of_a_matrix_product():
    builder = Builder()
    a, b = (builder.emit("relu", builder.input(name, (3, 3), DOUBLE)) for name in "ab")
    other = builder.emit("neg", b)
    program = builder.finish({"y": builder.emit("matmul", a, other)})
    inputs = {name: np.eye(3) for name in "ab"}
    assert names(walk_back(program, inputs, np.eye(3), mode="cp-lrp")) == ["a", "b"]


def squeezed() -> Program:
    """x · sigmoid(relu(mean(x) W) V): the gate is made of the signal itself (squeeze and excitation)."""
    builder, generator = Builder(), np.random.default_rng(1)
    x = builder.input("x", (1, 4, 5), DOUBLE)
    mean = builder.emit("reduce_mean", x, axes=(2,), keepdims=False)
    hidden = builder.emit("relu", builder.emit("matmul", mean, generator.normal(size=(4, 2))))
    gate = builder.emit("sigmoid", builder.emit("matmul", hidden, generator.normal(size=(2, 4))))
    return builder.finish({"y": builder.emit("mul", x, builder.emit("reshape", gate, shape=(1, 4, 1)))})


def test_squeeze_and_excitation():
    generator = np.random.default_rng(2)
    x, R = generator.normal(size=(1, 4, 5)), generator.normal(size=(1, 4, 5))
    close(walk_back(squeezed(), {"x": x}, R, mode="cp-lrp").relevance["x"], R, 1e-6)


EXPERTS, KEPT = 4, 2


def mixture(*, renormalised: bool, dense: bool) -> Program:
    """Σ_k w_k expert_k(x) for the largest weights of softmax(x W), renormalised or not; all experts run."""
    builder, generator = Builder(), np.random.default_rng(3)
    x = builder.input("x", (5, 3), DOUBLE)
    w = builder.emit("softmax", builder.emit("matmul", x, generator.normal(size=(3, EXPERTS))), axis=1)
    if dense:  # those above the mean stand for the choice
        mean = builder.emit("reduce_mean", w, axes=(1,), keepdims=True)
        chosen = builder.emit("cast", builder.emit("greater", w, mean), dtype="float64")
        w = builder.emit("mul", w, chosen)
    else:
        w = builder.emit("gather", w, np.arange(KEPT), axis=1)
    if renormalised:
        total = builder.emit("add", builder.emit("reduce_sum", w, axes=(1,), keepdims=True), np.full((), 1e-20))
        w = builder.emit("div", w, total)
    count = w.shape[1]
    experts = builder.emit("einsum", x, generator.normal(size=(count, 3, 3)), equation="ni,kio->nko")
    mixed = builder.emit("mul", builder.emit("reshape", w, shape=(5, count, 1)), experts)
    return builder.finish({"y": builder.emit("reduce_sum", mixed, axes=(1,), keepdims=False)})


@pytest.mark.parametrize("renormalised", [True, False])
@pytest.mark.parametrize("dense", [True, False])
def test_the_router_of_a_mixture_of_experts_is_a_constant(renormalised, dense):
    """What is left is a linear network without bias: all that starts arrives, and nothing comes by the router."""
    generator = np.random.default_rng(4)
    x, R = generator.normal(size=(5, 3)), generator.normal(size=(5, 3))
    walked = walk_back(mixture(renormalised=renormalised, dense=dense), {"x": x}, R, mode="cp-lrp")
    assert not any(step.eqn.op == "softmax" for step in walked.plan.steps)
    np.testing.assert_allclose(walked.relevance["x"].sum(1), R.sum(1), rtol=1e-5)
    assert_books_close(walked.books)
    through = walk_back(mixture(renormalised=renormalised, dense=dense), {"x": x}, R, mode="attnlrp")
    assert any(step.eqn.op == "softmax" for step in through.plan.steps)


CHOSEN = {  # weights [5, 1] of the one expert that runs, made of shares [5, EXPERTS]
    "the largest share": lambda b, w: b.emit("reduce_max", w, axes=(1,), keepdims=True),
    "its axis given back": lambda b, w: b.emit(
        "reshape", b.emit("reduce_max", w, axes=(1,), keepdims=False), shape=(5, 1)
    ),
    "the mean": lambda b, w: b.emit("reduce_mean", w, axes=(1,), keepdims=True),
    "two routers side by side": lambda b, w: b.emit(
        "reduce_max", b.emit("concat", w, b.emit("sigmoid", w), axis=1), axes=(1,), keepdims=True
    ),
}


@pytest.mark.parametrize("choice", CHOSEN)
def test_what_is_chosen_among_shares_is_a_share(choice):
    """As the router of a switch transformer, whose one expert weighs as much as the largest probability."""
    builder, generator = Builder(), np.random.default_rng(5)
    K, inputs, R = generator.normal(size=(3, 3)), {"x": generator.normal(size=(5, 3))}, generator.normal(size=(5, 3))
    x = builder.input("x", (5, 3), DOUBLE)
    w = builder.emit("softmax", builder.emit("matmul", x, generator.normal(size=(3, EXPERTS))), axis=1)
    expert = builder.emit("gelu", builder.emit("matmul", x, K), approximate=False)
    program = builder.finish({"y": builder.emit("mul", expert, CHOSEN[choice](builder, w))})
    walked = walk_back(program, inputs, R, mode="cp-lrp")
    close(walked.relevance["x"], inputs["x"] * ((R / (inputs["x"] @ K)) @ K.T), 1e-6)
