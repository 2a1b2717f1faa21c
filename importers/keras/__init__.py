"""Keras models: written layer by layer to ONNX, proven, and lowered from there.

Keras' own exporters unroll recurrences, freeze lengths, or fail on layers. A sequential or functional model says layer
by layer what it computes, so every layer is written as its few ONNX nodes, with its weights and under its name.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backtrace_jax.errors import SettingError
from backtrace_jax.ir.imported import Imported

SUFFIXES = (".keras", ".h5")
"""How the names of Keras' files end."""


def is_model(model: Any) -> bool:
    """Whether it is a Keras model; imports nothing."""
    keras = sys.modules.get("keras")
    kind = getattr(keras, "Model", None)
    return isinstance(kind, type) and isinstance(model, kind)


def read(model: Any, example: Any = None, batch_axis: Any = 0) -> Imported:
    """Read a Keras model, or the file of one.

    Args:
        model: A sequential or functional model, or the path of a `.keras` or `.h5` file.
        example: Not needed: a Keras model says itself what it computes.
        batch_axis: 0, or None where the examples of a batch are one example together.

    Raises:
        SettingError: When the batch is said to be another axis.
        MissingDependencyError: When Keras is not installed.
        ModelError: When the file cannot be read, or the import does not compute what the model computes.
        UnsupportedError: Naming the layer that cannot be written.
    """
    from .exporting import exported, exported_file

    together = batch_axis is None
    axes = batch_axis.values() if isinstance(batch_axis, Mapping) else (batch_axis,)
    if not together and any(axis != 0 or axis is None for axis in axes):
        raise SettingError(
            f"batch_axis={batch_axis!r}: a Keras model has its batch first in every input; leave batch_axis= out, or "
            "pass None where the examples of a batch are one example together"
        )
    if isinstance(model, str | os.PathLike):
        return exported_file(Path(model), example, together=together)
    return exported(model, example, together=together)
