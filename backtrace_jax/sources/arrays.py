"""Plain arrays as a source: one, several in the model's order, or a dict by name; a memory map is read in slices."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backtrace_jax.batch.layout import Axes
from backtrace_jax.errors import InputError
from backtrace_jax.errors.arguments import more_than_numbers
from backtrace_jax.errors.texts import shown
from backtrace_jax.ir.imported import InputType

from .protocol import Examples, Group, Schema, typed


@dataclass(frozen=True)
class Arrays:
    """Arrays of equal length as a source.

    Attributes:
        schema: What is known of them.
        count: How many examples there are.
        inputs: By input name, as the user has them.
        axes: Where each holds the examples; None for what all examples share.
        carried: Columns that are carried, batch first.
    """

    schema: Schema
    count: int
    inputs: Mapping[str, np.ndarray]
    axes: Axes
    carried: Mapping[str, np.ndarray]

    def read(self, first: int, last: int) -> Examples:
        """Copies of examples from `first` to before `last`."""
        found = {name: self._part(name, first, last) for name in self.inputs}
        carried = {name: np.array(array[first:last]) for name, array in self.carried.items()}
        return Examples(last - first, (Group(np.arange(last - first), found),), carried)

    def stream(self) -> Iterator[Examples]:
        """Nothing: these are read at random.

        Raises:
            InputError: Always.
        """
        raise InputError("arrays are read at random; they are no stream")

    def _part(self, name: str, first: int, last: int) -> np.ndarray:
        array, axis = self.inputs[name], self.axes[name]
        if axis is None:
            return np.broadcast_to(array, (last - first, *array.shape))
        chosen = array[(slice(None),) * axis + (slice(first, last),)]
        return np.ascontiguousarray(np.moveaxis(chosen, axis, 0))


def arrays_of(given: Any, declared: Sequence[InputType], axes: Axes, carry: Collection[str] = ()) -> Arrays:
    """Arrays as a source.

    Args:
        given: An array, a tuple in the model's order, or a dict by input name, in which other names may be carried.
        declared: The model's inputs.
        axes: Where each holds the examples; None for what all examples share.
        carry: Names of entries of the dict that are carried.

    Raises:
        InputError: Naming what is missing, too much, or of another length.
    """
    arrays = {name: _array(name, value) for name, value in _by_name(given, declared, carry).items()}
    names = [each.name for each in declared]
    inputs = {name: arrays[name] for name in names}
    carried = {name: arrays[name] for name in carry}
    axes = {name: _axis(name, array, axes.get(name, 0)) for name, array in inputs.items()}
    sizes = {name: inputs[name].shape[axis] for name, axis in axes.items() if axis is not None}
    sizes |= {name: len(array) for name, array in carried.items()}
    if len(set(sizes.values())) > 1:
        raise InputError(f"the arrays are of unequal lengths: {sizes}; an example needs an entry in each of them")
    count = next(iter(sizes.values()), 1)
    if not count:
        raise InputError("the source is empty: its arrays hold no example")
    kinds = {name: (_one(array.shape, axes[name]), array.dtype.name) for name, array in inputs.items()}
    schema = Schema(kinds, {name: typed(array) for name, array in carried.items()}, identity=_IDENTITY)
    return Arrays(schema, count, inputs, axes, carried)


_IDENTITY = {"kind": "arrays"}


def _by_name(given: Any, declared: Sequence[InputType], carry: Collection[str]) -> dict[str, Any]:
    names = [each.name for each in declared]
    listed = ", ".join(map(str, declared))
    if isinstance(given, Mapping):
        if missing := [name for name in (*names, *carry) if name not in given]:
            what = "input" if missing[0] in names else "column"
            raise InputError(f"{what} {missing[0]!r} is missing; the source has {shown([*given], 200)}")
        if unknown := [name for name in given if name not in names and name not in carry]:
            raise InputError(
                f"{shown(unknown[0])} is no input of the model ({listed}); leave it out, or name it in carry=[...]"
            )
        return dict(given)
    if carry:
        raise InputError(f"carry={shown([*carry])} names entries of a dict; pass the inputs as a dict by name as well")
    values = given if isinstance(given, tuple) else (given,)
    if len(values) != len(declared):
        raise InputError(f"the model takes {len(declared)} inputs ({listed}), found {len(values)} arrays")
    return dict(zip(names, values, strict=True))


def _array(name: str, value: Any) -> np.ndarray:
    """An array as it is; what is memory-mapped stays so."""
    if more := more_than_numbers(value):
        raise InputError(f"{name!r} {more}")
    try:
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{name!r} is no array: {error!s:.150}") from error


def _axis(name: str, array: np.ndarray, axis: int | None) -> int | None:
    if axis is not None and not -array.ndim <= axis < array.ndim:
        raise InputError(f"{name!r} of shape {list(array.shape)} has no axis {axis}, where its examples should be")
    return axis if axis is None else axis % array.ndim


def _one(shape: tuple[int, ...], axis: int | None) -> tuple[int, ...]:
    return shape if axis is None else (*shape[:axis], *shape[axis + 1 :])
