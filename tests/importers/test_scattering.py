"""Scattering in every form and reduction, against onnxruntime or NumPy, and explained."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from backtrace_jax.errors import ModelError, UnsupportedError
from backtrace_jax.onnx_backend import run_model

from .explaining import check_explained, network
from .nodes import check_node, floats, ints, node_model

DATA = floats(3, 4)
UNIQUE = np.asarray([[1, 0, 2], [0, 2, 1]])
REPEATED = np.asarray([[0, 0, -1, 0], [0, 1, -3, 2], [0, 0, 0, 2]])
REDUCTIONS = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}
KNOWN = pytest.mark.parametrize("known", [(), (1,)])


@KNOWN
@pytest.mark.parametrize("axis", [0, -1])
def test_elements(known, axis):
    check_node("ScatterElements", [DATA, UNIQUE, floats(2, 3, seed=1)], known, axis=axis, rtol=0, atol=0)
    check_node("Scatter", [DATA, UNIQUE.astype(np.int32), floats(2, 3, seed=1)], known, axis=axis, opset=9)


@KNOWN
def test_of_what_is_written_twice_the_last_stays(known):
    updates, expected = floats(3, 4, seed=1), DATA.copy()
    for i, k in np.ndindex(REPEATED.shape):
        expected[REPEATED[i, k], k] = updates[i, k]
    check_node("ScatterElements", [DATA, REPEATED, updates], known, [expected], rtol=0, atol=0)


@KNOWN
@pytest.mark.parametrize(("reduction", "axis"), [("add", 0), ("mul", 1), ("max", 1), ("min", 0)])
def test_elements_with_a_reduction(known, reduction, axis):
    updates, expected = floats(3, 4, seed=1), DATA.copy()
    for i, k in np.ndindex(REPEATED.shape):
        place = (REPEATED[i, k], k) if axis == 0 else (i, REPEATED[i, k])
        expected[place] = REDUCTIONS[reduction](expected[place], updates[i, k])
    settings = {"axis": axis, "reduction": reduction, "opset": 18}
    check_node("ScatterElements", [DATA, REPEATED, updates], known, [expected], **settings)


@KNOWN
@pytest.mark.parametrize("reduction", ["none", *REDUCTIONS])
def test_slices(known, reduction):
    indices = np.asarray([[[0, 1]], [[2, -1]], [[1, 0]]] if reduction == "none" else [[[0, 1]], [[2, -1]], [[0, 1]]])
    data, updates = floats(3, 2, 4), floats(3, 1, 4, seed=1)
    check_node("ScatterND", [data, indices, updates], known, reduction=reduction, opset=18)


def test_slices_before_there_were_reductions():
    check_node("ScatterND", [DATA, np.asarray([[2], [0]]), floats(2, 4, seed=1)], opset=11)
    check_node("ScatterND", [DATA, np.asarray([[2, 1], [0, -1]]), floats(2, seed=1)], opset=13)


def test_integers_and_nothing():
    check_node("ScatterElements", [ints(1, 2, 3), ints(2, 0), ints(7, 8)], reduction="add", opset=18)
    check_node("ScatterND", [DATA, np.zeros((0, 1), np.int64), np.zeros((0, 4), np.float32)])


def test_known_indices_out_of_range_are_refused():
    operands = [DATA, ints(0, 3).reshape(2, 1), floats(2, 4)]
    with pytest.raises(ModelError, match=r"the_node.*beyond an axis of size 3"):
        run_model(node_model("ScatterND", operands, (1,)), {"x0": operands[0], "x2": operands[2]})


def test_too_many_factors_are_refused():
    operands = [np.ones(2, np.float32), np.zeros(100, np.int64), np.ones(100, np.float32)]
    with pytest.raises(UnsupportedError, match="100 factors scattered to one entry"):
        run_model(node_model("ScatterElements", operands, opset=18, reduction="mul"), operands)


@pytest.mark.parametrize(("mode", "axis"), [("linear", 1), ("circular", -1)])
@pytest.mark.parametrize("known", [(), (2,)])
def test_caches(mode, axis, known):
    cache, begin = floats(2, 5, 3, 5), ints(1, 4 if mode == "circular" else 3)
    update = np.moveaxis(floats(2, 2, 5, 3, seed=1), 1, axis) if axis == -1 else floats(2, 2, 3, 5, seed=1)
    expected = np.moveaxis(cache.copy(), axis, 1)
    for example, step in np.ndindex(2, 2):
        expected[example, (begin[example] + step) % 5] = np.moveaxis(update, axis, 1)[example, step]
    expected = np.moveaxis(expected, 1, axis)
    settings = {"axis": axis, "mode": mode, "opset": 24}
    check_node("TensorScatter", [cache, update, begin], known, [expected], rtol=0, atol=0, **settings)


def test_explained():
    """Messages along the edges of a graph, gathered from nodes [1, 4, 3] and scattered to nodes in every way.

    The edges are an input but where messages are multiplied.
    """
    target, twice = (np.stack([np.zeros(5, np.int64), ints(1, 1, 0, 2, last)], -1)[None] for last in (1, 3))
    node, inputs = helper.make_node, {"x": floats(1, 4, 3), "places": target}
    nodes = [node("Gather", ["x", "source"], ["messages"], axis=1)]
    for before, after, reduction in (("x", "a", "none"), ("a", "b", "add"), ("b", "c", "max"), ("c", "d", "mul")):
        places = "places" if reduction != "mul" else "known"
        nodes.append(node("ScatterND", [before, places, "messages"], [after], reduction=reduction))
    nodes += [node("ReduceSum", ["d", "axes"], ["total"], keepdims=0), node("MatMul", ["total", "W"], ["y"])]
    weights = {"W": floats(3, 2, seed=2), "axes": ints(1), "source": ints(0, 1, 2, 3, 1), "known": twice}
    check_explained(network(nodes, inputs, **weights), inputs)


def test_updates_bear_relevance_and_a_constant_takes_the_rest():
    inputs = {"x": floats(1, 2)}
    nodes = [
        helper.make_node("ScatterElements", ["data", "places", "x"], ["filled"], axis=1),
        helper.make_node("MatMul", ["filled", "W"], ["y"]),
    ]
    weights = {"data": floats(1, 4, seed=1), "places": np.asarray([[2, 0]]), "W": floats(4, 3, seed=2)}
    check_explained(network(nodes, inputs, **weights), inputs)
