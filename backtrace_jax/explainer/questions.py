"""Several questions about the same inputs: lists of what one call asks, read into the calls that they stand for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from backtrace_jax.engine.outline import Outline
from backtrace_jax.errors import SettingError
from backtrace_jax.errors.texts import shown
from backtrace_jax.question.targets import array_of
from backtrace_jax.question.tasks import QuestionForm, Task
from backtrace_jax.question.words import CLASSIFICATION, IN_SEQUENCE

from .asking import Asked

ALL = "all"
"""Every class of the output, or every position of its sequence."""

LISTS = {
    "targets": "target",
    "positions": "position",
    "conditions": "conditions",
    "against": "against",
    "starts": "start",
}
"""What may be listed, and what each entry is of one question."""


@dataclass(frozen=True)
class Questions:
    """The arguments of `Explainer.each` besides its inputs; it says what they mean."""

    targets: Any = None
    positions: Any = None
    conditions: Any = None
    against: Any = None
    starts: Any = None
    position: Any = None
    start: Any = None
    baseline: Any = None
    progress: Any = None
    many: ClassVar[bool] = True

    def listed(self, seen: Outline) -> list[Asked]:
        """One call for each question.

        Args:
            seen: What is known of the model.

        Raises:
            SettingError: When something is no list, or lists differ in length.
        """
        lists = {name: entries for name in LISTS if (entries := self._entries(name, seen)) is not None}
        if not lists:
            raise SettingError(
                "targets must be a list, or 'all'; or positions=, conditions=, against= or starts= is one"
            )
        lengths = {name: len(entries) for name, entries in lists.items()}
        if len(set(lengths.values())) > 1 or not all(lengths.values()):
            found = ", ".join(f"{count} {name}" for name, count in lengths.items())
            raise SettingError(f"each combines its lists entry by entry, and needs as many of each; found {found}")
        twice = [name for name in ("position", "start") if f"{name}s" in lists and getattr(self, name) is not None]
        if twice:
            raise SettingError(f"{twice[0]}s= lists what {twice[0]}= would share; leave one of them out")
        shared = {name: getattr(self, name) for name in ("position", "start", "baseline", "progress")}
        shared |= {name: getattr(self, name) for name in ("conditions", "against") if name not in lists}
        return [Asked(**{**shared, **each}) for each in _combined(lists)]

    def _entries(self, name: str, seen: Outline) -> Sequence[Any] | None:
        """The entries of a list; None where there is none."""
        value = getattr(self, name)
        if isinstance(value, str) and value == ALL and name in _ALL:
            return _ALL[name](seen.task(QuestionForm()))
        if isinstance(value, list | range) or (isinstance(value, tuple) and name != "against"):
            return value
        array = array_of(name, value) if hasattr(value, "__array__") else np.zeros(())
        if array.ndim:
            return list(array if name == "starts" or array.ndim == 1 else np.moveaxis(array, 1, 0))
        if value is None or name in ("conditions", "against"):  # one for all of them
            return None
        more = f", or {ALL!r}" if name in _ALL else ""
        raise SettingError(f"{name} must be a list with one entry for each question{more}, found {shown(value)}")


def _combined(lists: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    for entries in zip(*lists.values(), strict=True):
        yield dict(zip((LISTS[name] for name in lists), entries, strict=True))


def _all_classes(task: Task) -> range:
    return range(2 if task.name == CLASSIFICATION and task.classes == 1 else task.classes)


def _all_positions(task: Task) -> range:
    if task.name not in IN_SEQUENCE:
        raise SettingError(f"positions= says where in a sequence; task {task.name!r} has no positions to choose from")
    return range(task.positions)


_ALL: dict[str, Callable[[Task], range]] = {"targets": _all_classes, "positions": _all_positions}
