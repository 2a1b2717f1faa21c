"""Every model of the zoo says in ONNX what it says in torch, at any batch size, and hides nothing."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.zoo import ALL, exported, settings_of
from tests.zoo.runtime import onnxruntime_outputs
from tests.zoo.store import load, path_of, save

OLD = [(name, "torchscript", opset) for name in ("lenet", "resnet_small", "vit", "bert") for opset in (11, 17)]
OLD += [(name, "torchscript", 17) for name in ("vit_mha", "vit_sdpa", "unet", "lstm", "gru")]
CASES = [(name, *settings_of(name)) for name in ALL] + [("rnn", "dynamo", 20)] + OLD
SHAPES = {
    "unet": (1, 32, 32),
    "unet_classes": (4, 24, 24),
    "bbox_cnn": (4,),
    "bert_qa": (12,),
    "bert_tokens": (12, 5),
    "llama": (12, 60),
}
every_case = pytest.mark.parametrize(("name", "exporter", "opset"), CASES)


@every_case
@pytest.mark.parametrize("batch", [1, 3, 5])
def test_onnx_agrees_with_torch(name, exporter, opset, batch):
    specimen = exported(name, exporter=exporter, opset=opset)
    rows = np.arange(batch) % 3
    inputs = {key: value[rows] for key, value in specimen.inputs.items()}
    outputs = onnxruntime_outputs(specimen.model, inputs)
    assert [output.name for output in specimen.model.graph.output] == list(specimen.torch_outputs)
    for output, expected in zip(outputs, specimen.torch_outputs.values(), strict=True):
        np.testing.assert_allclose(output, expected[rows], rtol=1e-4, atol=1e-4)


@every_case
def test_the_file_is_what_was_asked_for(name, exporter, opset):
    model = exported(name, exporter=exporter, opset=opset).model
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.parametrize("name", ALL)
def test_examples_differ_in_their_answers(name):
    for output in exported(name).torch_outputs.values():
        assert output.dtype == np.float32
        assert np.isfinite(output).all()
        assert 0.1 < np.ptp(output) < 100
        assert output.std(axis=0).max() > 0.05


@pytest.mark.parametrize(("name", "shape"), SHAPES.items())
def test_answers_that_are_not_one_class(name, shape):
    outputs = exported(name).torch_outputs
    names = ["start_logits", "end_logits"] if name == "bert_qa" else ["output"]
    assert {key: output.shape for key, output in outputs.items()} == dict.fromkeys(names, (3, *shape))


def test_segments_are_neither_empty_nor_everything():
    probabilities = exported("unet").torch_outputs["output"]
    share = (probabilities > 0.5).mean((1, 2, 3))
    assert ((probabilities > 0) & (probabilities < 1)).all()
    assert ((share > 0.05) & (share < 0.95)).all()
    for classes in exported("unet_classes").torch_outputs["output"].argmax(1):
        assert (np.bincount(classes.ravel(), minlength=4) > 0).sum() > 1


@pytest.mark.parametrize(
    ("name", "node", "count"),
    [
        ("unet", "ConvTranspose", 2),
        ("lstm", "LSTM", 2),
        ("gru", "GRU", 2),
        ("rnn", "RNN", 2),
        ("lstm_text", "LSTM", 1),
        ("llama", "RMSNormalization", 5),
    ],
)
def test_what_matters_is_one_node(name, node, count):
    assert [entry.op_type for entry in exported(name).model.graph.node].count(node) == count


def test_recurrence_comes_unrolled_too():
    kinds = {node.op_type for node in exported("rnn", exporter="dynamo").model.graph.node}
    assert "Tanh" in kinds
    assert "RNN" not in kinds


@pytest.mark.parametrize("name", ALL)
def test_no_parameter_is_an_identity(name):
    for parameter in exported(name).model.graph.initializer:
        values = numpy_helper.to_array(parameter)
        if values.dtype == np.float32 and values.ndim and values.size > 4:
            assert np.ptp(values) > 0.01, parameter.name


@pytest.mark.parametrize("name", ["bert", "bert_qa", "bert_tokens", "text_cnn", "lstm_text"])
def test_sentences_are_padded_to_different_lengths(name):
    lengths = (exported(name).inputs["input_ids"] != 0).sum(1)
    assert len(set(lengths)) == len(lengths)
    if name.startswith("bert"):
        np.testing.assert_array_equal(exported(name).inputs["attention_mask"].sum(1), lengths)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="no model 'alexnet' in the zoo"):
        exported("alexnet")


def test_one_export_serves_every_call():
    assert exported("lenet") is exported("lenet", exporter="dynamo", opset=20)
    with pytest.raises(ValueError, match="read-only"):
        exported("lenet").inputs["input"][:] = 0


def test_the_store_returns_what_was_saved(tmp_path):
    specimen = exported("bert_qa")
    save(specimen, tmp_path / "bert_qa-dynamo-20-0.npz")
    found = load(tmp_path / "bert_qa-dynamo-20-0.npz")
    assert [file.name for file in tmp_path.iterdir()] == ["bert_qa-dynamo-20-0.npz"]
    assert (found.name, found.model) == ("bert_qa", specimen.model)
    assert found.inputs.keys() == specimen.inputs.keys()
    assert found.torch_outputs.keys() == specimen.torch_outputs.keys()
    for key, values in specimen.inputs.items():
        np.testing.assert_array_equal(found.inputs[key], values)
    for key, values in specimen.torch_outputs.items():
        np.testing.assert_array_equal(found.torch_outputs[key], values)


@pytest.mark.parametrize("content", [b"", b"half a file", b"PK\x03\x04"])
def test_the_store_takes_a_broken_file_for_a_missing_one(tmp_path, content):
    assert load(tmp_path / "absent.npz") is None
    (tmp_path / "broken.npz").write_bytes(content)
    assert load(tmp_path / "broken.npz") is None


def test_a_failed_save_leaves_nothing_behind(tmp_path):
    taken = tmp_path / "taken"
    taken.mkdir()
    with pytest.raises(IsADirectoryError):
        save(exported("mlp"), taken)
    assert list(tmp_path.iterdir()) == [taken]


def test_every_export_has_its_own_file(monkeypatch, tmp_path):
    monkeypatch.setenv("BACKTRACE_JAX_ZOO", str(tmp_path))
    paths = {path_of(*case) for case in CASES}
    assert len(paths) == len(CASES)
    assert {path.parent for path in paths} == {tmp_path}


FRESH = """
import random, sys, warnings
import numpy as np
from tests.zoo import ALL, exported
filters = list(warnings.filters)
exported("lenet", exporter="torchscript", opset=17)
import torch, logging
from tests.zoo.export import RECIPES
assert tuple(RECIPES) == ALL
torch.manual_seed(7)
def state():
    return (torch.random.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate(),
            torch.backends.mha.get_fastpath_enabled(), torch.is_grad_enabled(), warnings.filters,
            torch.get_num_threads(), torch.get_default_dtype(), logging.root.manager.disable)
before = state()
exported("vit_mha", exporter="torchscript", opset=17)
exported("lenet")
assert state() == before
"""


def test_a_fresh_export_is_silent_and_leaves_no_trace(tmp_path):
    environment = {**os.environ, "BACKTRACE_JAX_ZOO": str(tmp_path)}
    command = [sys.executable, "-W", "error", "-c", FRESH]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    same = path_of("lenet", "dynamo", 20).name
    found, expected = load(tmp_path / same), exported("lenet")
    np.testing.assert_array_equal(found.torch_outputs["output"], expected.torch_outputs["output"])
    assert found.model.graph.initializer == expected.model.graph.initializer
