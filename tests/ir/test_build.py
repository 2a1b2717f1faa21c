"""Building graphs: names, params, and what is known at once."""

from __future__ import annotations

import numpy as np

from backtrace_jax.ir import Source, Var
from backtrace_jax.passes.build import Builder

F32 = np.dtype(np.float32)
VECTOR = np.arange(3, dtype=np.float32)


def builder():
    build = Builder()
    return build, build.input("x", (3,), F32)


def test_known_operands_give_known_results():
    build, _ = builder()
    total = build.emit("add", VECTOR, VECTOR)
    assert isinstance(total, np.ndarray)
    assert np.array_equal(total, 2 * VECTOR)
    assert build.finish({"y": total}).graph.eqns == ()


def test_known_results_keep_64_bits():
    build, _ = builder()
    assert build.emit("add", np.float64([0.1]), np.float64([0.2])).dtype == np.float64
    assert build.emit("add", np.asarray([2**40]), np.asarray([1]))[0] == 2**40 + 1


def test_equations_keep_their_order_and_source():
    build, x = builder()
    build.source = Source("first", "ai.onnx.Relu", "net.act")
    hidden = build.emit("relu", x)
    build.source = Source("second")
    graph = build.finish({"y": build.emit("tanh", hidden)}).graph
    assert [eqn.op for eqn in graph.eqns] == ["relu", "tanh"]
    assert [eqn.source.node for eqn in graph.eqns] == ["first", "second"]
    assert graph.eqns[1].invars == graph.eqns[0].outvars


def test_known_operands_become_params_once_and_by_name():
    build, x = builder()
    build.label(VECTOR, "weight")
    build.label(VECTOR, "another name")
    first = build.emit("mul", x, VECTOR)
    program = build.finish({"y": build.emit("add", first, VECTOR)})
    assert [var.name for var in program.graph.params] == ["weight"]
    assert program.weights["weight"] is VECTOR
    assert build.label_of(VECTOR) == "weight"
    assert build.label_of(x) == ""


def test_nameless_params_and_equal_names_are_told_apart():
    build, x = builder()
    other = VECTOR + 1
    build.label(other, "x")
    y = build.emit("add", build.emit("mul", x, VECTOR.copy()), build.emit("mul", other, x), VECTOR.copy())
    names = [var.name for var in build.finish({"y": y}).graph.params]
    assert names == ["constant", "x.1", "constant.1"]


def test_values_take_the_first_name_given():
    build, x = builder()
    hidden, nameless = build.emit("relu", x), build.emit("tanh", x)
    build.rename(hidden, "hidden")
    build.rename(hidden, "later")
    build.rename(x, "never")
    graph = build.finish({"y": build.emit("add", hidden, nameless)}).graph
    assert [var.name for var in graph.variables()] == ["x", "hidden", "tanh", "add"]


def test_outputs_may_be_inputs_and_params():
    build, x = builder()
    program = build.finish({"same": x, "fixed": VECTOR})
    assert program.graph.outputs == (x, Var("constant", (3,), F32))
    assert program.graph.output_names == ("same", "fixed")


def test_producers_and_consumers():
    build, x = builder()
    hidden = build.emit("relu", x)
    graph = build.finish({"y": build.emit("mul", hidden, hidden)}).graph
    relu, mul = graph.eqns
    assert graph.producers() == {"relu": relu, "mul": mul}
    assert graph.consumers() == {"x": [relu], "relu": [mul, mul], "mul": []}
