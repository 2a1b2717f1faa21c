"""Work is bounded before it is done: loops by their steps, drawn numbers by their size, a run by its operations."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from backtrace_jax import Explainer, explain
from backtrace_jax.engine import compiled
from backtrace_jax.errors import ModelError
from backtrace_jax.importers.onnx import limits
from tests.handmade import model

X = np.ones((1, 3), np.float32)


def nested(depth, length):
    """Loops inside each other, each of this length, around a sine."""

    def value(name, shape, kind=TensorProto.FLOAT):
        return helper.make_tensor_value_info(name, kind, shape)

    def node(depth, operand, result):
        if not depth:
            return helper.make_node("Sin", [operand], [result])
        p = f"d{depth}"
        inside = [node(depth - 1, f"{p}x", f"{p}y"), helper.make_node("Identity", [f"{p}c"], [f"{p}again"])]
        lead = [value(f"{p}i", [], TensorProto.INT64), value(f"{p}c", [], TensorProto.BOOL), value(f"{p}x", ["b", 3])]
        body = helper.make_graph(inside, p, lead, [value(f"{p}again", [], TensorProto.BOOL), value(f"{p}y", ["b", 3])])
        return helper.make_node("Loop", ["trips", "", operand], [result], f"loop{depth}", body=body)

    found = model(node(depth, "x", "y"))
    found.graph.initializer.append(numpy_helper.from_array(np.array(length, np.int64), "trips"))
    return found


def test_nested_loops_are_refused_with_their_steps():
    bomb = nested(2, 2**20)
    assert bomb.ByteSize() < 600
    with pytest.raises(ModelError, match=rf"'loop2'.*{2**20 * (1 + 2**20)} steps.*MOST_STEPS") as caught:
        explain(bomb, X)
    assert len(str(caught.value)) < 400


def test_the_bound_on_steps_counts_nested_loops_and_can_be_raised(monkeypatch):
    monkeypatch.setattr(limits, "MOST_STEPS", 19)
    with pytest.raises(ModelError, match="20 steps"):
        explain(nested(2, 4), X)
    monkeypatch.setattr(limits, "MOST_STEPS", 20)
    found = explain(nested(2, 4), X).outputs["y"]
    expected = X
    for _ in range(16):
        expected = np.sin(expected)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [
        ("RandomNormal", {"shape": [2**20, 2**20]}),
        ("RandomUniform", {"shape": [2**20, 2**20]}),
        ("Multinomial", {"sample_size": 2**40}),
    ],
)
def test_drawn_numbers_of_absurd_size_are_refused(operator, attributes):
    operands = ["x"] if operator == "Multinomial" else []
    drawn = helper.make_node(operator, operands, ["drawn"], "dice", **attributes)
    total = [helper.make_node("Cast", ["drawn"], ["numbers"], to=1), helper.make_node("ReduceSum", ["numbers"], ["s"])]
    with pytest.raises(ModelError, match=r"'dice'.*GiB"):
        explain(model(drawn, *total, helper.make_node("Add", ["x", "s"], ["y"])), X)


def test_operations_of_a_run_are_bounded(monkeypatch):
    """Of loops as often as they run: 900 sines of three numbers."""
    monkeypatch.setattr(compiled, "MOST_WORK", 1000.0)
    with pytest.raises(ModelError, match=r"floating-point operations, more than the 1e\+03"):
        Explainer(nested(2, 30))(X)
    monkeypatch.setattr(compiled, "MOST_WORK", 1e6)
    Explainer(nested(2, 30))(X)
