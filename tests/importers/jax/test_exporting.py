"""A JAX model's file is what jax2onnx writes, once it is proven; `benchmarks.jax_export` tries jax2onnx itself."""

import sys
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from backtrace_jax import explain, export
from backtrace_jax.errors import ImportMismatchError, MissingDependencyError, SettingError, UnsupportedError

from . import kinds


def exporter(weights):
    """Writes the file of a matrix product, whatever it is given."""

    def to_onnx(function, *, inputs, input_names, output_names, model_name):
        (given,), (name,), (output,) = inputs, input_names, output_names
        node = helper.make_node("MatMul", [name, "w"], [output])
        graph = helper.make_graph(
            [node],
            model_name,
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, [str(size) for size in given.shape[:1]] + [4])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", 5])],
            [numpy_helper.from_array(weights, "w")],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)

    return SimpleNamespace(to_onnx=to_onnx)


def linear(x):
    return x @ kinds.FIRST


def test_the_file_is_written_when_it_is_proven(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "jax2onnx", exporter(kinds.FIRST))
    export(linear, tmp_path / "model.onnx", kinds.X)
    onnx.checker.check_model(tmp_path / "model.onnx")
    ours, theirs = (explain(each, kinds.X, target=1).relevance["x"] for each in (linear, tmp_path / "model.onnx"))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_a_file_that_computes_something_else_is_not_written(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "jax2onnx", exporter(2 * kinds.FIRST))
    with pytest.raises(ImportMismatchError):
        export(linear, tmp_path / "model.onnx", kinds.X)
    assert not [*tmp_path.iterdir()]


def test_what_cannot_be_exported_is_said(monkeypatch, tmp_path):
    with pytest.raises(SettingError, match="traced with inputs"):
        export(linear, tmp_path / "model.onnx")
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(MissingDependencyError, match="jax2onnx"):
        export(linear, tmp_path / "model.onnx", kinds.X)
    monkeypatch.setitem(sys.modules, "jax2onnx", SimpleNamespace(to_onnx=lambda *_, **__: 1 / 0))
    with pytest.raises(UnsupportedError, match="jax2onnx cannot export linear: ZeroDivisionError"):
        export(linear, tmp_path / "model.onnx", kinds.X)
