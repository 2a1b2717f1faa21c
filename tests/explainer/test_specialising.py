"""Integers that decide what is computed: the model is lowered for their values, call by call."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from backtrace_jax import Explainer, check, explain, show
from backtrace_jax.cli.main import main
from backtrace_jax.errors import DataDependentError, InputError
from tests.importers.nodes import floats

SPEECH = Path(__file__).parents[1] / "cases" / "if_on_sr.onnx"  # 4 samples a frame at 16 kHz, 2 otherwise
WEIGHTS = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(SPEECH).graph.initializer}
X = floats(3, 4)


def shares(x: np.ndarray, W: np.ndarray, unit: int) -> np.ndarray:
    """LRP-0 of a linear map: each entry's part of the sum."""
    parts = x.astype(np.float64) * W[:, unit].astype(np.float64)
    return parts / parts.sum(1, keepdims=True)


def test_a_sampling_rate_picks_the_branch_at_every_call():
    explainer = Explainer(SPEECH, batch_axis={"sr": None}, mode="lrp-zero", dtype="float64")
    for rate, name, size in ((16000, "w", 4), (8000, "w2", 2), (44100, "w2", 2), (16000, "w", 4)):
        x, W = X[:, :size], WEIGHTS[name]
        found = explainer({"x": x, "sr": np.int64(rate)}, target=1)
        np.testing.assert_allclose(found.outputs["y"], x.astype(np.float64) @ W, rtol=1e-12)
        np.testing.assert_allclose(found.relevance["x"], shares(x, W, 1), rtol=1e-12)
        assert set(found.relevance) == {"x"}
        assert found.fingerprint["value of sr"] == str(rate)
        assert found.ledger.error.max() < 1e-12
    assert explainer._stages.compiled.cache_info().misses == 3  # one for each rate


def test_a_model_without_batch():
    found = explain(SPEECH, {"x": X[:1], "sr": np.int64(16000)}, mode="lrp-zero", target=(0, 2), batch_axis=None)
    np.testing.assert_allclose(found.relevance["x"][0], shares(X[:1], WEIGHTS["w"], 2), rtol=1e-5)


def sized(dims: list[int | str]) -> onnx.ModelProto:
    """x in a shape that an input of integers gives, then weighed."""
    nodes = [
        helper.make_node("Slice", ["shape", "zero", "one", "zero"], ["row"]),
        helper.make_node("Squeeze", ["row", "zero"], ["sizes"]),
        helper.make_node("Concat", ["minus", "sizes"], ["whole"], axis=0),
        helper.make_node("Reshape", ["x", "whole"], ["matrix"]),
        helper.make_node("ReduceSum", ["matrix", "one"], ["summed"], keepdims=0),
        helper.make_node("Mul", ["summed", "factor"], ["y"]),
    ]
    held = {name: np.array([value]) for name, value in (("zero", 0), ("one", 1), ("minus", -1))}
    inputs = [
        helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 4]),
        helper.make_tensor_value_info("shape", onnx.TensorProto.INT64, dims),
    ]
    result = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(array, name) for name, array in {**held, "factor": np.float32([2])}.items()]
    graph = helper.make_graph(nodes, "sized", inputs, [result], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_sizes_that_are_an_input_of_every_example():
    """Equal ones are taken for all; different ones are refused by name."""
    model, sizes = sized(["N", 2]), np.array([[2, 2], [2, 2]])
    found = explain(model, {"x": X[:2], "shape": sizes}, mode="gradient", target=0)
    np.testing.assert_allclose(found.relevance["x"], [[2, 0, 2, 0]] * 2)
    with pytest.raises(InputError, match="'shape' decides what is computed, and differs between the examples"):
        explain(model, {"x": X[:2], "shape": np.array([[2, 2], [1, 4]])}, target=0)


def test_what_has_to_bear_relevance_is_no_setting():
    feeds = {"x": X, "sr": np.int64(16000)}
    with pytest.raises(DataDependentError, match=r"values of the inputs \(sr\)"):
        explain(SPEECH, feeds, batch_axis={"sr": None}, wrt=["x", "sr"])


@pytest.mark.parametrize(("rate", "name"), [(16000, "w"), (8000, "w2")])
def test_check_show_and_the_command_line_tell_what_is_explained(rate, name, tmp_path, capsys):
    """The branch that is taken for the values given, and no other."""
    feeds = {"x": X[:, : WEIGHTS[name].shape[0]], "sr": np.int64(rate)}
    np.savez(tmp_path / "x.npz", **feeds)
    report = check(SPEECH, feeds, batch_axis={"sr": None})
    assert report.ok
    assert [(row.operation, row.kind) for row in report.rows] == [("matmul", "linear")]
    assert report.notes == (f"value of sr: {rate}",)
    printed = show(SPEECH, feeds, batch_axis={"sr": None})
    assert f"matmul[] x {name}\n" in printed
    for command, expected in (("check", str(report)), ("show", printed)):
        assert main([command, str(SPEECH), str(tmp_path / "x.npz"), "--batch-axis", "sr=none"]) == 0
        assert capsys.readouterr().out.rstrip("\n") == expected


def test_without_inputs_check_says_what_it_would_take():
    report = check(SPEECH, batch_axis={"sr": None})
    assert not report.ok
    assert report.notes == ("with inputs= the model is taken for their values of sr, as explain does",)


def test_examples_that_differ_are_refused_by_check_as_by_explain():
    model, sizes = sized(["N", 2]), np.array([[2, 2], [1, 4]])
    for call in (check, show, explain):
        with pytest.raises(InputError, match="'shape' decides what is computed, and differs between the examples"):
            call(model, {"x": X[:2], "shape": sizes})


def chosen(condition: bool) -> onnx.ModelProto:
    """A branch picked by a constant; the other one holds an operator that nobody has."""
    branches = {}
    for name, op in (("then_branch", "Relu"), ("else_branch", "Unheard")):
        domain = "" if op == "Relu" else "far.away"
        result = helper.make_tensor_value_info(f"of_{op}", onnx.TensorProto.FLOAT, None)
        branches[name] = helper.make_graph(
            [helper.make_node(op, ["x"], [f"of_{op}"], domain=domain)], name, [], [result]
        )
    graph = helper.make_graph(
        [helper.make_node("If", ["which"], ["y"], **branches)],
        "chosen",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(np.array(condition), "which")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("far.away", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def test_a_branch_that_is_never_taken_is_not_missed():
    report = check(chosen(True))
    assert report.ok, str(report)
    assert [row.operation for row in report.rows] == ["relu"]
    missing = check(chosen(False))
    assert [row.operator for row in missing.rows] == ["far.away.Unheard"]
