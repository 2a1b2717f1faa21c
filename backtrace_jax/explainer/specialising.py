"""Integers among the inputs that decide what is computed: a sampling rate that picks a branch, sizes of a reshape.

A model is lowered for their values, as it is for the shapes of all inputs; they bear no relevance then.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from backtrace_jax.engine.fingerprint import digest
from backtrace_jax.errors import DataDependentError, InputError
from backtrace_jax.ir import Program
from backtrace_jax.ir.imported import Imported

VALUE_OF = "value of "  # an input, as the origin of a specialised model says it
_MOST = 8  # entries of an example that may be a setting; longer inputs are data


Result = TypeVar("Result")


class Deciding:
    """Which inputs a model has been found to be specialised to, by the model's hash."""

    def __init__(self) -> None:
        self._names: dict[str, frozenset[str]] = {}

    def settled(
        self,
        model: Imported,
        axes: Mapping[str, int | None],
        feeds: Mapping[str, np.ndarray],
        attempt: Callable[[Imported], Result],
        wrt: Collection[str] | None = None,
    ) -> Result:
        """What an attempt makes of the model, specialised to the inputs that decide what is computed.

        Args:
            model: The model.
            axes: Axis of the batch in each of its inputs; None where it has none.
            feeds: The inputs by name, batch first.
            attempt: What to do with the model; it is told again which inputs decide until none is missing.
            wrt: Names of the inputs that have to bear relevance.

        Raises:
            DataDependentError: Where an input that decides is no setting.
        """
        while True:
            known = self._names.get(model.sha256, frozenset())
            values = {name: feeds[name][0, ...] for name in sorted(known)}
            try:
                return attempt(specialised(model, axes, values))
            except DataDependentError as error:
                self._names[model.sha256] = known | deciding(error, feeds, wrt)


def deciding(error: DataDependentError, feeds: Mapping[str, np.ndarray], wrt: Collection[str] | None) -> frozenset[str]:
    """Names of the inputs that a model may be specialised to where their values are asked for.

    Args:
        error: Which inputs decide.
        feeds: The inputs by name, batch first.
        wrt: Names of the inputs that have to bear relevance.

    Raises:
        DataDependentError: The error itself, where an input is no setting, has to bear relevance, or is the only one.
        InputError: When examples differ in such an input.
    """
    settings = all(_is_setting(feeds.get(name)) and name not in (wrt or ()) for name in error.inputs)
    if not error.inputs or not settings or error.inputs >= feeds.keys():
        raise error
    for name in sorted(error.inputs):
        if (feeds[name] != feeds[name][:1]).any():
            raise InputError(
                f"input {name!r} decides what is computed, and differs between the examples; explain those of one "
                "value together"
            ) from error
    return error.inputs


def _is_setting(feed: np.ndarray | None) -> bool:
    return feed is not None and feed.dtype.kind in "biu" and feed[0].size <= _MOST


def specialised(model: Imported, axes: Mapping[str, int | None], values: Mapping[str, np.ndarray]) -> Imported:
    """The model lowered for these values of inputs.

    Args:
        model: The model.
        axes: Axis of the batch in each of its inputs; None where it has none.
        values: What every example holds, by name, without batch axis.
    """
    if not values:
        return model

    def lower(shapes: Mapping[str, tuple[int, ...]], **more: Any) -> Program:
        known = {
            name: np.broadcast_to(value if axes[name] is None else np.expand_dims(value, axes[name] or 0), shapes[name])
            for name, value in values.items()
        }
        return model.lower(shapes, known=known, **more)

    said = {
        f"{VALUE_OF}{name}": str(value.tolist()) if value.size == 1 else digest(value) for name, value in values.items()
    }
    return replace(model, lower=lower, origin={**model.origin, **said})
