"""The whole way, from an ONNX file to relevance, on exported networks with the true block structure."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import backtrace_jax
from backtrace_jax import Explainer, explain
from tests import handmade
from tests.zoo import NAMES, RECURRENT, exported
from tests.zoo.runtime import onnxruntime_outputs

pytestmark = pytest.mark.optimised
ERROR = {"float32": 1e-5, "float64": 1e-12}


def _explained(name: str, **settings):
    model = exported(name)
    return model, explain(model.model, model.inputs, **settings)


@pytest.mark.parametrize("name", NAMES + RECURRENT)
def test_outputs_equal_onnxruntime_and_books_close(name):
    model, explanation = _explained(name)
    (expected,) = onnxruntime_outputs(model.model, model.inputs)
    np.testing.assert_allclose(explanation.outputs["output"], expected, rtol=1e-4, atol=1e-4)
    _check_books(explanation, "float32")
    for key, relevance in explanation.relevance.items():
        assert relevance.shape == model.inputs[key].shape
        assert np.isfinite(relevance).all()
        assert np.abs(relevance).sum() > 0.01, "relevance must reach the inputs"


@pytest.mark.parametrize("name", ["resnet18", "lenet", "efficientnet", "bert", "vit", "gpt"])
def test_books_close_in_double_precision(name):
    _, explanation = _explained(name, dtype="float64")
    assert explanation.relevance[next(iter(explanation.relevance))].dtype == np.float64
    _check_books(explanation, "float64")


@pytest.mark.parametrize(
    ("name", "opset"), [("lenet", 11), ("resnet_small", 11), ("bert", 11), ("vit", 17), ("bert", 17)]
)
def test_files_of_the_old_exporter(name, opset):
    model = exported(name, exporter="torchscript", opset=opset)
    explanation = explain(model.model, model.inputs)
    np.testing.assert_allclose(explanation.outputs["output"], model.torch_outputs["output"], rtol=1e-4, atol=1e-4)
    _check_books(explanation, "float32")


@pytest.mark.parametrize("name", ["vit_sdpa", "vit_mha"])
def test_fused_attention_of_opset_23(name):
    model = exported(name, opset=23)
    assert "Attention" in {node.op_type for node in model.model.graph.node}
    fused, spelled = explain(model.model, model.inputs), explain(exported(name).model, model.inputs)
    _check_books(fused, "float32")
    np.testing.assert_allclose(fused.relevance["input"], spelled.relevance["input"], atol=1e-6)


def _check_books(explanation, dtype):
    assert explanation.ledger.error.max() <= ERROR[dtype]
    worst = max(explanation.ledger.by_node.values(), key=lambda ledger: ledger.error.max())
    assert worst.error.max() <= ERROR[dtype]
    np.testing.assert_allclose(explanation.ledger.start, 1, rtol=1e-6)


def test_masked_tokens_receive_exactly_nothing():
    model, explanation = _explained("bert")
    masked = model.inputs["attention_mask"] == 0
    assert masked.any()
    for relevance in explanation.relevance.values():
        assert (relevance[masked] == 0).all()
        assert (relevance[~masked] > 0).any()


def test_what_lies_behind_a_mask_changes_nothing():
    model, explanation = _explained("bert")
    masked = model.inputs["attention_mask"] == 0
    ids = np.where(masked, 7, model.inputs["input_ids"])
    other = explain(model.model, {**model.inputs, "input_ids": ids})
    assert other.relevance["input_ids"].tobytes() == explanation.relevance["input_ids"].tobytes()


def test_the_causal_model_explains_the_past_alone():
    model = exported("gpt")
    explanation = explain(model.model, model.inputs)
    assert (explanation.relevance["input_ids"] >= 0).all()
    assert explanation.ledger.error.max() <= 1e-5


def test_target_follows_the_prediction_unless_given():
    model, explanation = _explained("lenet")
    np.testing.assert_array_equal(explanation.target, model.torch_outputs["output"].argmax(axis=1))
    chosen = explain(model.model, model.inputs, target=[1, 2, 3])
    np.testing.assert_array_equal(chosen.target, [1, 2, 3])
    alone = explain(model.model, model.inputs["input"][1:2], target=2)
    assert alone.relevance["input"].tobytes() == chosen.relevance["input"][1:2].tobytes()
    as_index = explain(model.model, model.inputs["input"][1:2], target=(2,))
    assert as_index.relevance["input"].tobytes() == alone.relevance["input"].tobytes()


def test_scaler_scales_and_none_starts_from_the_output():
    model, one = _explained("mlp")
    double = explain(model.model, model.inputs, scaler=2.0)
    np.testing.assert_allclose(double.relevance["input"], 2 * one.relevance["input"], rtol=1e-6)
    own = explain(model.model, model.inputs, scaler=None)
    np.testing.assert_allclose(own.ledger.start, one.outputs["output"].max(axis=1), rtol=1e-6)


def test_regression_starts_everywhere_or_at_one_output():
    model, every = _explained("mlp", task="bbox-regression")
    units = every.outputs["output"].shape[1]
    assert (every.target == -1).all()
    single = [explain(model.model, model.inputs, task="regression", target=k) for k in range(units)]
    mean = sum(explanation.relevance["input"] for explanation in single) / units
    np.testing.assert_allclose(every.relevance["input"], mean, rtol=1e-4, atol=1e-7)


def test_start_as_array_and_as_function():
    model, one = _explained("lenet")
    start = np.eye(10, dtype=np.float32)[one.target]
    given = explain(model.model, model.inputs, start=start)
    made = explain(model.model, model.inputs, start=lambda outputs: np.eye(10)[outputs.argmax(axis=1)])
    assert given.relevance["input"].tobytes() == one.relevance["input"].tobytes() == made.relevance["input"].tobytes()
    assert given.target is None
    contrast = explain(model.model, model.inputs, start=start - np.roll(start, 1, axis=1))
    assert contrast.ledger.error.max() <= 1e-5
    assert (contrast.ledger.absolute[:, 0] == 2).all()


def test_layers_by_value_module_and_glob():
    model, explanation = _explained("resnet_small", layers="all")
    assert set(explanation.ledger.by_node) <= set(explanation.layers)
    for name, ledger in explanation.ledger.by_node.items():
        flat = explanation.layers[name].reshape(3, -1).sum(axis=1, dtype=np.float64)
        np.testing.assert_allclose(flat, ledger.start, rtol=1e-5, atol=1e-7)
    modules = explain(model.model, model.inputs, layers=["layer*.conv1", "output"])
    assert "output" in modules.layers
    assert {"layer1.0.conv1", "layer2.0.conv1"} <= set(modules.layers)
    for relevance in modules.layers.values():
        assert len(relevance) == 3


def test_wrt_restricts_what_bears_relevance():
    model, both = _explained("bert")
    assert set(both.relevance) == {"input_ids", "token_type_ids"}
    only = explain(model.model, model.inputs, wrt="input_ids")
    assert set(only.relevance) == {"input_ids"}
    assert (only.ledger.constant > both.ledger.constant).all()
    assert only.ledger.error.max() <= 1e-5


def test_model_as_path_with_and_without_external_data(tmp_path):
    model, explanation = _explained("lenet")
    onnx.save(model.model, tmp_path / "whole.onnx")
    outside = onnx.ModelProto()
    outside.CopyFrom(model.model)
    onnx.save(outside, tmp_path / "split.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    for name in ("whole.onnx", "split.onnx"):
        found = explain(tmp_path / name, model.inputs["input"])
        assert found.relevance["input"].tobytes() == explanation.relevance["input"].tobytes()


def test_fingerprint_tells_what_the_bytes_depend_on():
    _, explanation = _explained("mlp")
    fingerprint = explanation.fingerprint
    assert fingerprint["mode"] == "default"
    assert fingerprint["chunk"] == 64
    assert fingerprint["backend"] == "cpu"
    assert len(fingerprint["model_sha256"]) == 64
    assert {"jax", "jaxlib", "backtrace_jax", "precision", "dtype", "threads"} <= set(fingerprint)


@pytest.mark.parametrize(("name", "threads"), [("mlp", 1), ("bert", 1), ("lenet_relu", 1), ("lenet_relu", 8)])
def test_another_process_gives_the_same_bytes(tmp_path, name, threads):
    """On other numbers of threads."""
    model, explanation = _explained(name)
    onnx.save(model.model, tmp_path / "model.onnx")
    np.savez(tmp_path / "inputs.npz", **model.inputs)
    script = (
        "import numpy, sys, backtrace_jax\n"
        "found = backtrace_jax.explain('model.onnx', dict(numpy.load('inputs.npz'))).relevance\n"
        "sys.stdout.buffer.write(b''.join(found[name].tobytes() for name in sorted(found)))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**environment, "PJRT_NPROC": str(threads)},
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"".join(array.tobytes() for _, array in sorted(explanation.relevance.items()))


def test_explainer_serves_several_shapes():
    model = exported("text_cnn")
    explainer = Explainer(model.model, layers="all")
    ids = model.inputs["input_ids"]
    first, other = explainer(ids), explainer(ids[:2])
    assert other.relevance["input_ids"].tobytes() == first.relevance["input_ids"][:2].tobytes()


def test_progress_reaches_the_end():
    model, seen = exported("mlp"), []
    inputs = np.resize(model.inputs["input"], (3000, 16))  # more than one call takes
    explain(model.model, inputs, progress=lambda *now: seen.append(now))
    done = [each for each, total in seen if total == 3000]
    assert done == sorted(set(done))
    assert len(done) == len(seen) > 1
    assert done[-1] == 3000


def test_check_names_every_operator_with_kind_and_rule():
    report = backtrace_jax.check(exported("resnet_small").model)
    assert report.ok
    kinds = {(row.operator, row.kind, row.rule) for row in report.rows}
    assert ("ai.onnx.Conv", "linear", "proportional") in kinds
    assert ("ai.onnx.MaxPool", "select", "winner") in kinds
    assert "ai.onnx.Add" in str(report)


def test_show_prints_the_lowered_graph():
    text = backtrace_jax.show(exported("lenet").model)
    assert text.startswith("{ lambda")
    assert "= conv[" in text
    assert "Shape" not in text


@pytest.mark.parametrize("mode", ["default", "contrastive", "gradient"])
def test_an_input_that_the_answer_does_not_depend_on_has_relevance_zero(mode):
    network = handmade.model(helper.make_node("Neg", ["x"], ["y"]))
    network.graph.input.append(helper.make_tensor_value_info("unread", TensorProto.FLOAT, ["batch", 2, 2]))
    inputs = {"x": np.array([[1.0, 2.0, -3.0]], np.float32), "unread": np.ones((1, 2, 2), np.float32)}
    found = explain(network, inputs, mode=mode, target=0)
    for relevance in (found.relevance, *(channel.relevance for channel in found.channels.values())):
        assert [*relevance] == ["x", "unread"]
        np.testing.assert_array_equal(relevance["unread"], np.zeros((1, 2, 2), np.float32), strict=True)
    assert [*explain(network, inputs, mode=mode, target=0, wrt="x").relevance] == ["x"]


@pytest.mark.parametrize("mode", ["default", "lrp-epsilon", "attnlrp"])
def test_a_network_without_any_operation_hands_the_start_to_its_input(mode):
    inputs = np.array([[1.0, 2.0, 3.0], [-1.0, 0.5, 0.25]], np.float32)
    found = explain(handmade.model(helper.make_node("Identity", ["x"], ["y"])), inputs, mode=mode, target=1)
    np.testing.assert_array_equal(found.relevance["x"], np.tile(np.float32([0, 1, 0]), (2, 1)), strict=True)
    assert found.ledger is not None
    assert found.ledger.error.max() == 0
    assert not found.ledger.by_node
