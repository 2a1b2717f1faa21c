"""Every model of the zoo says in ONNX what it says in torch, at any batch size, and hides nothing."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.zoo import NAMES, exported
from tests.zoo.runtime import onnxruntime_outputs
from tests.zoo.store import load, path_of, save

OLD = [(name, "torchscript", opset) for name in ("lenet", "resnet_small", "vit", "bert") for opset in (11, 17)]
OLD += [("vit_mha", "torchscript", 17), ("vit_sdpa", "torchscript", 17)]
CASES = [(name, "dynamo", 20) for name in NAMES] + OLD
every_case = pytest.mark.parametrize(("name", "exporter", "opset"), CASES)


@every_case
@pytest.mark.parametrize("batch", [1, 3, 5])
def test_onnx_agrees_with_torch(name, exporter, opset, batch):
    specimen = exported(name, exporter=exporter, opset=opset)
    rows = np.arange(batch) % 3
    inputs = {key: value[rows] for key, value in specimen.inputs.items()}
    (outputs,) = onnxruntime_outputs(specimen.model, inputs)
    np.testing.assert_allclose(outputs, specimen.torch_outputs[rows], rtol=1e-4, atol=1e-4)


@every_case
def test_the_file_is_what_was_asked_for(name, exporter, opset):
    model = exported(name, exporter=exporter, opset=opset).model
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.parametrize("name", NAMES)
def test_examples_differ_in_their_answers(name):
    outputs = exported(name).torch_outputs
    assert outputs.dtype == np.float32
    assert np.isfinite(outputs).all()
    assert 0.1 < np.ptp(outputs) < 100
    assert outputs.std(axis=0).max() > 0.05


@pytest.mark.parametrize("name", NAMES)
def test_no_parameter_is_an_identity(name):
    for parameter in exported(name).model.graph.initializer:
        values = numpy_helper.to_array(parameter)
        if values.dtype == np.float32 and values.ndim and values.size > 4:
            assert np.ptp(values) > 0.01, parameter.name


@pytest.mark.parametrize("name", ["bert", "text_cnn"])
def test_sentences_are_padded_to_different_lengths(name):
    lengths = (exported(name).inputs["input_ids"] != 0).sum(1)
    assert len(set(lengths)) == len(lengths)
    if name == "bert":
        np.testing.assert_array_equal(exported(name).inputs["attention_mask"].sum(1), lengths)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="no model 'alexnet' in the zoo"):
        exported("alexnet")


def test_one_export_serves_every_call():
    assert exported("lenet") is exported("lenet", exporter="dynamo", opset=20)
    with pytest.raises(ValueError, match="read-only"):
        exported("lenet").inputs["input"][:] = 0


def test_the_store_returns_what_was_saved(tmp_path):
    specimen = exported("bert")
    save(specimen, tmp_path / "bert-dynamo-20-0.npz")
    found = load(tmp_path / "bert-dynamo-20-0.npz")
    assert [file.name for file in tmp_path.iterdir()] == ["bert-dynamo-20-0.npz"]
    assert (found.name, found.model) == ("bert", specimen.model)
    assert found.inputs.keys() == specimen.inputs.keys()
    np.testing.assert_array_equal(found.torch_outputs, specimen.torch_outputs)


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
from tests.zoo import NAMES, exported
filters = list(warnings.filters)
exported("lenet", exporter="torchscript", opset=17)
import torch, logging
from tests.zoo import text, vision
assert tuple({**vision.RECIPES, **text.RECIPES}) == NAMES
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
    np.testing.assert_array_equal(load(tmp_path / same).torch_outputs, exported("lenet").torch_outputs)
    assert load(tmp_path / same).model.graph.initializer == exported("lenet").model.graph.initializer
