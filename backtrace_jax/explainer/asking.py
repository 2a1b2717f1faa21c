"""What one call asks besides its inputs, and how it is put to a compiled model."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from backtrace_jax.engine.compile import Constant
from backtrace_jax.engine.compiled import Compiled, Planned
from backtrace_jax.engine.form import Form, Shapes
from backtrace_jax.engine.many import Asking
from backtrace_jax.engine.outline import Outline
from backtrace_jax.errors import BacktraceError, InputError, SettingError
from backtrace_jax.errors.arguments import takes
from backtrace_jax.errors.texts import shown
from backtrace_jax.question.constants import named_conditions, read_conditions
from backtrace_jax.question.settings import Settings
from backtrace_jax.question.targets import read_question, read_start
from backtrace_jax.question.tasks import QuestionForm, Task
from backtrace_jax.question.words import BINARY_SEGMENTATION, CUSTOM, Question

from .results import unbatched


@dataclass(frozen=True)
class Asked:
    """The arguments of one call besides its inputs; `explain` says what they mean."""

    target: Any = None
    against: Any = None
    position: Any = None
    start: Any = None
    baseline: Any = None
    conditions: Any = None
    progress: Any = None
    many: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse functions that could not be called.

        Raises:
            SettingError: Naming the argument, and how it is called.
        """
        if self.progress is not None and not (callable(self.progress) and takes(self.progress, 2)):
            raise SettingError(
                f"progress must be a function of (examples done, examples in all), found {shown(self.progress)}"
            )
        if callable(self.start) and not takes(self.start, 1):
            raise SettingError("start must be a function of the outputs alone: start=lambda outputs: ...")

    def listed(self, seen: Outline) -> list[Asked]:
        """One question alone."""
        return [self]

    def started(self, outputs: np.ndarray) -> Any:
        """What the user's function makes of the outputs.

        Raises:
            SettingError: When it fails.
        """
        try:
            return self.start(outputs)
        except BacktraceError:
            raise
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
            given = f"{outputs.dtype} {list(outputs.shape)}, an array of the explained one"
            raise SettingError(f"start= fails on outputs {given}: {found:.150}") from error


@dataclass(frozen=True)
class Posed:
    """A question that has been read.

    Attributes:
        asked: The call.
        task: How relevance starts.
        question: The question.
        restricted: Its conditions, by name.
    """

    asked: Asked
    task: Task
    question: Question
    restricted: Mapping[str, Any]

    def started(self, outputs: np.ndarray, seen: Outline) -> Question:
        """The question, with the start that the user's function makes of the outputs if it is one."""
        if not callable(self.asked.start):
            return self.question
        return self.question._replace(start=read_start(self.asked.started(outputs), len(outputs), seen.one))

    def form(self, shapes: Shapes, reference: Collection[str], rows: int, leaving: Any, *, many: bool) -> Form:
        """What of it decides what is compiled."""
        return Form(
            shapes,
            self.task,
            custom=self.asked.start is not None,
            contrasted=self.asked.against is not None,
            reference=tuple(reference),
            conditions=tuple(self.restricted),
            rows=rows,
            leaving=leaving,
            many=many,
        )


def understood(seen: Outline, asked: Asked, count: int) -> Posed:
    """Read a question; mistakes are named before anything is compiled."""
    target, start = asked.target, asked.start
    restricted = named_conditions(asked.conditions)
    task = seen.task(QuestionForm.of(target, asked.against, start))
    _check_thresholding(seen, task)
    question = read_question(count, seen.one, task, target=target, against=asked.against, position=asked.position)
    if start is not None and not callable(start):
        question = question._replace(start=read_start(start, count, seen.one))
    return Posed(asked, task, question, restricted)


def stacked(compiled: Compiled, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inputs as stacked examples with a batch axis of size 1 each."""
    types = {var.name: var.dtype for var in compiled.program.graph.inputs}
    return {name: compiled.grouped(feeds[name]).astype(types[name], copy=False) for name in types}


def shared(planned: Planned, reference: Mapping[str, np.ndarray], conditions: Mapping[str, Any]) -> Constant:
    """What all examples share; mistakes are named before anything is compiled."""
    types = {var.name: var.dtype for var in planned.program.graph.inputs}
    given = {
        name: np.repeat(array, planned.rows, 0).astype(types[name])
        for name, array in reference.items()
        if name in types
    }
    return Constant(given, read_conditions(conditions, planned.masked, planned.channels))


def grouped(compiled: Compiled, asked: Question) -> Question:
    """The questions as the runs of the graph take them."""
    if compiled.rows == 1:
        return asked
    plain = asked if asked.start is None else asked._replace(start=asked.start[:, 0])
    return Question(*(None if array is None else compiled.grouped(array) for array in plain))


def outputs_of(
    compiled: Compiled, feeds: Mapping[str, np.ndarray], asked: Question, constant: Constant, seen: Outline
) -> dict[str, np.ndarray]:
    """Outputs by name on inputs of the shapes compiled for, from a run whose relevance nobody reads."""
    count = len(next(iter(feeds.values())))
    custom = compiled.request.task.name == CUSTOM
    start = np.zeros((count, *seen.one.shape), seen.one.dtype) if custom else None
    target, against, position = (np.repeat(each[:1], count, axis=0) for each in asked[:3])
    blank = Question(target, against, position, start)
    found = compiled.outputs(stacked(compiled, feeds), grouped(compiled, blank), constant)
    return {name: unbatched(array, compiled.rows, count) for name, array in found.items()}


def together(compiled: Compiled, questions: Sequence[Question], constants: Sequence[Constant]) -> Asking:
    """Several questions as one walk takes them."""
    each = [grouped(compiled, question) for question in questions]
    asked = Question(*(None if arrays[0] is None else np.stack(arrays, axis=1) for arrays in zip(*each, strict=True)))
    return Asking(
        asked, {name: np.stack([constant.masks[name] for constant in constants]) for name in constants[0].masks}
    )


def _check_thresholding(seen: Outline, task: Task) -> None:
    """Refuse a threshold where nothing is compared with it, or where nothing could be above or below it."""
    thresholding = seen.settings.thresholding
    if thresholding == Settings.thresholding:
        return
    if task.name != BINARY_SEGMENTATION:
        raise SettingError(
            f"thresholding= says what belongs to a mask; task {task.name!r} has none: leave it out, or pass "
            f"task={BINARY_SEGMENTATION!r}"
        )
    if seen.answer.probability and not 0 <= thresholding < 1:
        raise SettingError(
            f"output {seen.output.name!r} holds probabilities; thresholding must be from 0 to below 1, found "
            f"{thresholding!r}"
        )


def by_column(name: str, column: str, values: np.ndarray) -> np.ndarray:
    """Whole numbers of a column; where cells are missing a table has them as floats.

    Raises:
        SettingError: When the column holds texts.
        InputError: When a number is not whole.
    """
    if values.dtype.kind not in "biuf":
        raise SettingError(
            f"{name}: column {column!r} holds {shown(values.tolist()[0])}; it takes a column of whole numbers"
        )
    if values.dtype.kind == "f" and (wrong := values[~(np.isfinite(values) & (values == np.round(values)))]).size:
        raise InputError(f"{name}: column {column!r} holds {shown(wrong.tolist()[0])}, which is no whole number")
    return values.astype(np.int64)
