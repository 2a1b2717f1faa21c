"""Models whose batch is fixed in the file, lies along another axis, or is not there at all."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from backtrace_jax import Explainer, InputError, MixedExamplesError, SettingError, explain
from backtrace_jax.explainer import stages

RNG = np.random.default_rng(0)
W, B, V = (RNG.normal(size=shape).astype(np.float32) for shape in ((5, 7), (7,), (7, 3)))
X = RNG.normal(size=(6, 5)).astype(np.float32)
MODES = ("default", "contrastive", "lrp-epsilon", "gradient-x-input", "integrated-gradients")


def model(batch: int | str | None, swapped: bool = False) -> onnx.ModelProto:
    """Two layers on [batch, 5], on [5, batch], or on a single example [5]."""
    nodes = [
        helper.make_node("Transpose" if swapped else "Identity", ["x"], ["rows"]),
        helper.make_node("MatMul", ["rows", "W"], ["before"]),
        helper.make_node("Add", ["before", "B"], ["shifted"]),
        helper.make_node("Relu", ["shifted"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "V"], ["scores"]),
        helper.make_node("Transpose" if swapped else "Identity", ["scores"], ["y"]),
    ]
    sizes = (lambda size: [size]) if batch is None else (lambda size: [size, batch] if swapped else [batch, size])
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes(size))] for name, size in (("x", 5), ("y", 3))
    )
    weights = [numpy_helper.from_array(array, name) for array, name in ((W, "W"), (B, "B"), (V, "V"))]
    graph = helper.make_graph(nodes, "layers", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture(scope="module")
def usual():
    return {mode: explain(model("N"), X, mode=mode, target=[0, 1, 2, 0, 1, 2]) for mode in MODES}


def check_equal(found, expected, rows=slice(None)):
    np.testing.assert_allclose(found.relevance["x"], expected.relevance["x"][rows], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found.outputs["y"], expected.outputs["y"][rows], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.target, expected.target[rows])
    for name, channel in expected.channels.items():
        other = found.channels[name].relevance["x"]
        np.testing.assert_allclose(other, channel.relevance["x"][rows], rtol=1e-5, atol=1e-7)
    if expected.ledger is not None:
        assert found.ledger.error.max() < 1e-6
        assert max(node.error.max() for node in found.ledger.by_node.values()) < 1e-5
        np.testing.assert_allclose(
            found.ledger.signed.sum(0), expected.ledger.signed[rows].sum(0), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [2, 3, 6])
def test_a_batch_fixed_in_the_file(usual, mode, size):
    check_equal(explain(model(size), X, mode=mode, target=[0, 1, 2, 0, 1, 2]), usual[mode])


@pytest.mark.parametrize("mode", ["default", "contrastive"])
def test_a_fixed_batch_that_is_not_full(usual, mode):
    """Filled up with the last example, whose copies leave no trace but in the books' last part."""
    found = explain(model(4), X, mode=mode, target=[0, 1, 2, 0, 1, 2], layers=["hidden"])
    np.testing.assert_allclose(found.relevance["x"], usual[mode].relevance["x"], rtol=1e-5, atol=1e-7)
    assert found.layers["hidden"].shape == (6, 7)
    assert found.ledger.signed.shape == (6, 6)
    assert found.ledger.error.max() < 1e-6


def test_a_start_of_ones_own_in_a_fixed_batch():
    start = RNG.normal(size=(6, 3)).astype(np.float32)
    expected = explain(model("N"), X, start=start)
    check = explain(model(3), X, start=start)
    np.testing.assert_allclose(check.relevance["x"], expected.relevance["x"], rtol=1e-5, atol=1e-7)
    same = explain(model(3), X, start=lambda outputs: start)
    np.testing.assert_array_equal(check.relevance["x"], same.relevance["x"])


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_along_another_axis(usual, mode):
    found = explain(model("N", swapped=True), X.T, mode=mode, target=[0, 1, 2, 0, 1, 2], batch_axis=1)
    check_equal(found, usual[mode])
    assert (
        explain(model("N", swapped=True), {"x": X.T}, mode=mode, batch_axis={"x": -1}).relevance["x"].shape == X.shape
    )


@pytest.mark.parametrize("mode", MODES)
def test_no_batch_at_all(usual, mode):
    for row in (0, 4):
        check_equal(
            explain(model(None), X[row], mode=mode, target=usual[mode].target[row], batch_axis=None),
            usual[mode],
            slice(row, row + 1),
        )


def test_axes_that_do_not_exist():
    for axis in (2, -3):
        with pytest.raises(SettingError, match="is no axis of input x: float32"):
            explain(model("N"), X, batch_axis=axis)
    with pytest.raises(SettingError, match=r"batch_axis must be a whole number.*found True"):
        explain(model("N"), X, batch_axis=True)
    with pytest.raises(SettingError, match="no input is called z; there are: x"):
        explain(model("N"), X, batch_axis={"z": 0})
    with pytest.raises(InputError, match="shape"):
        explain(model("N", swapped=True), X[0], batch_axis=1)


def test_features_taken_for_the_batch():
    """Axis 1 of the inputs holds features, whose number the file fixes."""
    with pytest.raises(InputError, match="mixes the examples along axis 1 of 'x'"):
        explain(model("N"), X, batch_axis=1)


def test_an_output_without_the_fixed_batch():
    summed = model(4)
    summed.graph.node.append(helper.make_node("ReduceSum", ["y", "axes"], ["total"], keepdims=0))
    summed.graph.initializer.append(numpy_helper.from_array(np.array([0]), "axes"))
    summed.graph.output.append(helper.make_empty_tensor_value_info("total"))
    for count in (4, 6):
        with pytest.raises(MixedExamplesError, match=r"node 'total' \(ai.onnx.ReduceSum\) mixes.*batch_axis=None"):
            explain(summed, X[:count], output="total")
    np.testing.assert_allclose(
        explain(summed, X).relevance["x"], explain(model("N"), X).relevance["x"], rtol=1e-5, atol=1e-7
    )
    assert explain(summed, X[:4], output="total", batch_axis=None).relevance["x"].shape == (1, 4, 5)
    summed.graph.output.insert(0, summed.graph.output.pop())
    with pytest.raises(MixedExamplesError, match="node 'total'"):
        explain(summed, X[:4])
    assert list(explain(summed, X[:4], output=1).outputs) == ["y"]


@pytest.mark.parametrize(("kept", "shape"), [(0, [4]), (1, [1, 4]), (0, [4, 4])])
def test_classes_that_are_as_many_as_a_fixed_batch(kept, shape):
    """What is left after a mean of the examples is no example each, whatever its size."""
    classes = shape[-1]
    weights = RNG.normal(size=(5, classes)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["scores"]),
        helper.make_node("ReduceMean", ["scores", "axes"], ["mean"], keepdims=kept),
        helper.make_node("Expand", ["mean", "shape"], ["y"]),
    ]
    constants = {"W": weights, "axes": np.array([0]), "shape": np.array(shape)}
    graph = helper.make_graph(
        nodes,
        "mean",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 5])],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    found = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    with pytest.raises(InputError, match=r"node 'mean' \(ai.onnx.ReduceMean\) mixes.*pass batch_axis=None"):
        explain(found, X[:4])
    whole = explain(found, X[:4], batch_axis=None, mode="gradient-x-input", start=np.ones((1, *shape), np.float32))
    times = 4 if shape == [4, 4] else 1
    np.testing.assert_allclose(whole.relevance["x"][0], times * X[:4] * weights.sum(1) / 4, rtol=1e-4, atol=1e-6)


def test_shapes_share_their_weights_on_the_device(monkeypatch):
    made = []
    compile_model = stages.compile_model
    monkeypatch.setattr(stages, "compile_model", lambda *args: made.append(compile_model(*args)) or made[-1])
    explainer = Explainer(model("N"))
    explainer(X)
    explainer(X, start=np.ones((6, 3), np.float32))
    (plain, _), (custom, _) = (each.weights for each in made)
    assert plain.keys() == custom.keys()
    assert all(plain[name] is custom[name] for name in plain)


DOUBLED = """<ir_version: 10, opset_import: ["" : 20]> g (float x) => (float y) { y = Add(x, x) }"""


@pytest.mark.parametrize("given", [3.0, np.float32(3), np.array(3, np.float32), (3.0,), {"x": 3.0}])
def test_a_single_number_is_an_example_without_batch(given):
    found = explain(onnx.parser.parse_model(DOUBLED), given, batch_axis=None)
    assert (found.outputs["y"].tolist(), found.relevance["x"].tolist()) == ([6.0], [1.0])


@pytest.mark.parametrize(("given", "words"), [((1.0, 2.0), "1 inputs .* found 2"), (object(), "holds object")])
def test_what_is_no_input_is_named_without_a_batch_as_well(given, words):
    with pytest.raises(InputError, match=words):
        explain(onnx.parser.parse_model(DOUBLED), given, batch_axis=None)
