"""Operators one by one, in every form their opsets give them, against onnxruntime or NumPy."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from backtrace_jax.errors import DataDependentError, ModelError, UnsupportedError
from backtrace_jax.importers import read
from backtrace_jax.importers.onnx import load, lower
from backtrace_jax.onnx_backend import prepare, run_model
from backtrace_jax.passes import simplify

from .nodes import boolean, check_node, floats, ints, node_model

X = floats(2, 3, 4)
IMAGE = floats(1, 4, 3, 5)

MOVES = {
    "reshape keeps and infers": ("Reshape", [X, ints(0, -1)], {"opset": 13}),
    "reshape with allowzero": ("Reshape", [floats(0, 3), ints(3, 0)], {"opset": 14, "allowzero": 1}),
    "flatten": ("Flatten", [X], {"axis": 2}),
    "flatten from the end": ("Flatten", [X], {"axis": -1}),
    "flatten everything": ("Flatten", [X], {"axis": 0}),
    "squeeze attribute": ("Squeeze", [floats(1, 3, 1)], {"axes": [0], "opset": 11}),
    "squeeze operand": ("Squeeze", [floats(1, 3, 1), ints(-1)], {}),
    "squeeze all": ("Squeeze", [floats(1, 3, 1)], {}),
    "unsqueeze attribute": ("Unsqueeze", [X], {"axes": [0, 4], "opset": 11}),
    "unsqueeze operand": ("Unsqueeze", [X, ints(-1, 1)], {}),
    "transpose": ("Transpose", [X], {"perm": [1, 2, 0]}),
    "transpose reverses": ("Transpose", [X], {}),
    "expand": ("Expand", [floats(3, 1), ints(2, 1, 4)], {}),
    "tile": ("Tile", [X, ints(1, 2, 3)], {}),
    "slice attributes": ("Slice", [X], {"starts": [0, -3], "ends": [1, 9], "axes": [0, 2], "opset": 9}),
    "slice without axes": ("Slice", [X, ints(1, 0), ints(2, 2)], {}),
    "slice backwards": ("Slice", [X, ints(-1, 5), ints(-99, 0), ints(2, 1), ints(-2, -1)], {}),
    "slice with steps": ("Slice", [X, ints(0), ints(2**62), ints(-1), ints(3)], {}),
    "slice to nothing": ("Slice", [X, ints(2), ints(1), ints(1)], {}),
    "split attribute": ("Split", [X], {"axis": 2, "split": [1, 3], "opset": 11, "results": 2}),
    "split equally": ("Split", [X], {"axis": 1, "opset": 11, "results": 3}),
    "split operand": ("Split", [X, ints(3, 1)], {"axis": -1, "opset": 13, "results": 2}),
    "split with a smaller last part": ("Split", [X], {"axis": 1, "num_outputs": 2, "opset": 18, "results": 2}),
    "pad attribute": ("Pad", [X], {"pads": [0, 1, 0, 0, 0, 2], "value": 1.5, "opset": 10}),
    "pad operand": ("Pad", [X, ints(1, 0, 0, 0, 2, 0), np.float32(3)], {"opset": 13}),
    "pad cuts": ("Pad", [X, ints(0, -1, 1, 0, 0, -2)], {"opset": 13}),
    "pad axes": ("Pad", [X, ints(1, 2), None, ints(-1)], {"opset": 18}),
    "pad reflect": ("Pad", [X, ints(0, 2, 1, 0, 1, 3)], {"mode": "reflect", "opset": 18}),
    "pad edge": ("Pad", [X, ints(0, 2, 1, 0, 1, 3)], {"mode": "edge", "opset": 18}),
    "pad wrap": ("Pad", [X, ints(0, 2, 1, 0, 1, 3)], {"mode": "wrap", "opset": 19}),
    "gather": ("Gather", [X, ints(2, -1, 0)], {"axis": 1}),
    "gather one": ("Gather", [X, np.asarray(-1)], {"axis": 1}),
    "gather one of one": ("Gather", [X, ints(1)], {"axis": 2}),
    "gather a matrix": ("Gather", [X, np.asarray([[0, 1], [1, 0]])], {}),
    "gather elements": ("GatherElements", [X, np.asarray([[[0, -1], [1, 2], [3, 0]]] * 2)], {"axis": 2}),
    "gather nd": ("GatherND", [X, np.asarray([[0, 1], [1, -1]])], {}),
    "gather nd in batches": ("GatherND", [X, np.asarray([[1], [-1]])], {"batch_dims": 1}),
    "depth to space": ("DepthToSpace", [IMAGE], {"blocksize": 2}),
    "depth to space, CRD": ("DepthToSpace", [IMAGE], {"blocksize": 2, "mode": "CRD"}),
    "space to depth": ("SpaceToDepth", [floats(1, 2, 4, 6)], {"blocksize": 2}),
    "upper triangle": ("Trilu", [floats(2, 4, 4), np.asarray(1)], {}),
    "lower triangle": ("Trilu", [floats(3, 5)], {"upper": 0}),
}


@pytest.mark.parametrize("name", MOVES)
def test_moves(name):
    op_type, operands, settings = MOVES[name]
    check_node(op_type, operands, range(1, len(operands)), rtol=0, atol=0, **settings)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("opset", [11, 13])
def test_softmax_coerces_before_opset_13(op_type, axis, opset):
    check_node(op_type, [X], opset=opset, axis=axis)


REDUCTIONS = ["L1", "L2", "LogSumExp", "Max", "Mean", "Min", "Sum", "SumSquare"]


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("keepdims", [0, 1])
def test_reductions(name, keepdims):
    check_node(f"Reduce{name}", [X], axes=[0, -1], keepdims=keepdims, opset=11)
    check_node(f"Reduce{name}", [X], keepdims=keepdims, opset=11)
    check_node(f"Reduce{name}", [X, ints(1)], (1,), keepdims=keepdims, opset=18)
    check_node(f"Reduce{name}", [X], keepdims=keepdims, opset=18)


def test_reductions_without_axes_may_do_nothing():
    check_node("ReduceSum", [X, ints()], (1,), noop_with_empty_axes=1, opset=18)
    check_node("ReduceLogSum", [np.abs(X), ints(0, 1)], (1,), opset=18)


@pytest.mark.parametrize("op_type", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("last", [0, 1])
def test_positions_of_extremes(op_type, last):
    ties = np.round(X)
    check_node(op_type, [ties], axis=1, keepdims=0, select_last_index=last, opset=13)


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
def test_cumulative_sum(exclusive, reverse):
    check_node("CumSum", [X, np.asarray(-1)], (1,), exclusive=exclusive, reverse=reverse)


@pytest.mark.parametrize("largest", [0, 1])
def test_top_k(largest):
    check_node("TopK", [np.round(X), ints(2)], (1,), axis=-1, largest=largest, results=2)


@pytest.mark.parametrize("axis", [0, -1])
def test_one_hot(axis):
    check_node("OneHot", [np.asarray([[0, -1], [2, 7]]), np.asarray(3), np.float32([2, 5])], (1, 2), axis=axis)


EQUATIONS = ["bij,bjk->bik", "bij,bkj", "...j,jk->...k", "bij,bij->b", "bij,bij->"]


@pytest.mark.parametrize("equation", EQUATIONS)
def test_einsum_of_two(equation):
    shapes = {"bij,bjk->bik": (2, 4, 3), "bij,bkj": (2, 5, 4), "...j,jk->...k": (4, 5)}
    check_node("Einsum", [X, floats(*shapes.get(equation, X.shape), seed=1)], equation=equation)


def test_einsum_of_one_and_of_three():
    check_node("Einsum", [floats(4, 4)], equation="ii->i")
    check_node("Einsum", [X], equation="b...->...b")
    check_node("Einsum", [floats(2, 3), floats(3, 4), floats(4, 2, seed=1)], equation="ij, jk, kl -> il")
    check_node("Einsum", [X, X, X], equation="...a,...a,...a->...a")


@pytest.mark.parametrize(("transA", "transB"), [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("known", [(), (1, 2), (0, 2)])
def test_gemm(transA, transB, known):
    a, b = floats(*((3, 2) if transA else (2, 3))), floats(*((4, 3) if transB else (3, 4)), seed=1)
    settings = {"alpha": 0.5, "beta": 2.0, "transA": transA, "transB": transB}
    for c in (floats(4), floats(2, 1), np.float32(3), None):
        check_node("Gemm", [a, b, c], known if c is not None else known[:1], **settings)


@pytest.mark.parametrize("shapes", [((4,), (4, 3)), ((2, 3, 4), (4,)), ((2, 1, 3, 4), (5, 4, 2)), ((4,), (4,))])
def test_matmul(shapes):
    check_node("MatMul", [floats(*shapes[0]), floats(*shapes[1], seed=1)])


@pytest.mark.parametrize("known", [(1, 2, 3, 4), ()])
@pytest.mark.parametrize("opset", [9, 14, 15])
def test_batch_normalization(known, opset):
    channels = [floats(4, seed=i) for i in range(3)] + [np.abs(floats(4, seed=4)) + 0.5]
    check_node("BatchNormalization", [IMAGE, *channels], known, opset=opset, epsilon=1e-3)


@pytest.mark.parametrize("known", [(1, 2, 3, 4), ()])
def test_batch_normalization_in_training(known):
    """By the batch's own statistics; the running ones move towards them."""
    scale, shift, mean, variance = [floats(4, seed=i) for i in range(3)] + [np.abs(floats(4, seed=4)) + 0.5]
    axes, image = (0, 2, 3), np.concatenate([IMAGE, IMAGE + floats(4, 1, 1)])
    found, spread = image.mean(axes), image.var(axes)
    normal = (image - found.reshape(-1, 1, 1)) / np.sqrt(spread + 1e-3).reshape(-1, 1, 1)
    expected = normal * scale.reshape(-1, 1, 1) + shift.reshape(-1, 1, 1)
    running = [0.75 * mean + 0.25 * found, 0.75 * variance + 0.25 * spread]
    settings = {"training_mode": 1, "epsilon": 1e-3, "momentum": 0.75, "results": 3}
    check_node("BatchNormalization", [image, scale, shift, mean, variance], known, [expected, *running], **settings)


def test_batch_normalization_in_training_is_refused_where_the_mode_is_implied():
    operands = [IMAGE, *[np.abs(floats(4))] * 4]
    for settings in ({"opset": 9, "results": 5}, {"opset": 6}):
        with pytest.raises(UnsupportedError, match="training mode; export the model in evaluation mode"):
            run_model(node_model("BatchNormalization", operands, **settings), operands)


NORMS = {
    "instance": ("InstanceNormalization", [IMAGE, floats(4), floats(4, seed=1)], {}),
    "group": ("GroupNormalization", [IMAGE, floats(4), floats(4, seed=1)], {"num_groups": 2}),
    "group, opset 18": ("GroupNormalization", [IMAGE, floats(2), floats(2, seed=1)], {"num_groups": 2, "opset": 18}),
    "layer": ("LayerNormalization", [X, floats(4), floats(4, seed=1)], {"opset": 17}),
    "layer over two axes": ("LayerNormalization", [X, floats(3, 4)], {"axis": 1, "epsilon": 1e-2, "opset": 17}),
    "layer with statistics": ("LayerNormalization", [X, floats(4)], {"results": 3, "opset": 17}),
    "rms": ("RMSNormalization", [X, floats(4)], {"opset": 23}),
    "local response": ("LRN", [IMAGE], {"size": 3, "alpha": 0.3, "beta": 0.6, "bias": 1.5}),
    "p = 1": ("LpNormalization", [X], {"p": 1, "axis": 1}),
    "p = 2": ("LpNormalization", [X], {"p": 2}),
}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("known", [True, False])
def test_normalisations(name, known):
    op_type, operands, settings = NORMS[name]
    check_node(op_type, operands, range(1, len(operands)) if known else (), **settings)


@pytest.mark.parametrize("size", range(1, 7))
def test_local_response_of_windows_of_every_size(size):
    """By ONNX's formula; its reference evaluator counts examples where it means channels (onnx 1.23, op_lrn.py)."""
    x = np.random.default_rng(size).normal(size=(2, 5, 2, 3))
    before, after = (size - 1) // 2, -(-(size - 1) // 2)  # floor and ceiling
    squares = [(x[:, max(0, c - before) : c + after + 1] ** 2).sum(1) for c in range(5)]
    expected = x / (1.5 + 0.3 / size * np.stack(squares, axis=1)) ** 0.6
    check_node("LRN", [x], expected=[expected], rtol=1e-12, size=size, alpha=0.3, beta=0.6, bias=1.5)


ACTIVATIONS = [
    *(
        (name, {})
        for name in ("Relu", "LeakyRelu", "Elu", "Selu", "Celu", "HardSigmoid", "HardSwish", "Shrink", "Mish")
    ),
    *((name, {}) for name in ("ThresholdedRelu", "Gelu", "Sigmoid", "Softplus", "Softsign", "Hardmax", "Erf", "Atan")),
    ("LeakyRelu", {"alpha": 0.3}),
    ("Elu", {"alpha": 2.0}),
    ("Celu", {"alpha": 0.5}),
    ("HardSigmoid", {"alpha": 0.4, "beta": 0.1}),
    ("Shrink", {"lambd": 0.2, "bias": 0.1}),
    ("Gelu", {"approximate": "tanh"}),
]


@pytest.mark.parametrize(("op_type", "attributes"), ACTIVATIONS)
def test_activations(op_type, attributes):
    check_node(op_type, [3 * X], **attributes)


def test_prelu():
    check_node("PRelu", [IMAGE, floats(4, 1, 1)], (1,))
    check_node("PRelu", [IMAGE, floats(4)], (1,), [np.where(IMAGE < 0, IMAGE * floats(4, 1, 1), IMAGE)], opset=6)


def test_clip():
    check_node("Clip", [X], min=-0.5, max=0.25, opset=6)
    check_node("Clip", [X, np.float32(-0.5)], (1,), opset=13)
    check_node("Clip", [X, None, np.float32(0.25)], (2,), opset=13)
    check_node("Clip", [ints(-3, 0, 9), np.int64(-1), np.int64(5)], (1, 2), opset=13)


@pytest.mark.parametrize("op_type", ["Sum", "Max", "Min", "Mean"])
def test_any_number_of_operands(op_type):
    check_node(op_type, [X, floats(4, seed=1), floats(3, 1, seed=2)])
    check_node(op_type, [X])


@pytest.mark.parametrize("exponent", [np.float32(2), np.float32(0.5), np.int64(3), floats(4), np.float32(-1)])
@pytest.mark.parametrize("known", [(), (1,)])
def test_powers(exponent, known):
    check_node("Pow", [np.abs(X) + 0.1, exponent], known, opset=15)


def test_remainders():
    a, b = ints(-7, 7, -7, 7), ints(3, 3, -3, -3)
    check_node("Mod", [a, b])
    check_node("Mod", [a.astype(np.float32), b.astype(np.float32)], fmod=1)
    check_node("Div", [a, b], expected=[ints(-2, 2, 2, -2)])


@pytest.mark.parametrize("op_type", ["Add", "Mul", "Sub", "Div", "Pow"])
def test_operands_were_aligned_by_axis_before_opset_7(op_type):
    a, b = np.abs(X) + 1, np.abs(floats(3)) + 1
    compute = {"Add": np.add, "Mul": np.multiply, "Sub": np.subtract, "Div": np.divide, "Pow": np.power}[op_type]
    check_node(op_type, [a, b], expected=[compute(a, b[:, None])], opset=6, broadcast=1, axis=1)
    check_node(op_type, [a, a[0, 0]], expected=[compute(a, a[0, 0])], opset=6, broadcast=1)


def test_comparisons_and_logic():
    a, b = boolean(4), boolean(4, seed=1)
    for op_type in ("And", "Or", "Xor"):
        check_node(op_type, [a, b])
    for op_type in ("Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"):
        check_node(op_type, [np.round(X), np.float32(0)])
    check_node("Not", [a])
    check_node("Where", [boolean(3, 1), X, np.float32(2)])


@pytest.mark.parametrize(("negative", "positive"), [(1, 1), (1, 0), (0, 1), (0, 0)])
def test_infinities(negative, positive):
    values = np.float32([1, np.inf, -np.inf, np.nan])
    check_node("IsInf", [values], detect_negative=negative, detect_positive=positive)
    check_node("IsNaN", [values])


@pytest.mark.parametrize("to", ["INT32", "BOOL", "DOUBLE", "FLOAT16", "FLOAT"])
def test_casts(to):
    check_node("Cast", [3 * X], to=onnx.TensorProto.DataType.Value(to))


def test_shapes_are_known():
    check_node("Shape", [X], opset=13)
    check_node("Shape", [X], opset=15, start=1, end=-1)
    check_node("Size", [X])


def test_dropout():
    check_node("Dropout", [X, np.float32(0.5), np.asarray(False)], (1, 2), opset=13)
    check_node("Dropout", [X, np.float32(0), np.asarray(True)], (1, 2), opset=13, results=2)
    check_node("Dropout", [X], opset=10, ratio=0.3)
    check_node("Dropout", [X], opset=6, is_test=1, expected=[X])
    with pytest.raises(UnsupportedError, match="at random"):
        run_model(node_model("Dropout", [X, np.float32(0.5), np.asarray(True)], (1, 2)), [X])


def test_values_that_decide_shapes_are_held_fixed():
    model = node_model("Reshape", [X, ints(6, 4)])
    with pytest.raises(DataDependentError, match=r"the_node.*Reshape, opset 21.*depends on the values of the inputs"):
        lower(load(model), {"x0": X.shape, "x1": (2,)})
    ready = prepare(model)
    assert ready.run([X, ints(6, 4)])[0].shape == (6, 4)
    assert ready.run([X, ints(4, 6)])[0].shape == (4, 6)
    assert run_model(model, [X, ints(6, 4)], known=["x1"])[0].shape == (6, 4)


def test_an_order_of_axes_that_counts_from_the_end():
    """As torch's older exporter writes `movedim`, where only axes of size 1 seem to move."""
    x = floats(1, 3, 4, 2)
    model = node_model("Transpose", [x], perm=[0, -1, 1, 2])
    (found,) = run_model(model, {"x0": x})
    np.testing.assert_array_equal(found, x.transpose(0, 3, 1, 2))
    (eqn,) = simplify(read(model).lower({"x0": x.shape})).graph.eqns
    assert eqn.params["perm"] == (0, 3, 1, 2)
    for perm, words in (([0, 1, 1, 2], "name one twice"), ([0, 1, 2], "axes"), ([0, 1, 2, -5], "axis -5")):
        with pytest.raises(ModelError, match=words):
            prepare(node_model("Transpose", [x], perm=perm)).lower({"x0": x})
