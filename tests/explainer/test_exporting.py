"""`export` and its command: the ONNX file of a module or a Keras model, proven to compute the same."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch

from backtrace_jax import explain, export
from backtrace_jax.cli.main import main
from backtrace_jax.errors import ModelError, SettingError
from backtrace_jax.explainer.exporting import named

MAKER = """
import torch

def build_model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))

def build_it(size):
    return torch.nn.Linear(size, 2)

model = build_model()
"""
X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


def test_a_module_is_explained_by_its_file_as_by_itself(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    imported = export(module, tmp_path / "model.onnx", X)
    assert imported.origin["exporter"] == "dynamo"
    onnx.checker.check_model(onnx.load(tmp_path / "model.onnx"), full_check=True)
    written, own = explain(tmp_path / "model.onnx", X), explain(module, X)
    assert [*written.relevance] == [*own.relevance]
    for name, relevance in own.relevance.items():
        assert relevance.tobytes() == written.relevance[name].tobytes()


def test_an_onnx_file_needs_no_export(tmp_path):
    module = torch.nn.Linear(4, 2)
    export(module, tmp_path / "model.onnx", X)
    with pytest.raises(SettingError, match="is an ONNX model already"):
        export(tmp_path / "model.onnx", tmp_path / "again.onnx")
    with pytest.raises(SettingError, match="cannot write"):
        export(module, tmp_path / "nowhere" / "model.onnx", X)


def test_weights_that_one_file_does_not_hold(tmp_path, monkeypatch):
    monkeypatch.setattr("backtrace_jax.importers.pytorch.exporters.LARGEST", 0)
    with pytest.raises(SettingError, match="more weights than one file holds"):
        export(torch.nn.Linear(4, 2), tmp_path / "model.onnx", X)


@pytest.mark.parametrize("name", ["build_model", "model"])
def test_the_command_exports_what_a_name_stands_for(tmp_path, monkeypatch, capsys, name):
    (tmp_path / "made_for_export.py").write_text(MAKER)
    np.save(tmp_path / "x.npy", X)
    monkeypatch.chdir(tmp_path)
    assert main(["export", f"made_for_export:{name}", "model.onnx", "x.npy"]) == 0
    assert "exporter  dynamo" in capsys.readouterr().out
    assert explain("model.onnx", X).outputs["output"].shape == (3, 2)
    assert str(tmp_path) not in sys.path


def test_names_that_stand_for_nothing(tmp_path, monkeypatch):
    (tmp_path / "made_in_vain.py").write_text(MAKER)
    monkeypatch.chdir(tmp_path)
    for text in ("made_in_vain:missing", "not_there:model", ":model"):
        with pytest.raises(SettingError, match="names nothing"):
            named(text)
    with pytest.raises(ModelError, match="cannot be called without arguments"):
        named("made_in_vain:build_it")


def test_a_module_needs_inputs(tmp_path, monkeypatch, capsys):
    (tmp_path / "made_without.py").write_text(MAKER)
    monkeypatch.chdir(tmp_path)
    assert main(["export", "made_without:model", "model.onnx"]) == 1
    assert "give INPUTS, an .npy file" in capsys.readouterr().err


def test_importing_the_package_imports_no_framework():
    script = "import sys, backtrace_jax; print({'torch', 'keras', 'onnx', 'tensorflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
