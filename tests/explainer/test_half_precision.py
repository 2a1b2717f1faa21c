"""Models in half precision are explained in float32 or float64: the file's float type is not the walk's."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from backtrace_jax import explain
from backtrace_jax.errors import InputError
from tests.importers.nodes import floats

TYPES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16), "float64": np.dtype(np.float64)}
TOLERANCE = {"float32": 2e-5, "float64": 1e-12}
WEIGHTS = {
    "Q": floats(6, 4, seed=1),
    "K": floats(6, 4, seed=2),
    "V": floats(6, 4, seed=3),
    "W": floats(4, 3, seed=4),
    "b": floats(3, seed=5),
}
X, SHOWN = floats(2, 5, 6), np.array([[1, 1, 1, 1, 1], [1, 1, 0, 1, 0]], np.bool_)


def node(op_type: str, inputs: str, output: str, **attributes) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs.split(), [output], **attributes)


def code(dtype: np.dtype) -> int:
    return helper.np_dtype_to_tensor_dtype(dtype)


def attention(name: str, hidden: float, *, cast: str | None = None) -> onnx.ModelProto:
    """Attention whose scores are masked by a number; x may be cast to another type before, and the scores back."""
    stored = TYPES[name] if cast is None else TYPES[cast]
    half = TYPES["float16"] if name == "float64" else TYPES[name]  # the same numbers, in more digits
    held = {key: array.astype(half).astype(stored) for key, array in WEIGHTS.items()}
    with np.errstate(over="ignore"):
        held |= {"hidden": np.array(hidden).astype(stored), "shown": np.array(0).astype(stored)}
    nodes = [
        node("MatMul", "x Q", "q"),
        node("MatMul", "x K", "k"),
        node("MatMul", "x V", "v"),
        node("Transpose", "k", "kt", perm=[0, 2, 1]),
        node("MatMul", "q kt", "products"),
        node("Unsqueeze", "mask middle", "columns"),
        node("Where", "columns shown hidden", "additive"),
        node("Add", "products additive", "scores"),
        node("Softmax", "scores", "weights", axis=-1),
        node("MatMul", "weights v", "o"),
        node("ReduceMean", "o", "mean", axes=[1], keepdims=0),
        node("MatMul", "mean W", "biasless"),
        node("Add", "biasless b", "y"),
    ]
    inputs = [
        helper.make_tensor_value_info("x", code(TYPES[name]), ["N", 5, 6]),
        helper.make_tensor_value_info("mask", onnx.TensorProto.BOOL, ["N", 5]),
    ]
    tensors = [numpy_helper.from_array(array, key) for key, array in {**held, "middle": np.array([1])}.items()]
    result = helper.make_tensor_value_info("y", code(stored), ["N", 3])
    graph = helper.make_graph(nodes, "attention", inputs, [result], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture(scope="module")
def exact():
    """The same network and numbers in a file of float64."""

    def of(name: str, mode: str):
        model = attention("float64", -np.inf)
        half = TYPES[name]
        for tensor in model.graph.initializer:
            if tensor.name in WEIGHTS:
                tensor.CopyFrom(
                    numpy_helper.from_array(WEIGHTS[tensor.name].astype(half).astype(np.float64), tensor.name)
                )
        feeds = {"x": X.astype(half).astype(np.float64), "mask": SHOWN}
        return explain(model, feeds, mode=mode, target=0, dtype="float64")

    return of


@pytest.mark.parametrize("mode", ["default", "gradient"])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("name", "hidden"), [("float16", -65504.0), ("float16", -3.4e38), ("bfloat16", -3.3e38)])
def test_attention_in_half_precision(exact, name, hidden, dtype, mode):
    """As in float64, whatever number masks; it takes nothing."""
    feeds = {"x": X.astype(TYPES[name]), "mask": SHOWN}
    found, expected = explain(attention(name, hidden), feeds, mode=mode, target=0, dtype=dtype), exact(name, mode)
    assert found.outputs["y"].dtype == found.relevance["x"].dtype == np.dtype(dtype)
    np.testing.assert_allclose(found.outputs["y"], expected.outputs["y"], rtol=TOLERANCE[dtype])
    size = np.abs(expected.relevance["x"]).max()
    np.testing.assert_allclose(
        found.relevance["x"], expected.relevance["x"], rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * size
    )
    assert found.ledger is None or found.ledger.error.max() < (1e-5 if dtype == "float32" else 1e-12)


def mixed() -> onnx.ModelProto:
    """A float32 model that computes its first layer in half precision, as mixed-precision exports do."""
    half = TYPES["float16"]
    nodes = [
        node("Cast", "x", "xh", to=code(half)),
        node("MatMul", "xh Q", "hh"),
        node("Cast", "hh", "h", to=onnx.TensorProto.FLOAT),
        node("Relu", "h", "a"),
        node("MatMul", "a W", "y"),
    ]
    tensors = [numpy_helper.from_array(WEIGHTS["Q"].astype(half), "Q"), numpy_helper.from_array(WEIGHTS["W"], "W")]
    x, y = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", size]) for name, size in (("x", 6), ("y", 3))
    )
    graph = helper.make_graph(nodes, "mixed", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_cast_to_half_precision_rounds_in_the_walk_too(dtype):
    """What the model casts is rounded; what it computes then has all digits, and relevance passes as it is."""
    rows = floats(3, 6)
    found = explain(mixed(), rows, mode="lrp-zero", target=1, dtype=dtype)
    rounded, Q = (array.astype(np.float16).astype(np.float64) for array in (rows, WEIGHTS["Q"]))
    W, h = WEIGHTS["W"].astype(np.float64), np.maximum(rounded @ Q, 0)
    np.testing.assert_allclose(found.outputs["y"], h @ W, rtol=TOLERANCE[dtype])
    assert not np.allclose(found.outputs["y"], np.maximum(rows @ Q, 0) @ W, rtol=1e-5, atol=0)
    expected = rounded * (((rounded @ Q > 0) * W[:, 1]) @ Q.T) / (h @ W)[:, 1:2]
    np.testing.assert_allclose(found.relevance["x"], expected, rtol=1e-4 if dtype == "float32" else 1e-9)
    assert found.ledger.error.max() < TOLERANCE[dtype]


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_wider_inputs_are_taken(name):
    """An array of float32 is rounded as the model's input is; what does not fit is named."""
    feeds = {"x": X.astype(TYPES[name]), "mask": SHOWN}
    model = attention(name, -1e4)
    found, expected = (explain(model, {**feeds, "x": x}).relevance["x"] for x in (X, feeds["x"]))
    np.testing.assert_array_equal(found, expected)
    broken = X.astype(np.float64)
    broken[1, 2, 3] = 1e39
    with pytest.raises(InputError, match=r"input 'x' has inf at index \(1, 2, 3\)"):
        explain(model, {**feeds, "x": broken})
