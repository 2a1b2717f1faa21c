"""Graphs are cut where little is alive, whatever they are graphs of; and what is computed anew takes less memory."""

from __future__ import annotations

import math
from itertools import combinations, pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backtrace_jax.engine import pieces, segments
from backtrace_jax.engine.compile import Constant, Explain, Request, compile_explain
from backtrace_jax.engine.forward import forward
from backtrace_jax.engine.many import Asking, compile_many
from backtrace_jax.engine.plan import plan_walk
from backtrace_jax.engine.segments import segmented
from backtrace_jax.engine.walk import walk
from backtrace_jax.ir import Graph, Program
from backtrace_jax.question.answers import read_answer
from backtrace_jax.question.tasks import resolve_task
from backtrace_jax.question.words import UNSET, Question
from backtrace_jax.rules import find_mode
from backtrace_jax.runtime.numerics import compiled, exact_types
from tests.engine.graphs import SINGLE, program
from tests.passes.random_programs import random_program

WIDTH = 16


def weights(*shape: int, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=shape) / math.sqrt(shape[0])).astype(SINGLE)


def residual(blocks: int, width: int = WIDTH, rows: int = 4) -> Program:
    """Blocks x + W relu(V x), wide inside."""

    def build(b: Any, x: Any) -> Any:
        for i in range(blocks):
            hidden = b.emit("relu", b.emit("matmul", x, weights(width, 4 * width, seed=2 * i)))
            x = b.emit("add", x, b.emit("matmul", hidden, weights(4 * width, width, seed=2 * i + 1)))
        return b.emit("matmul", b.emit("reduce_mean", x, axes=(1,), keepdims=False), weights(width, 5, seed=99))

    return program(build, x=((1, rows, width), SINGLE))


def skipping(levels: int) -> Program:
    """A U-Net: every level of the way down is added on the way up."""

    def build(b: Any, x: Any) -> Any:
        skips, width = [], WIDTH * 2**levels
        for i in range(levels):
            skips.append(b.emit("tanh", b.emit("sin", b.emit("tanh", x))))
            x = b.emit("matmul", skips[-1], weights(width >> i, width >> (i + 1), seed=i))
        for i, skip in reversed([*enumerate(skips)]):
            x = b.emit("tanh", b.emit("sin", b.emit("matmul", x, weights(width >> (i + 1), width >> i, seed=i))))
            x = b.emit("add", x, skip)
        return x

    return program(build, x=((1, WIDTH * 2**levels), SINGLE))


def crossing(found: tuple[segments.Segment, ...], graph: Graph) -> list[list[str]]:
    """What each segment reads that earlier ones have made."""
    made = {var.name for eqn in graph.eqns for var in eqn.outvars}
    return [[name for name in each.reads if name in made] for each in found]


def taken(graph: Graph, cuts: list[int]) -> int:
    """Bytes of what crosses these cuts, and of the largest segment; written for one cut after the other."""
    sizes = {v.name: math.prod(v.shape) * v.dtype.itemsize for eqn in graph.eqns for v in eqn.outvars}
    spans = [graph.eqns[first:last] for first, last in pairwise([0, *cuts, len(graph.eqns)])]
    made = [{v.name for eqn in span for v in eqn.outvars} for span in spans]
    read = [{v.name for eqn in span for v in eqn.invars} for span in spans]
    kept = {name for i, names in enumerate(made) for name in names if any(name in later for later in read[i + 1 :])}
    return sum(sizes[name] for name in kept) + max(sum(sizes[name] for name in names) for names in made)


def test_residual_networks_are_cut_between_their_blocks():
    graph = residual(24).graph
    found = segmented(graph)
    assert len(found) > 4
    sums = [eqn.outvars[0].name for eqn in graph.eqns if eqn.op == "add"]
    assert all(len(names) == 1 and names[0] in sums for names in crossing(found, graph)[1:])


def test_long_skips_are_kept_and_their_neighbours_are_not():
    graph = skipping(4).graph
    read = {name for names in crossing(segmented(graph), graph) for name in names}
    producers = graph.producers()
    assert {producers[name].op for name in read} <= {"tanh", "matmul", "add"}
    assert "sin" not in {producers[name].op for name in read}


@given(st.integers(0, 10**6))
@settings(max_examples=30)
def test_cuts_are_nearly_the_best_there_are(seed):
    """Against all sets of up to three cuts."""
    graph = random_program(seed).graph
    found = segmented(graph)
    assert [eqn for each in found for eqn in each.eqns] == [*graph.eqns]
    ends = np.cumsum([len(each.eqns) for each in found])[:-1].tolist()
    inner = range(1, min(len(graph.eqns), 24))
    best = min(taken(graph, [*cuts]) for count in range(4) for cuts in combinations(inner, count))
    assert taken(graph, ends) <= segments._FINER * best


def test_long_graphs_are_cut_in_time_that_grows_with_their_length():
    graph = residual(1000, width=2, rows=1).graph
    assert len(segments._borders(graph)) <= segments._PLACES + 2
    found = segmented(graph)
    assert all(len(names) == 1 for names in crossing(found, graph)[1:])
    assert 20 < len(found) < 200  # the square root of 1000 is 32


def test_where_a_walk_ends_nothing_is_computed():
    graph = residual(3).graph
    end = next(eqn.outvars[0].name for eqn in graph.eqns if eqn.op == "relu")
    found = segmented(graph, {end})
    assert end not in {var.name for each in found for eqn in each.eqns for var in eqn.outvars}
    assert any(end in each.reads for each in found)


def request(model: Program, mode: str, memory: str) -> Request:
    plan = plan_walk(model.graph, find_mode(mode), model.graph.outputs[0], memory=memory)
    task = resolve_task("classification", read_answer(model.graph, plan.output), paired=plan.paired)
    return Request(plan, find_mode(mode), task, {}, "highest", ledger="total")


def asked(count: int | None = None) -> Question:
    open_ = np.full((1,) if count is None else (1, count), UNSET)
    target = np.zeros_like(open_) if count is None else np.arange(count)[None]
    return Question(target, open_, open_, None)


def example(model: Program) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {var.name: generator.normal(size=(1, *var.shape)).astype(var.dtype) for var in model.graph.inputs}


def explained(model: Program, mode: str, memory: str) -> tuple[Explain, Any]:
    """The compiled function, and what it gives for an example."""
    given, device = (example(model), asked()), jax.devices()[0]
    made = compile_explain(
        request(model, mode, memory), model.weights, Constant({}, {}), given, device, prepare=memory == "high"
    )
    with exact_types():
        return made, made.call(made.prepare(model.weights), Constant({}, {}), *given)


def same_bytes(one: Any, other: Any) -> bool:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs)


def test_a_network_of_24_blocks_takes_a_third_of_the_memory():
    model = residual(24, rows=64)
    (high, wanted), (low, found) = (explained(model, "default", memory) for memory in ("high", "low"))
    assert low.derived_bytes == 0
    assert low.call.memory_analysis().temp_size_in_bytes < high.call.memory_analysis().temp_size_in_bytes / 3
    assert same_bytes(found, wanted)


def test_in_pieces_as_well(monkeypatch):
    """They are cut at other places, and what lies between them is what crosses the cuts."""
    for name, value in {"WHOLE": 50, "SHORTEST": 30, "LONGEST": 120}.items():
        monkeypatch.setattr(pieces, name, value)
    model = residual(12, rows=64)
    (high, wanted), (low, found) = (explained(model, "lrp-epsilon", memory) for memory in ("high", "low"))
    assert same_bytes(found, wanted)
    assert low.call.args[0].temp_bytes < high.call.args[0].temp_bytes / 2


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("mode", ["default", "gradient"])
def test_any_graph_cut_anywhere_has_the_same_relevance(seed, mode, monkeypatch):
    """Random programs and random cuts, both walks in one function."""
    generator, model = np.random.default_rng(seed), random_program(100 + seed)
    places = range(1, len(segments._borders(model.graph)) - 1)
    cuts = [0, *(i for i in places if generator.random() < 0.5), len(places) + 1]
    monkeypatch.setattr(segments, "_cuts", lambda *_: cuts)
    inputs = {var.name: generator.normal(size=var.shape) for var in model.graph.inputs}
    plans = [plan_walk(model.graph, find_mode(mode), model.graph.outputs[0], memory=each) for each in ("high", "low")]
    assert len(plans[1].segments) == len(cuts) - 1

    def walked(weights: Any, inputs: Any) -> list[Any]:
        found = []
        for plan in plans:
            values = forward(model.graph, weights, inputs, kept=plan.kept)
            start = {plan.output.name: jnp.ones_like(values[plan.output.name])}
            found.append(walk(plan, values, start, wanted=[var.name for var in plan.inputs]))
        return found

    run = compiled(walked, model.weights, inputs, device=jax.devices()[0])
    with exact_types():
        high, low = run(model.weights, inputs)
    assert high.relevance
    for one, other in zip(jax.tree.leaves(low), jax.tree.leaves(high), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


def test_between_the_questions_little_is_held():
    model, device = residual(16, rows=64), jax.devices()[0]
    made = {
        memory: compile_many(
            request(model, "default", memory),
            model.weights,
            Constant({}, {}),
            example(model),
            Asking(asked(2), {}),
            device,
            prepare=memory == "high",
        )
        for memory in ("high", "low")
    }
    assert made["low"].held_bytes < made["high"].held_bytes / 3
    memory = {name: each.walk.memory_analysis().temp_size_in_bytes for name, each in made.items()}
    assert memory["low"] + made["low"].held_bytes < (memory["high"] + made["high"].held_bytes) / 2
