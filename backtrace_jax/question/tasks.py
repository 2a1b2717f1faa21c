"""Start relevance: what is to be explained of an output (RULES section 10).

Every task sees one example's output as a matrix [positions, classes] (`arrangements`) and says how much each entry
weighs (`families`); from the weights follow the start relevance, and what speaks against it (`starts`): a rival class,
or in mode "contrastive" all the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from backtrace_jax.errors import SettingError
from backtrace_jax.errors.arguments import is_whole

from .answers import Answer, task_of
from .arrangements import Arrangement, arranged_for
from .families import WEIGH
from .starts import Amounts, Start, custom, other_class, others, rival
from .words import (
    AUTO,
    BINARY_SEGMENTATION,
    CLASSIFICATION,
    CUSTOM,
    IN_SEQUENCE,
    SIDE_BY_SIDE,
    UNSET,
    Question,
    canonical_task,
)

_BINARY = (CLASSIFICATION, BINARY_SEGMENTATION)  # families in which a unit of its own answers yes or no


@dataclass(frozen=True)
class Task:
    """How relevance starts at an output.

    Attributes:
        name: One of the families.
        begin: (output, question) -> start relevance and target.
        nonnegative: Whether the start relevance cannot be negative.
        place: Where positions and classes are in the output.
        left_open: Whether the graph does not say what the answer is, and no task was named.
    """

    name: str
    begin: Callable[[Array, Question], Start] = field(compare=False)
    nonnegative: bool
    place: Arrangement
    left_open: bool = field(default=False, compare=False)

    @property
    def classes(self) -> int:
        """How many classes there are to choose from."""
        return self.place.classes

    @property
    def positions(self) -> int:
        """How many positions there are to choose from."""
        return self.place.positions


@dataclass(frozen=True)
class QuestionForm:
    """What of a question decides how relevance starts, besides the numbers.

    Attributes:
        custom: Whether the user passes the start relevance.
        contrasted: Whether the target is contrasted with another class.
        unit: Whether the target is a tuple that names one unit of the output.
        reversed: Whether class 0 of a single unit may be asked for.
    """

    custom: bool = False
    contrasted: bool = False
    unit: bool = False
    reversed: bool = False

    @classmethod
    def of(cls, target: Any = None, against: Any = None, start: Any = None) -> QuestionForm:
        """The form of what a user asks; of a single unit's two classes 1 and -1 name the one that is not reversed."""
        unit, classes = isinstance(target, tuple), np.asarray(target, object)
        numbers = not unit and (classes.ndim > 0 or is_whole(target))
        other = numbers and bool(np.any((classes != 1) & (classes != -1)))
        return cls(start is not None, against is not None, unit, other)


def resolve_task(
    task: str,
    answer: Answer,
    asked: QuestionForm = QuestionForm(),
    *,
    scaler: float | None = 1.0,
    thresholding: float = 0.5,
    paired: bool = False,
    plain: bool = False,
    rows: int = 1,
    class_axis: int | None = None,
) -> Task:
    """Settle how relevance starts at an output.

    Args:
        task: A name of `TASKS`; "auto" reads it from the graph.
        answer: The output explained.
        asked: What the user asks of it.
        scaler: Total relevance to hand out; None: the output's own value.
        thresholding: Probability from which a unit belongs to a mask.
        paired: Whether relevance for and against travels as a pair.
        plain: Whether derivatives travel, which start at 1 without a scaler.
        rows: Number of examples that the output holds along its first axis; their questions come together.
        class_axis: Axis of the classes in a batch of outputs; None: the graph tells it.

    Raises:
        SettingError: When the output has no shape for the task.
    """
    answer = replace(answer, named=_named_axis(class_axis, answer))
    name, left_open = _family(task, answer, asked)
    place, amounts = arranged_for(name, answer), Amounts(scaler, plain)
    if answer.named not in (None, place.axis) and not (asked.custom or asked.unit):
        raise SettingError(
            f"class_axis={class_axis}: task {name!r} has no classes along that axis; leave class_axis= out"
        )
    if asked.custom:
        return Task(CUSTOM, lambda value, asked: custom(value, asked, paired), paired, place)
    single = name == CLASSIFICATION and answer.units == 1

    def begin(value: Array, question: Question) -> Start:
        matrix = place.matrix(value)
        weights, target = WEIGH[name](matrix, question, thresholding)
        relevance, against = amounts.at(matrix, weights), rival(matrix, weights, question, amounts)
        if paired:
            rest = others(matrix, weights, scaler, probability=answer.probability, binary=name in _BINARY)
            relevance = jnp.stack([relevance, jnp.where(question.against == UNSET, rest, against)])
        else:
            relevance = relevance - against
        if single:
            relevance = other_class(relevance, question, paired)
        return Start(place.back(relevance, value.shape), place.flat(target) if name in IN_SEQUENCE else target)

    positive = plain if scaler is None else scaler >= 0
    turned = asked.contrasted or (single and asked.reversed)
    started = begin if rows == 1 else _by_row(begin, paired)
    return Task(name, started, positive and (paired or not turned), place, left_open)


def _family(task: str, answer: Answer, asked: QuestionForm) -> tuple[str, bool]:
    """The task's family, and whether nothing said which; a unit named by its index is one among all others."""
    family = CUSTOM if asked.custom else canonical_task(task)
    if family != AUTO:
        return family, False
    found = task_of(answer)
    by_index = asked.unit and found not in (*SIDE_BY_SIDE, *IN_SEQUENCE)
    return (CLASSIFICATION if by_index or found is None else found), found is None


def _named_axis(class_axis: int | None, answer: Answer) -> int | None:
    """The axis of one example that an axis of a batch is.

    Raises:
        SettingError: When there is none.
    """
    if class_axis is None:
        return None
    rank = len(answer.shape) + 1
    if not -rank < class_axis < rank or class_axis == 0:
        there = f"there are 1 to {rank - 1}, or -1 for the last" if rank > 1 else "there are none"
        raise SettingError(f"class_axis={class_axis} is no axis of output {answer.name!r} behind the batch; {there}")
    return class_axis % rank - 1


def _by_row(begin: Callable[[Array, Question], Start], paired: bool) -> Callable[[Array, Question], Start]:
    """The same start for every row of an output that holds several examples."""

    def begin_rows(value: Array, asked: Question) -> Start:
        each = jax.vmap(begin)(value[:, None], asked)
        relevance = jnp.squeeze(each.relevance, 2 if paired else 1)
        return Start(jnp.swapaxes(relevance, 0, 1) if paired else relevance, each.target)

    return begin_rows
