"""From a source to explanations, block by block: read ahead, explain, hand over.

The bytes of an example do not depend on its neighbours, so a block may be cut up wherever one of its examples cannot be
explained, and what is left has the bytes it would have had.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import count
from typing import Any, TypeAlias

import numpy as np

from backtrace_jax.errors import BacktraceError, InputError, NumericsError, SettingError, UnfitExampleError
from backtrace_jax.errors.arguments import is_whole
from backtrace_jax.errors.texts import shown
from backtrace_jax.explanation.explanation import Explanation
from backtrace_jax.runtime.ahead import read_ahead
from backtrace_jax.sources import Examples, Group, Source
from backtrace_jax.sources.joining import in_blocks

from .asking import Asked, by_column

RECORD, RAISE = "record", "raise"
ON_ERROR = (RECORD, RAISE)
"""What becomes of an example that cannot be explained."""

OF_EXAMPLES = (InputError, NumericsError, UnfitExampleError)
"""Errors that single examples are to blame for."""

OF_EACH = ("target", "against", "position", "start")
"""What may be asked of each example by an entry of its own."""

Call: TypeAlias = Callable[[Mapping[str, np.ndarray], Asked], Explanation]
"""Explains inputs by name, batch first."""


@dataclass(frozen=True, eq=False)
class Part:
    """Examples of a block that were explained together.

    Attributes:
        places: [examples], which of the block's examples these are, from 0, increasing.
        explanation: Their explanation.
    """

    places: np.ndarray
    explanation: Explanation


@dataclass(frozen=True, eq=False)
class Explained:
    """A block of examples, explained.

    Attributes:
        first: Which example of the source is its first.
        count: How many examples it has, the failed ones included.
        parts: Those that were explained.
        carried: Columns that travel along, batch first, of all examples.
        failed: By place, why an example was not explained.
    """

    first: int
    count: int
    parts: tuple[Part, ...]
    carried: Mapping[str, np.ndarray]
    failed: Mapping[int, str]


@dataclass(frozen=True)
class Asking:
    """What is asked of all examples of a source.

    Attributes:
        asked: As `explain` takes it, but that target, against, position and start may be arrays with an entry for every
            example of the source, and the first three the name of a column that is carried.
    """

    asked: Asked

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that are asked by."""
        given = (getattr(self.asked, name) for name in OF_EACH)
        return tuple(dict.fromkeys(value for value in given if isinstance(value, str)))

    @property
    def of_each(self) -> tuple[str, ...]:
        """What is asked of each example by an entry of its own."""
        return tuple(name for name in OF_EACH if _is_of_each(getattr(self.asked, name)))

    @cached_property
    def listed(self) -> dict[str, np.ndarray]:
        """What is asked by an array with an entry for every example."""
        given = {name: getattr(self.asked, name) for name in OF_EACH}
        return {name: np.asarray(value) for name, value in given.items() if _is_listed(value)}

    def check(self, count: int | None) -> None:
        """Refuse arrays of another length than the source.

        Raises:
            SettingError: Naming both.
        """
        for name, array in self.listed.items():
            if count is not None and len(array) != count:
                raise SettingError(f"{name} has {len(array)} entries, the source has {count} examples")

    def of(self, first: int, places: np.ndarray, carried: Mapping[str, np.ndarray]) -> Asked:
        """What is asked of some examples of a block that begins with example `first`.

        Raises:
            SettingError: When a stream has more examples than an array has entries.
        """
        found = {}
        for name in OF_EACH:
            value = getattr(self.asked, name)
            if isinstance(value, str):
                given = carried[value][places]
                found[name] = given if name == "start" else by_column(name, value, given)
            elif name in self.listed:
                found[name] = _chosen(name, self.listed[name], first + places)
        return replace(self.asked, progress=None, **found)


def _is_of_each(value: Any) -> bool:
    return isinstance(value, str) or _is_listed(value)


def _is_listed(value: Any) -> bool:
    """Whether there is an entry for every example."""
    return value is not None and not isinstance(value, str | tuple) and not callable(value) and np.ndim(value) > 0


def _chosen(name: str, array: np.ndarray, indices: np.ndarray) -> np.ndarray:
    if indices[-1] >= len(array):
        raise SettingError(f"{name} has {len(array)} entries, and the source more examples")
    return array[indices]


def explain_block(call: Call, asking: Asking, first: int, examples: Examples, on_error: str) -> Explained:
    """Explain the examples of a block.

    Args:
        call: Explains a batch.
        asking: What is asked.
        first: Which example of the source is the block's first.
        examples: The block.
        on_error: "record", or "raise".

    Raises:
        BacktraceError: What is wrong with all of them; and with one of them, if `on_error` is "raise".
    """
    if examples.failed and on_error == RAISE:
        place, reason = next(iter(sorted(examples.failed.items())))
        raise InputError(f"example {first + place} cannot be read: {reason}")
    failed, parts = dict(examples.failed), []
    for group in examples.groups:
        one = _Explaining(call, partial(asking.of, first, carried=examples.carried), first, on_error, failed)
        parts += one.parts(group)
    return Explained(first, examples.count, tuple(parts), examples.carried, dict(sorted(failed.items())))


@dataclass(frozen=True)
class _Explaining:
    """Explains groups, and notes what cannot be."""

    call: Call
    asked: Callable[..., Asked]
    first: int
    on_error: str
    failed: dict[int, str]

    def parts(self, group: Group) -> list[Part]:
        """The explanations of a group, without the examples that cannot be explained."""
        if not len(group.places):
            return []
        try:
            explanation = self.call(group.inputs, self.asked(group.places))
        except OF_EXAMPLES as error:
            return self._cut(group, error)
        answers = explanation.outputs[explanation.output]
        fine = np.asarray(np.isfinite(answers).reshape(len(answers), -1).all(axis=1))
        return [Part(group.places, explanation)] if fine.all() else self._each(group, fine)

    def _each(self, group: Group, which: np.ndarray) -> list[Part]:
        return [part for some in (which, ~which) for part in self.parts(_some(group, some))]

    def _cut(self, group: Group, error: BacktraceError) -> list[Part]:
        """What an error leaves of a group: those that look sound and the others, else one half and the other."""
        if len(group.places) > 1:
            sound = _sound(group.inputs)
            half = np.arange(len(sound)) < len(sound) // 2
            return self._each(group, half if sound.all() or not sound.any() else sound)
        if self.on_error == RAISE:
            error.args = (f"example {self.first + int(group.places[0])}: {error.args[0]}", *error.args[1:])
            raise error
        self.failed[int(group.places[0])] = str(error)
        return []


def blocks_of(
    source: Source, size: int, wanted: Callable[[int], bool] = lambda block: True
) -> Generator[tuple[int, Examples]]:
    """Blocks of so many examples, the last one shorter, with their numbers; they are read ahead.

    Args:
        source: The source.
        size: Examples of a block.
        wanted: Whether a block is to be read; those of a stream come all the same.
    """
    if source.count is None:
        stream = in_blocks(source.stream(), size)
        yield from enumerate(read_ahead(partial(next, stream, None) for _ in count()))
        return
    total = source.count
    numbers = [number for number in range(-(-total // size)) if wanted(number)]
    reads = (partial(source.read, n * size, min(n * size + size, total)) for n in numbers)
    yield from zip(numbers, read_ahead(reads), strict=True)


def streamed(call: Call, source: Source, asking: Asking, batch: int | None, on_error: str) -> Iterator[Explanation]:
    """Explanations of consecutive examples.

    Raises:
        SettingError: When `batch` is no number of examples.
    """
    if batch is not None and not (is_whole(batch) and batch > 0):
        raise SettingError(f"batch is a number of examples from 1, found {shown(batch)}")
    return _streamed(call, source, asking, batch or _examples_of(source), on_error)


def _streamed(call: Call, source: Source, asking: Asking, size: int, on_error: str) -> Iterator[Explanation]:
    for number, examples in blocks_of(source, size):
        for part in explain_block(call, asking, number * size, examples, on_error).parts:
            yield part.explanation


def _examples_of(source: Source) -> int:
    each = sum(math.prod(shape) * np.dtype(kind).itemsize for shape, kind in source.schema.inputs.values())
    return max(1, min(_MOST, _BYTES // max(each, 1)))


_BYTES, _MOST = 2**24, 2**12  # of the inputs of a batch, and its examples, where the user names no size


def _some(group: Group, which: np.ndarray) -> Group:
    return Group(group.places[which], {name: array[which] for name, array in group.inputs.items()})


def _sound(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Which examples hold finite numbers only."""
    found = [np.isfinite(a).reshape(len(a), -1).all(axis=1) for a in inputs.values() if a.dtype.kind == "f"]
    return np.asarray(np.all([np.ones(len(next(iter(inputs.values()))), bool), *found], axis=0))
