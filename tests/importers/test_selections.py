"""Operators that pick entries by values, reductions of nothing, products over axes: against onnxruntime or NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from backtrace_jax.errors import ModelError
from backtrace_jax.onnx_backend import run_model

from .explaining import check_explained, network
from .nodes import boolean, check_node, floats, ints, node_model

X = floats(2, 3, 4)


def test_positions_of_what_is_not_zero():
    check_node("NonZero", [boolean(3, 4)])
    check_node("NonZero", [np.float32([0, 2, 0, -1])], (0,))
    check_node("NonZero", [np.asarray(3)], expected=[np.zeros((0, 1), np.int64)])


@pytest.mark.parametrize("axis", [1, -1])
def test_compress(axis):
    check_node("Compress", [X, np.asarray([False, True, True])], (1,), axis=axis, opset=11)
    check_node("Compress", [X, np.asarray([True])], axis=axis, opset=11)


def test_compress_of_everything_in_a_row():
    check_node("Compress", [X, boolean(24)], (1,), opset=9)
    with pytest.raises(ModelError, match="position 3 is to be kept of an axis of size 3"):
        run_model(node_model("Compress", [X, np.ones(4, bool)], (1,), axis=1), [X])


@pytest.mark.parametrize("ordered", [0, 1])
def test_unique(ordered):
    entries = np.float32([[2, 1, 1], [3, 4, 2], [2, 1, 1]])
    check_node("Unique", [entries], sorted=ordered, results=4)
    check_node("Unique", [entries], sorted=ordered, axis=0, results=4)
    check_node("Unique", [entries[:, 1:2]], sorted=ordered, axis=-1, results=4)


@pytest.mark.parametrize("known", [(), (1,)])
def test_reverse_sequence(known):
    lengths = ints(3, 1, 5)
    check_node("ReverseSequence", [floats(5, 3, 2), lengths], known, opset=10)
    check_node("ReverseSequence", [floats(3, 5, 2), lengths], known, batch_axis=0, time_axis=1, opset=10)


@pytest.mark.parametrize("k", [-1, 0, 2])
def test_diagonals(k):
    check_node("EyeLike", [floats(3, 5)], k=k)
    check_node("EyeLike", [floats(5, 3)], k=k, dtype=TensorProto.INT64)


@pytest.mark.parametrize("bounds", [(-0.5, 0.25), (None, 0.25), (-0.5, None), (1.0, -1.0)])
@pytest.mark.parametrize("known", [(), (1,), (2,)])
def test_bounds_that_are_computed(bounds, known):
    operands = [X, *(bound if bound is None else np.float32(bound) for bound in bounds)]
    expected = X if bounds[0] is None else np.maximum(X, operands[1])
    expected = expected if bounds[1] is None else np.minimum(expected, operands[2])
    check_node("Clip", operands, [i for i in known if operands[i] is not None], [expected], opset=13)


@pytest.mark.parametrize("keepdims", [0, 1])
def test_products_over_axes(keepdims):
    check_node("ReduceProd", [X], axes=[0, -1], keepdims=keepdims, opset=11)
    check_node("ReduceProd", [floats(7)], keepdims=keepdims, opset=13)
    check_node("ReduceProd", [ints(3, -5, 2), ints(0)], (1,), keepdims=keepdims, opset=18)
    check_node("ReduceProd", [X, ints()], (1,), [X], keepdims=keepdims, noop_with_empty_axes=1, opset=18)


NOTHING = {
    "ReduceMax": -np.inf,
    "ReduceMin": np.inf,
    "ReduceProd": 1,
    "ReduceSum": 0,
    "ReduceLogSumExp": -np.inf,
    "ReduceL2": 0,
}


@pytest.mark.parametrize("op_type", NOTHING)
@pytest.mark.parametrize("keepdims", [0, 1])
def test_reductions_of_nothing(op_type, keepdims):
    shape = (2, 1, 4) if keepdims else (2, 4)
    expected = [np.full(shape, NOTHING[op_type], np.float32)]
    check_node(op_type, [floats(2, 0, 4), ints(1)], (1,), expected, keepdims=keepdims, opset=20)


def test_extremes_of_no_integers():
    expected = np.full(2, np.iinfo(np.int32).min, np.int32)
    check_node("ReduceMax", [np.zeros((2, 0), np.int32), ints(1)], (1,), [expected], keepdims=0, opset=20)
    check_node("ReduceMax", [np.zeros((0, 3), np.float32), ints(1)], (1,), [floats(0)], keepdims=0, opset=20)


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
def test_running_products(exclusive, reverse):
    x = floats(2, 7)[:, ::-1] if reverse else floats(2, 7)
    product = np.cumprod(x, 1)
    product = np.concatenate([np.ones((2, 1), np.float32), product[:, :-1]], 1) if exclusive else product
    product = product[:, ::-1] if reverse else product
    settings = {"exclusive": exclusive, "reverse": reverse, "opset": 26}
    check_node("CumProd", [floats(2, 7), np.asarray(-1)], (1,), [product], **settings)


@pytest.mark.parametrize("known", [(), (1,)])
@pytest.mark.parametrize("exponent", [np.float32([0.5, 2.5, 3]), ints(-1, 2, 0), np.float64(0.5), np.int64(-1)])
def test_powers_of_integers(exponent, known):
    check_node("Pow", [np.int32([1, 3, 4]), exponent], known, opset=15)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("...ij,...jk,kl->...il", ((2, 1, 3, 4), (5, 4, 2), (2, 3))),
        ("...a,...a,a", ((1, 3), (1, 3), (3,))),
        ("a...,...,ab->b...", ((3, 2), (1,), (3, 4))),
    ],
)
def test_einsum_of_three_with_ellipses(equation, shapes):
    operands = [floats(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    check_node("Einsum", operands, expected=[np.einsum(equation, *operands)], equation=equation)


def test_mean_and_variance():
    image = floats(2, 3, 4, 5)
    check_node("MeanVarianceNormalization", [image], opset=13)
    check_node("MeanVarianceNormalization", [image], axes=[1, -1], opset=9)
    constant = np.ones((1, 2, 3, 3), np.float32)
    check_node("MeanVarianceNormalization", [constant], expected=[0 * constant], opset=13)


def test_products_explained():
    inputs = {"x": floats(1, 5)}
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["hidden"]),
        helper.make_node("CumProd", ["hidden", "one"], ["running"]),
        helper.make_node("MatMul", ["running", "V"], ["others"]),
        helper.make_node("ReduceProd", ["others", "axes"], ["product"]),
        helper.make_node("Concat", ["running", "product"], ["y"], axis=1),
    ]
    weights = {"one": np.asarray(1), "axes": ints(1), "W": floats(5, 3, seed=1), "V": floats(3, 3, seed=2)}
    check_explained(network(nodes, inputs, opset=26, **weights), inputs)


def test_selections_explained():
    """Steps in reverse order, of which some are kept, between bounds that are computed."""
    inputs = {"x": floats(1, 4, 3)}
    nodes = [
        helper.make_node("ReverseSequence", ["x", "lengths"], ["reversed"], batch_axis=0, time_axis=1),
        helper.make_node("Compress", ["reversed", "kept"], ["some"], axis=1),
        helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
        helper.make_node("Clip", ["some", "mean"], ["clipped"]),
        helper.make_node("Flatten", ["clipped"], ["flat"]),
        helper.make_node("MatMul", ["flat", "W"], ["y"]),
    ]
    weights = {"lengths": ints(3), "kept": np.asarray([True, False, True]), "W": floats(6, 2, seed=1)}
    check_explained(network(nodes, inputs, **weights), inputs)
