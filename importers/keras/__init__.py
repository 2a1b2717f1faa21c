"""Keras models: written layer by layer to ONNX, proven, and lowered from there.

Layers without such a form, and calls of the user's own, are traced by JAX with the whole model (`traced`).

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

from .exclusions import TRACED as TRACED

SUFFIXES = (".keras", ".h5")
"""How the names of Keras' files end."""


def is_model(model: Any) -> bool:
    """Whether it is a Keras model; imports nothing."""
    keras = sys.modules.get("keras")
    kind = getattr(keras, "Model", None)
    return isinstance(kind, type) and isinstance(model, kind)


def parameters(model: Any) -> tuple[tuple[str, ...], int] | None:
    """Names of what a `call` of the user's own takes, and how many are needed; None of a model that says itself."""
    from .calling import parameters_of
    from .graph import runs_a_graph

    if runs_a_graph(model):
        return None
    found = parameters_of(model)
    return found.names, found.needed


def read(model: Any, example: Any = None, batch_axis: Any = 0) -> Imported:
    """Read a Keras model, or the file of one.

    Args:
        model: A sequential or functional model, or the path of a `.keras` or `.h5` file.
        example: Inputs, for a model that runs a call of its own; any other says itself what it takes.
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
