"""Importers: each turns one framework's model into the intermediate representation.

`read` is the one door: it tells what kind of model it was given and returns it as an `Imported`, which is all the
rest of the library knows about where a model came from. A framework is imported only when a model asks for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backtrace_jax.errors import SettingError
from backtrace_jax.ir.imported import Imported


def parameters(model: Any) -> tuple[tuple[str, ...], int] | None:
    """Names of the parameters of a model that is traced with inputs, and how many are needed; None of any other."""
    from . import jax, keras, pytorch

    if pytorch.is_module(model):
        return pytorch.parameters(model)
    if keras.is_model(model):
        return keras.parameters(model)
    return jax.parameters(model) if jax.is_model(model) else None


def read(model: Any, example: Any = None, batch_axis: Any = 0, *, proven: bool = True) -> Imported:
    """Read a model.

    Args:
        model: Path of an ONNX file, an onnx.ModelProto, a PyTorch module, a Keras model or the path of its file, a
            JAX model (`importers.jax.read`), or an Imported.
        example: Inputs that a PyTorch module or JAX model is traced with.
        batch_axis: Axis of the batch in the inputs of a module or Keras model, or one by input name; None: no batch.
        proven: Whether the numbers of a module's import are compared with the module's at once; otherwise, as with all
            Keras models, `Imported.prove` does it, when a forward pass has been compiled.

    Raises:
        ModelError: When it cannot be read.
        ImportMismatchError: When the import does not compute what the framework's own model computes.
        SettingError: When it is nothing of the kind.
    """
    if isinstance(model, Imported):
        return model
    if isinstance(model, str) and not model.strip():
        raise SettingError("model is an empty text; pass the path of an ONNX or Keras file, or a model itself")
    # Neither package imports its framework before it has a model of it.
    from . import jax, keras, onnx, pytorch
    from .strangers import refuse_strangers

    if pytorch.is_module(model):
        return pytorch.read(model, example, batch_axis, proven=proven)
    if keras.is_model(model) or (isinstance(model, str | Path) and Path(model).suffix in keras.SUFFIXES):
        return keras.read(model, example, batch_axis)
    if jax.is_model(model):
        return jax.read(model, example, batch_axis, proven=proven)
    refuse_strangers(model)
    return onnx.read(model)
