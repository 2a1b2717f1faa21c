"""Files of torch's two exporters, and what onnxruntime's optimiser makes of them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from onnxruntime.transformers.optimizer import optimize_model

from tests.zoo import quiet

from .modules import build
from .weights import HEADS, WIDTH, example

LEVELS = {
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
NOT_PORTABLE = ("NchwcTransformer", "NhwcTransformer")
"""Layouts for one kind of processor, in a domain of onnxruntime's own (com.microsoft.nchwc), are left out."""


def dynamo(name: str) -> onnx.ModelProto:
    """The newer exporter, at the oldest opset that it writes: formulas are written out."""
    with quiet():
        program = torch.onnx.export(
            build(name).double(), _inputs(name, torch.float64), dynamo=True, opset_version=18, input_names=["x"],
            external_data=False, verbose=False,
        )  # fmt: skip
    assert program is not None
    return program.model_proto


def traced(name: str) -> onnx.ModelProto:
    """The older exporter, which folds batch norm by itself."""
    return _traced(build(name).double(), _inputs(name, torch.float64))


def plain(name: str) -> onnx.ModelProto:
    """The older exporter with batch norm and all constants left as they are, for others to fold, in float32."""
    training = torch.onnx.TrainingMode.PRESERVE
    return _traced(build(name), _inputs(name, torch.float32), training=training, do_constant_folding=False)


def _traced(module: torch.nn.Module, inputs: tuple[torch.Tensor], **settings: Any) -> onnx.ModelProto:
    file = io.BytesIO()
    with quiet():
        torch.onnx.export(module, inputs, file, dynamo=False, opset_version=17, input_names=["x"], **settings)
    return onnx.load_model_from_string(file.getvalue())


def optimised(model: onnx.ModelProto, level: str, folder: Path) -> onnx.ModelProto:
    """What onnxruntime makes of a file at a level of its optimiser."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"], disabled_optimizers=list(NOT_PORTABLE)
    )
    return onnx.load(options.optimized_model_filepath)


def fused(model: onnx.ModelProto, kind: str, folder: Path) -> onnx.ModelProto:
    """What onnxruntime's optimiser for transformers of this kind writes, by its own fusions alone.

    After those of a session, which are tested apart, it writes a file for gpt2 that onnxruntime itself refuses.
    """
    path = str(folder / "fused.onnx")
    onnx.save(model, path)
    optimize_model(path, kind, num_heads=HEADS, hidden_size=WIDTH, opt_level=0).save_model_to_file(path)
    return onnx.load(path)


def _inputs(name: str, kind: torch.dtype) -> tuple[torch.Tensor]:
    x = torch.tensor(example(name))
    return (x.to(kind) if x.is_floating_point() else x,)
