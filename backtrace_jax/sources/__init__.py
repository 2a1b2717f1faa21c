"""Where examples come from: one protocol, and what turns the user's data into it.

An adapter (`opening` has the table of them) reads rows of columns; `matching` says which column is which input;
makers (`values`, `pictures`, `texts`, `lengths`) make the inputs; `columnar` puts the three together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

from backtrace_jax.batch.layout import Axes
from backtrace_jax.errors.arguments import with_fields
from backtrace_jax.ir.imported import InputType

from .opening import open_source, open_undeclared
from .protocol import Examples, Group, Schema, Source
from .reading import PLAIN, Carry, GivenReading, Reading, carrying

__all__ = [
    "PLAIN",
    "Carry",
    "Examples",
    "GivenReading",
    "Group",
    "Reading",
    "Schema",
    "Source",
    "carrying",
    "open_source",
    "open_undeclared",
    "source_of",
]


@with_fields(Reading)
def source_of(
    given: Any, declared: Sequence[InputType], *, axes: Axes, carry: Carry = (), **reading: Unpack[GivenReading]
) -> Source:
    """What the user gives as a source.

    Args:
        given: Anything of the table in docs/sources.md; or a `Source`.
        declared: The model's inputs, as the model has them.
        axes: Where each holds the examples; None for what all examples share (`batch.layout.axes_of`).
        carry: Columns that travel along (labels, say): names; or by the name that they are to have, their own.
        reading: How it is read: the fields of `Reading`.

    Raises:
        InputError: Naming what does not fit.
        SettingError: Naming a setting that says nothing about this source.
        MissingDependencyError: When a file needs a library that is not installed.
    """
    return open_source(given, declared, axes, carry, Reading(**reading))
