"""ONNX files: read (`load`), lowered at one example's shapes to a graph and its weights (`lower`)."""

from __future__ import annotations

from functools import partial

from backtrace_jax.errors import UnsupportedError
from backtrace_jax.ir.imported import Imported

from .load import ModelSource, OnnxModel, load
from .lower import lower
from .modules import CALLS, SCOPES
from .signature import input_types
from .survey import unsupported_nodes

__all__ = ["CALLS", "SCOPES", "ModelSource", "OnnxModel", "input_types", "load", "lower", "read", "unsupported_nodes"]


def read(source: ModelSource, *, copy: bool = True) -> Imported:
    """Read an ONNX model for the engine; `load` says what `copy` means.

    Raises:
        ModelError: When it cannot be read.
        UnsupportedError: When it takes anything but tensors of numbers.
    """
    model = load(source, copy=copy)
    declared = input_types(model)
    for entry in declared:
        if entry.container:
            raise UnsupportedError(f"input {entry} is no tensor; give the model tensors and build sequences inside it")
    return Imported(model.name, model.sha256, declared, partial(lower, model), partial(unsupported_nodes, model))
