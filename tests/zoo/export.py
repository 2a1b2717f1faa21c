"""From a recipe to ONNX through either of torch's exporters.

Imported only when an export is not on disk yet, because torch and transformers take seconds to import.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnx
import torch

from tests.zoo import language, recurrent, spatial, text, vision
from tests.zoo.recipe import Recipe, randomise
from tests.zoo.store import Exported

RECIPES = {**vision.RECIPES, **text.RECIPES, **spatial.RECIPES, **recurrent.RECIPES, **language.RECIPES}


def build(name: str) -> Recipe:
    """The torch module of a zoo model, always with the same weights; torch's generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(zlib.crc32(name.encode()))
        recipe = RECIPES[name]()
        randomise(recipe.module)
    recipe.module.eval()
    return recipe


def export(name: str, exporter: str, opset: int) -> Exported:
    """Export with a dynamic batch axis and record what torch itself answers."""
    recipe = build(name)
    arguments = tuple(torch.tensor(value) for value in recipe.inputs.values())
    outputs = _answers(recipe, arguments)
    model = EXPORTERS[exporter](recipe, arguments, opset)
    versions = [entry.version for entry in model.opset_import if entry.domain == ""]
    if versions != [opset]:
        raise RuntimeError(f"{name}: asked for opset {opset}, the {exporter} exporter wrote {versions}")
    return Exported(name, model, recipe.inputs, outputs)


def _answers(recipe: Recipe, arguments: tuple[torch.Tensor, ...]) -> dict[str, np.ndarray]:
    """What the module returns, by output name."""
    with torch.no_grad():
        outputs = recipe.module(*arguments)
    several = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
    return {name: output.numpy() for name, output in zip(recipe.outputs, several, strict=True)}


def _dynamo(recipe: Recipe, arguments: tuple[torch.Tensor, ...], opset: int) -> onnx.ModelProto:
    """The exporter built on `torch.export`; it needs opset 18 or newer."""
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        recipe.module,
        arguments,
        dynamo=True,
        opset_version=opset,
        input_names=list(recipe.inputs),
        output_names=list(recipe.outputs),
        dynamic_shapes=tuple({0: batch} for _ in arguments),
        external_data=False,
        verbose=False,
    )
    return program.model_proto


def _torchscript(recipe: Recipe, arguments: tuple[torch.Tensor, ...], opset: int) -> onnx.ModelProto:
    """The older exporter, by tracing; it cannot see into torch's fused attention, so that is turned off."""
    file = io.BytesIO()
    with _unfused_attention():
        torch.onnx.export(
            recipe.module,
            arguments,
            file,
            dynamo=False,
            opset_version=opset,
            input_names=list(recipe.inputs),
            output_names=list(recipe.outputs),
            dynamic_axes={name: {0: "batch"} for name in (*recipe.inputs, *recipe.outputs)},
        )
    return onnx.load_model_from_string(file.getvalue())


@contextmanager
def _unfused_attention() -> Iterator[None]:
    """Turn off the fast path of `nn.MultiheadAttention` for a while."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


EXPORTERS = {"dynamo": _dynamo, "torchscript": _torchscript}
