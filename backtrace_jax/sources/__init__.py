"""Where examples come from: one protocol, and what turns the user's data into it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from backtrace_jax.batch.layout import Axes
from backtrace_jax.ir.imported import InputType

from .arrays import arrays_of
from .protocol import Examples, Group, Schema, Source

__all__ = ["Examples", "Group", "Schema", "Source", "source_of"]


def source_of(given: Any, declared: Sequence[InputType], *, axes: Axes, carry: Collection[str] = ()) -> Source:
    """What the user gives as a source.

    Args:
        given: An array, a tuple in the model's order, or a dict by input name; or a `Source`.
        declared: The model's inputs, as the model has them.
        axes: Where each holds the examples; None for what all examples share (`batch.layout.axes_of`).
        carry: Names of columns that travel along (labels, say).

    Raises:
        InputError: Naming what does not fit.
    """
    if isinstance(given, Source):
        return given
    return arrays_of(given, declared, axes, carry)
