"""Random numbers are the same in every run, follow from the seed or the name, and have the right distribution."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from backtrace_jax.onnx_backend import run_model

from .nodes import floats, node_model

SHAPE = [40, 50]


def drawn(op_type, operands=(), *, name="the_node", **attributes):
    model = node_model(op_type, list(operands), **attributes)
    model.graph.node[0].name = name
    return run_model(model, list(operands))[0]


def test_numbers_follow_from_the_seed_or_the_name():
    first = drawn("RandomNormal", shape=SHAPE, seed=1.5)
    np.testing.assert_array_equal(first, drawn("RandomNormal", shape=SHAPE, seed=1.5))
    assert (first != drawn("RandomNormal", shape=SHAPE, seed=2.0)).mean() > 0.99
    named = [drawn("RandomUniform", shape=SHAPE, name=name) for name in ("a", "a", "b")]
    np.testing.assert_array_equal(named[0], named[1])
    assert (named[0] != named[2]).mean() > 0.99


def test_nodes_without_a_name_draw_different_numbers():
    nodes = [helper.make_node("RandomNormal", [], [f"y{i}"], shape=[4]) for i in range(2)]
    results = [helper.make_empty_tensor_value_info(f"y{i}") for i in range(2)]
    graph = helper.make_graph(nodes, "two", [], results)
    one, other = run_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), [])
    assert (one != other).all()


def test_distributions():
    normal = drawn("RandomNormalLike", [floats(40, 50)], mean=3.0, scale=2.0)
    np.testing.assert_allclose([normal.mean(), normal.std()], [3, 2], atol=0.2)
    uniform = drawn("RandomUniformLike", [np.zeros(SHAPE, np.int32)], low=-1.0, high=3.0, dtype=TensorProto.DOUBLE)
    assert uniform.dtype == np.float64
    assert -1 <= uniform.min() < -0.99
    assert 2.99 < uniform.max() < 3
    chance = drawn("Bernoulli", [np.full(SHAPE, 0.3)], dtype=TensorProto.BOOL)
    assert chance.dtype == np.bool_
    assert abs(chance.mean() - 0.3) < 0.05
    assert drawn("Bernoulli", [np.ones(SHAPE, np.float16)]).all()


def test_classes():
    scores = np.log(np.float32([[0.2, 0.5, 0.3], [0.0001, 0.0001, 1]]))
    classes = drawn("Multinomial", [scores], sample_size=2000, dtype=TensorProto.INT64)
    assert (classes.dtype, classes.shape) == (np.int64, (2, 2000))
    np.testing.assert_allclose(np.bincount(classes[0], minlength=3) / 2000, [0.2, 0.5, 0.3], atol=0.05)
    assert (classes[1] == 2).mean() > 0.99


@pytest.mark.parametrize("code", [TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16])
def test_types(code):
    found = drawn("RandomUniform", shape=[3], dtype=code, seed=0.0, opset=22)
    assert found.dtype == onnx.helper.tensor_dtype_to_np_dtype(code)
