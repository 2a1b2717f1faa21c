"""A batch is explained as the model computes it on the whole batch, or refused by the node that mixes the examples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from backtrace_jax import BacktraceError, InputError, RelevanceWarning, explain
from tests.batch.graphs import ALONE, MIXED, TIME_FIRST, examples, model

CASES = Path(__file__).parents[1] / "cases"
MODE = "gradient-x-input"
RNG = np.random.default_rng(3)


def reference(found, *feeds):
    names = [entry.name for entry in found.graph.input]
    return np.asarray(next(iter(ReferenceEvaluator(found).run(None, dict(zip(names, feeds, strict=True))))))


def explained(found, inputs, **settings):
    """An explanation of the whole output, whose start is a number of its own for every entry."""
    return explain(found, inputs, mode=MODE, start=numbered, **settings)


def numbered(outputs):
    return np.cos(np.arange(outputs.size)).reshape(outputs.shape).astype(np.float32)


@pytest.mark.parametrize("name", ALONE)
def test_a_batch_of_examples_that_are_treated_alone(name):
    kind, body = ALONE[name]
    found, x = model(kind, body), examples(kind, 3)
    expected = reference(found, x)
    expected = np.moveaxis(expected, 1, 0) if name in TIME_FIRST else expected
    explanation = explained(found, x)
    np.testing.assert_allclose(explanation.outputs["y"], expected, rtol=1e-5, atol=1e-5)
    assert explanation.relevance["x"].shape == x.shape


@pytest.mark.parametrize("name", MIXED)
def test_examples_that_are_mixed_are_refused_by_the_node(name):
    kind, body = MIXED[name]
    found, x = model(kind, body), examples(kind, 3)
    assert reference(found, x).size
    names = "|".join(output for node in found.graph.node for output in node.output)
    with pytest.raises(BacktraceError, match=rf"node '({names})' \(ai.onnx.\w+") as caught:
        explain(found, x)
    assert "batch_axis=None" in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["mean", "products of rows", "first row", "time is the batch", "times the batch size"])
def test_mixed_examples_are_one_example_without_a_batch(name):
    kind, body = MIXED[name]
    found, x = model(kind, body), examples(kind, 3)
    explanation = explained(found, x, batch_axis=None)
    np.testing.assert_allclose(explanation.outputs["y"][0], reference(found, x), rtol=1e-4, atol=1e-5)
    assert explanation.relevance["x"].shape == (1, *x.shape)


def test_what_is_said_of_a_node_that_mixes():
    with pytest.raises(BacktraceError) as caught:
        explain(CASES / "minus_mean_of_rows.onnx", RNG.normal(size=(3, 4)).astype(np.float32))
    assert str(caught.value) == (
        "node 'm' (ai.onnx.ReduceMean) mixes the examples along axis 0 of 'x' [3, 4]: it adds up the entries of all "
        "examples. If the inputs are one example together, pass batch_axis=None; if the model is meant for batches of "
        "one size, fix that size in the file"
    )


def test_rows_that_are_compared_with_their_mean():
    found, x = onnx.load(CASES / "minus_mean_of_rows.onnx"), RNG.normal(size=(3, 4)).astype(np.float32)
    weights = onnx.numpy_helper.to_array(found.graph.initializer[0])
    start = RNG.normal(size=(1, 3, 3)).astype(np.float32)
    explanation = explain(found, x, batch_axis=None, mode=MODE, start=start)
    np.testing.assert_allclose(explanation.outputs["y"][0], (x - x.mean(0)) @ weights, rtol=1e-5, atol=1e-6)
    pulled = start[0] @ weights.T
    np.testing.assert_allclose(explanation.relevance["x"][0], x * (pulled - pulled.mean(0)), rtol=1e-4, atol=1e-6)


def test_one_example_is_what_the_model_computes_whatever_it_does_to_several():
    found, x = onnx.load(CASES / "minus_mean_of_rows.onnx"), RNG.normal(size=(1, 4)).astype(np.float32)
    with pytest.warns(RelevanceWarning, match="dead 100%"):
        np.testing.assert_array_equal(explain(found, x).outputs["y"], np.zeros((1, 3)))


def test_a_batch_fixed_in_the_file_may_mix_its_examples_if_it_is_full():
    found, x = onnx.load(CASES / "minus_mean_of_rows.onnx"), RNG.normal(size=(6, 4)).astype(np.float32)
    found.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    expected = [reference(found, part) for part in (x[:3], x[3:])]
    np.testing.assert_allclose(explain(found, x).outputs["y"], np.concatenate(expected), rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match=r"4 examples do not fill batches of 3.*node 'm'.*multiple of 3"):
        explain(found, x[:4])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_squeeze_of_whatever_is_one(count):
    found = onnx.load(CASES / "squeeze_all_state.onnx")
    x, h = (RNG.normal(size=shape).astype(np.float32) for shape in ((count, 1, 5, 4), (2, count, 3)))
    explanation = explained(found, {"x": x, "h": h}, batch_axis={"h": 1})
    np.testing.assert_allclose(explanation.outputs["y"].reshape(-1), reference(found, x, h).reshape(-1), rtol=1e-5)
    assert explanation.outputs["y"].shape == (count, 5)
    assert explanation.relevance["h"].shape == (count, 2, 3)
    total = explanation.relevance["x"].sum((1, 2, 3)) + explanation.relevance["h"].sum((1, 2))  # the model is linear
    expected = (explanation.outputs["y"] * numbered(explanation.outputs["y"])).sum(1)
    np.testing.assert_allclose(total, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("count", [1, 3])
def test_an_input_that_all_examples_share(count):
    found = onnx.load(CASES / "shared_scalar.onnx")
    weights = onnx.numpy_helper.to_array(found.graph.initializer[0])
    x, s = RNG.normal(size=(count, 4)).astype(np.float32), np.float32(1.5)
    start = RNG.normal(size=(count, 3)).astype(np.float32)
    explanation = explain(found, {"x": x, "s": s}, batch_axis={"s": None}, mode=MODE, start=start)
    np.testing.assert_allclose(explanation.outputs["y"], x * s @ weights, rtol=1e-5, atol=1e-6)
    expected = x * s * (start @ weights.T)
    np.testing.assert_allclose(explanation.relevance["x"], expected, rtol=1e-4, atol=1e-6)
    assert explanation.relevance["s"].shape == (count,)
    np.testing.assert_allclose(explanation.relevance["s"], expected.sum(1), rtol=1e-4, atol=1e-6)


def test_what_all_examples_share_may_be_copied_for_each():
    found = onnx.load(CASES / "shared_scalar.onnx")
    nodes = [onnx.helper.make_node("Shape", ["x"], ["shape"]), onnx.helper.make_node("Expand", ["s", "shape"], ["e"])]
    found.graph.node[0].input[1] = "e"
    for node in reversed(nodes):
        found.graph.node.insert(0, node)
    x, s = RNG.normal(size=(3, 4)).astype(np.float32), np.float32(1.5)
    explanation = explained(found, {"x": x, "s": s}, batch_axis={"s": None})
    np.testing.assert_allclose(explanation.outputs["y"], reference(found, x, s), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(explanation.relevance["s"], explanation.relevance["x"].sum(1), rtol=1e-4, atol=1e-6)


def test_a_size_of_minus_one_is_dynamic():
    found, x = onnx.load(CASES / "dim_minus_one.onnx"), RNG.normal(size=(3, 4)).astype(np.float32)
    np.testing.assert_allclose(explain(found, x).outputs["y"], reference(found, x), rtol=1e-5, atol=1e-6)
