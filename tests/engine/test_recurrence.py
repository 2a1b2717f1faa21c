"""The walk over time gives what the same rules give on the same cell written out step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backtrace_jax.analysis.bearing import bearing, bearing_inputs
from backtrace_jax.engine.plan import plan_walk
from backtrace_jax.ir import Program
from backtrace_jax.passes.build import Builder, Value
from backtrace_jax.passes.check import check
from backtrace_jax.rules import CONSTANT, Selector, composite, find_mode, mode
from backtrace_jax.rules.parts import signal_takes_all
from tests.engine.graphs import DOUBLE
from tests.rules.running import assert_books_close, close, walk_back

STEPS, BATCH, INPUT, HIDDEN = 4, 1, 3, 5
generator = np.random.default_rng(5)
W = generator.normal(size=(INPUT, 4 * HIDDEN))
U = generator.normal(size=(HIDDEN, 4 * HIDDEN))
BIAS = generator.normal(size=(1, 4 * HIDDEN))
SHAPES = {"x": (STEPS, BATCH, INPUT), "h0": (BATCH, HIDDEN), "c0": (BATCH, HIDDEN), "mix": (BATCH, HIDDEN)}
INPUTS = {name: generator.normal(size=shape) for name, shape in SHAPES.items()}


def cell(builder: Builder, x: Value, h: Value, c: Value, mix: Value) -> tuple[Value, Value]:
    """An LSTM cell that reads one more value, the same in every step."""
    total = builder.emit("add", builder.emit("matmul", x, W, BIAS), builder.emit("matmul", h, U))
    parts = [
        builder.emit("slice", total, start=(0, i * HIDDEN), limit=(BATCH, (i + 1) * HIDDEN), stride=(1, 1))
        for i in range(4)
    ]
    enter, keep, out = (builder.emit("sigmoid", part) for part in parts[:3])
    new = builder.emit("mul", enter, builder.emit("add", builder.emit("tanh", parts[3]), mix))
    memory = builder.emit("add", builder.emit("mul", keep, c), new)
    return builder.emit("mul", out, builder.emit("tanh", memory)), memory


def given(builder: Builder, inputs: tuple[str, ...]) -> dict[str, Any]:
    """Some of the four values as inputs, the others as constants."""
    return {name: builder.input(name, SHAPES[name], DOUBLE) if name in inputs else INPUTS[name] for name in SHAPES}


def over_time(inputs: tuple[str, ...], reverse: bool) -> Program:
    body, builder = Builder(), Builder()
    shapes = {"h": SHAPES["h0"], "c": SHAPES["c0"], "x": SHAPES["x"][1:], "mix": SHAPES["mix"]}
    h, c, x, mix = (body.input(name, shape, DOUBLE) for name, shape in shapes.items())
    h_new, c_new = cell(body, x, h, c, mix)
    step = body.finish({"h": h_new, "c": c_new, "y": h_new})
    values = given(builder, inputs)
    (h, _), (series,) = builder.scan(
        step, [values["h0"], values["c0"]], [values["x"]], STEPS, constants=[values["mix"]], reverse=reverse
    )
    return builder.finish({"out": joined(builder, h, [series])})


def written_out(inputs: tuple[str, ...], reverse: bool) -> Program:
    builder = Builder()
    values = given(builder, inputs)
    h, c, series = values["h0"], values["c0"], {}
    for t in reversed(range(STEPS)) if reverse else range(STEPS):
        entry = builder.emit("slice", values["x"], start=(t, 0, 0), limit=(t + 1, BATCH, INPUT), stride=(1, 1, 1))
        h, c = cell(builder, builder.emit("reshape", entry, shape=(BATCH, INPUT)), h, c, values["mix"])
        series[t] = builder.emit("reshape", h, shape=(1, BATCH, HIDDEN))
    return builder.finish({"out": joined(builder, h, [series[t] for t in range(STEPS)])})


def joined(builder: Builder, h: Value, series: list[Value]) -> Value:
    """The last state and the results of all steps in one value, so that relevance arrives at both."""
    return builder.emit("concat", builder.emit("reshape", h, shape=(1, BATCH, HIDDEN)), *series, axis=0)


def gated(name: str):
    """The mode with one rule for gated products wherever they stand: outside of bodies gates share by halves."""
    base = find_mode(name)
    linear = next(rule for selector, rule in base.rules if selector.kind == "linear")
    if not base.conserving:
        return base
    return composite(name, [(Selector(kind="product", gate="*"), signal_takes_all(linear))], base)


MODES = ("default", "contrastive", "lrp-epsilon", "lrp-alpha2-beta1", "attnlrp", "gradient")
ALL = ("x", "h0", "c0", "mix")


def start_of(name: str) -> np.ndarray:
    channels = (2,) if find_mode(name).paired else ()
    drawn = np.random.default_rng(1).normal(size=(*channels, STEPS + 1, BATCH, HIDDEN))
    return np.abs(drawn) if channels else drawn


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", MODES)
def test_a_scan_is_its_steps_written_out(name, reverse):
    together, apart = (
        walk_back(make(ALL, reverse), INPUTS, start_of(name), mode=gated(name)) for make in (over_time, written_out)
    )
    close(together.result, apart.result)
    for key in ALL:
        assert np.abs(apart.relevance[key]).sum() > 0
        close(together.relevance[key], apart.relevance[key], 1e-10)


@pytest.mark.parametrize("name", [name for name in MODES if find_mode(name).conserving])
def test_books_close_over_time_and_for_every_node_of_the_body(name):
    walked = walk_back(over_time(ALL, False), INPUTS, start_of(name), mode=name)
    assert_books_close(walked.books, 1e-10)
    nodes = walked.plan.nodes
    assert len(nodes) == len(walked.books.signed) > len(walked.plan.steps)
    assert sum("/" in node for node in nodes) == len(nodes) - len(walked.plan.steps)
    own = walked.books.signed[list(walked.plan.own_rows)]
    handed = sum(walked.relevance[key].sum(axis=tuple(range(-len(SHAPES[key]), 0))) for key in ALL)
    total = start_of(name).sum(axis=(-3, -2, -1))
    close(handed + own[:, 2:].sum(axis=(0, 1)), total, 1e-10)


def test_first_states_that_are_constants_are_booked_as_such():
    free, fixed = (walk_back(over_time(inputs, False), INPUTS, start_of("default")) for inputs in (ALL, ("x",)))
    close(fixed.relevance["x"], free.relevance["x"], 1e-10)
    moved = sum(free.relevance[name].sum() for name in ("h0", "c0", "mix"))
    own = fixed.books.signed[list(fixed.plan.own_rows)]
    np.testing.assert_allclose(own[:, 3].sum(), moved, rtol=1e-10)
    assert CONSTANT == "constant"


def test_a_gate_takes_nothing_by_default_and_its_split_in_the_reference_mode():
    default, reference = (
        walk_back(over_time(ALL, False), INPUTS, start_of("default"), mode=name)
        for name in ("default", "dlbacktrace-0.0.24")
    )
    received = dict(zip(default.plan.nodes, default.books.absolute[:, 0], strict=True))
    assert not any(received[name] for name in received if "sigmoid" in name)
    received = dict(zip(reference.plan.nodes, reference.books.absolute[:, 0], strict=True))
    assert all(received[name] > 0 for name in received if "sigmoid" in name)


def looped(states: int, step) -> Program:
    """A scan over x whose states start at x's shape; `step` takes a builder, states and entry, and gives new states."""
    body, builder = Builder(), Builder()
    inner = [body.input(f"s{i}", (2,), DOUBLE) for i in range(states)]
    new = step(body, *inner, body.input("entry", (2,), DOUBLE))
    outer = [builder.input(f"first{i}", (2,), DOUBLE) for i in range(states)]
    series = builder.input("series", (3, 2), DOUBLE)
    last, _ = builder.scan(body.finish({f"s{i}": value for i, value in enumerate(new)}), outer, [series], 3)
    program = builder.finish({f"last{i}": value for i, value in enumerate(last)})
    check(program.graph)
    return program


@pytest.mark.parametrize(
    ("wrt", "step", "expected"),
    [
        (("series",), lambda b, s, t, x: (b.emit("add", s, x), t), {0}),
        (("series",), lambda b, s, t, x: (b.emit("add", s, t), b.emit("add", t, x)), {0, 1}),
        (("first0",), lambda b, s, t, x: (s, b.emit("add", t, x)), {0}),
        (("first0",), lambda b, s, t, x: (np.ones(2), b.emit("add", t, x)), set()),
        (("first1",), lambda b, s, t, x: (b.emit("add", s, t), b.emit("neg", t)), {0, 1}),
    ],
)
def test_which_states_bear_relevance(wrt, step, expected):
    graph = looped(2, step).graph
    found = bearing(graph, bearing_inputs(graph, wrt))
    assert {i for i, var in enumerate(graph.outputs) if var.name in found} == expected


def test_options_reach_the_rules_of_a_body():
    plan = plan_walk(
        over_time(ALL, False).graph, mode("lrp-epsilon", epsilon=0.25), over_time(ALL, False).graph.outputs[0]
    )
    (step,) = [step for step in plan.steps if step.body]
    assert step.rule_name == "over time"
    assert {"epsilon(epsilon=0.25, bias=keep)"} == {
        inner.rule_name for inner in step.body.steps if inner.kind in ("linear", "sum")
    }
