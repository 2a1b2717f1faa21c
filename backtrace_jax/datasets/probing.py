"""The first example that can be explained: what a store holds of each follows from it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np

from backtrace_jax.errors import BacktraceError, InputError, SettingError
from backtrace_jax.explainer.explainer import Explainer
from backtrace_jax.explainer.streaming import OF_EXAMPLES, Asking
from backtrace_jax.explanation.explanation import Explanation
from backtrace_jax.sources import Carry, Examples, Reading, Schema, Source, open_undeclared

TRIED = 64
"""Examples from the front of a source of which one must be sound."""


@dataclass(frozen=True, eq=False)
class Probe:
    """An example that was explained, padded to the longest shape.

    Attributes:
        explanation: Its explanation.
        flops: Floating-point operations of the forward passes that it took.
        channels: Axis of the channels within one example, of inputs and layers that have one.
        convolutional: Whether the network has convolutions.
        probability: Whether the explained output holds probabilities.
    """

    explanation: Explanation
    flops: float
    channels: Mapping[str, int]
    convolutional: bool
    probability: bool


@dataclass(frozen=True, eq=False)
class _PutBack:
    """A stream of which the beginning has been looked at."""

    schema: Schema
    beginning: list[Examples]
    rest: Iterator[Examples]
    count: int | None = None

    def read(self, first: int, last: int) -> Examples:
        raise InputError("a stream is read from the front")

    def stream(self) -> Iterator[Examples]:
        return chain(self.beginning, self.rest)


def example_for(parameters: tuple[tuple[str, ...], int], given: Any, carry: Carry, reading: Reading) -> tuple[Any, Any]:
    """An example that a model is traced with, and the source that it is from.

    Args:
        parameters: Names of the model's parameters, and how many are needed.
        given: The source.
        carry: What is carried.
        reading: What the caller says of the source.

    Raises:
        SettingError: When the source shows none.
        InputError: When the source does not fit the module's parameters.
    """
    names, needed = parameters
    source, examples = open_undeclared(given, names, needed, carry, reading)
    if examples is None:
        return first_of(source, [*carry] if isinstance(carry, Mapping) else carry, max(needed, 1)), source
    group = next(iter(examples.groups), None)
    if group is None:
        raise InputError(f"none of the first examples can be read: {next(iter(examples.failed.values()))}")
    return {name: array[:1] for name, array in group.inputs.items()}, source


def first_of(given: Any, carried: Collection[str], needed: int) -> Any:
    """The first example of arrays as a user passes it.

    Raises:
        SettingError: When they are no arrays.
    """
    if isinstance(given, Mapping):
        return {name: _first(value) for name, value in given.items() if name not in carried}
    if isinstance(given, tuple):
        return tuple(map(_first, given[:needed] if carried else given))
    return _first(given)


def _first(given: Any) -> Any:
    if hasattr(given, "shape") and given.shape:
        return given[:1]
    raise SettingError(
        "the model is traced with an example, which this source does not show: pass the explainer as the model, "
        "explain_dataset(Explainer(model, example=x), ...), or the file that export(model, path, x) writes"
    )


def beginning_of(source: Source) -> tuple[Examples, Source]:
    """The first examples, and the source with all of them still to come.

    Raises:
        InputError: When there are none.
    """
    if source.count is not None:
        if not source.count:
            raise InputError("the source is empty: there is no example in it")
        return source.read(0, min(source.count, TRIED)), source
    stream = source.stream()
    first = list(islice(stream, 1))
    if not first:
        raise InputError("the source is empty: the stream ends before its first example")
    return first[0], _PutBack(source.schema, first, stream)


def probed(explainer: Explainer, source: Source, examples: Examples, asking: Asking) -> Probe:
    """Explain the first example that can be.

    Raises:
        BacktraceError: The first error, where there is none among the first `TRIED`.
    """
    found: BacktraceError | None = None
    for place, inputs in islice(_each(examples, source.schema), TRIED):
        try:
            asked = asking.of(0, np.asarray([place]), examples.carried)
            explanation = explainer.explain_first(inputs, asked)
            ready = explainer.understood_first(inputs, asked)
            return Probe(explanation, ready.flops, ready.channels, ready.convolutional, ready.probability)
        except OF_EXAMPLES as error:
            found = found or error
    unread = next(iter(examples.failed.values()), "it is empty")
    raise found or InputError(f"none of the first examples of the source can be read: {unread}")


def _each(examples: Examples, schema: Schema) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Single examples, zeros behind those that are shorter than the longest."""
    for group in examples.groups:
        for i, place in enumerate(group.places.tolist()):
            yield (
                place,
                {name: _padded(array[i : i + 1], schema.inputs[name][0]) for name, array in group.inputs.items()},
            )


def _padded(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """One example at this shape; left as it is where it is none of that rank or larger, which is told later."""
    if array.ndim != len(shape) + 1 or any(a > b for a, b in zip(array.shape[1:], shape, strict=True)):
        return array
    return np.pad(array, [(0, 0), *((0, most - size) for most, size in zip(shape, array.shape[1:], strict=True))])
