"""Reads what the user asks about each example: target, rival class, position, start relevance."""

from __future__ import annotations

from typing import Any

import numpy as np

from backtrace_jax.errors import SettingError, UnfitExampleError
from backtrace_jax.errors.arguments import more_than_numbers
from backtrace_jax.errors.texts import shown
from backtrace_jax.ir import Var

from .tasks import Task
from .words import (
    ALL_UNITS,
    BINARY_SEGMENTATION,
    CLASS_SEGMENTATION,
    CLASSIFICATION,
    CUSTOM,
    IN_SEQUENCE,
    REGRESSION,
    SIDE_BY_SIDE,
    SPAN,
    TOKENS,
    UNSET,
    Question,
)


def array_of(name: str, value: Any) -> np.ndarray:
    """What the user passed as an array.

    Raises:
        SettingError: When it is none, as rows of different lengths.
    """
    if more := more_than_numbers(value):
        raise SettingError(f"{name} {more}")
    try:
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        problem = "has rows of unequal length" if "inhomogeneous" in str(error) else f"is no array: {error}"
        raise SettingError(f"{name} {problem:.200}") from error


def read_question(
    count: int, output: Var, task: Task, *, target: Any = None, against: Any = None, position: Any = None
) -> Question:
    """One question per example, arrays with the batch first; the start relevance is left out.

    Args:
        count: Number of examples.
        output: The output explained, one example (leading axis of size 1).
        task: The task.
        target: None, one class for all, an array with one per example, or a tuple indexing the output's axes.
        against: None, one class for all, one per example, or a tuple where the target takes one.
        position: None, one position for all, or one per example; negative ones count from the end.

    Raises:
        SettingError: When something is out of range, of the wrong shape, or means nothing for the task.
    """
    _check_meaning(task, target, against, position)
    if isinstance(target, tuple) and task.name in IN_SEQUENCE:
        position, target = _place(target, output, task, position)
    targets = _indices("target", target, count, output, task)
    rivals = _indices("against", against, count, output, task)
    named = target is not None and against is not None
    if named and np.any((targets == rivals) & (targets != UNSET)):
        raise SettingError(f"against={against!r} is the target itself; name the class it is to be contrasted with")
    positions = _per_example("position", position, count, -task.positions, task.positions, output)
    return Question(targets, rivals, positions, None)


def _check_meaning(task: Task, target: Any, against: Any, position: Any) -> None:
    """Refuse what means nothing for the task."""
    if target is not None and task.name == CUSTOM:
        raise SettingError("start= is the start relevance itself; leave target= out")
    if target is not None and task.name == BINARY_SEGMENTATION:
        raise SettingError("task 'binary-segmentation' explains the whole mask; target= has no meaning there")
    if against is not None and (task.classes == 1 or task.name in (REGRESSION, CUSTOM) or _is_span(task)):
        raise SettingError(f"against= needs several classes to choose from; task {task.name!r} has none here")
    if position is not None and task.name not in IN_SEQUENCE:
        raise SettingError(f"position= says where in a sequence; task {task.name!r} has no positions to choose from")


def _is_span(task: Task) -> bool:
    """Whether starts and ends are explained at once."""
    return task.name == SPAN and task.positions == 2


def _place(target: tuple, output: Var, task: Task, position: Any) -> tuple[int, int]:
    """Position and class of a tuple that names both."""
    if position is not None:
        raise SettingError(f"target={target} names the position as well; leave position= out")
    place = np.unravel_index(_flat_index("target", target, _shape(output), output), _shape(output))
    axis = len(place) - 1 if task.place.axis is None else task.place.axis
    return int(sum(place[:axis] + place[axis + 1 :])), int(place[axis])


def _shape(output: Var) -> tuple[int, ...]:
    """Shape without the batch axis."""
    return output.shape[1:] if output.shape[:1] == (1,) else output.shape


def _indices(name: str, value: Any, count: int, output: Var, task: Task) -> np.ndarray:
    """A class per example; where a tuple names a unit, its flat index."""
    shape = (task.classes, task.classes) if _is_span(task) else _shape(output)
    two_in_one = task.name == CLASSIFICATION and task.classes == 1  # a single unit stands for class 1, and 0 reversed
    if isinstance(value, tuple) and task.name in (*SIDE_BY_SIDE, SPAN):
        return np.full(count, _flat_index(name, value, shape, output) + two_in_one, np.int64)
    if isinstance(value, tuple):
        raise SettingError(f"{name}={value}: task {task.name!r} takes a class, an integer or a list of one per example")
    if _is_span(task) and value is not None:
        raise SettingError("task 'span-qa' on an output of starts and ends takes target=(start, end)")
    _check_one_axis(name, value, shape, output, task)
    if value is None:
        return np.full(count, UNSET, np.int64)
    classes = 2 if two_in_one else task.classes
    found = _per_example(name, value, count, -classes, classes, output)
    if task.name in _ALL_AT_ONCE and (found == ALL_UNITS).any():
        raise SettingError(
            f"{name} {ALL_UNITS} would be all units here, as explanation.target has it: leave {name}= out"
        )
    return np.where((found < 0) & (found != UNSET), found + classes, found)


_ALL_AT_ONCE = (REGRESSION, TOKENS)  # tasks that explain all units where none is named, and report -1 then


def _check_one_axis(name: str, value: Any, shape: tuple[int, ...], output: Var, task: Task) -> None:
    """Refuse an integer, or a choice left open, where units lie along several axes."""
    several = len([size for size in shape if size > 1]) > 1
    left_open = value is None and (name != "target" or task.name != CLASSIFICATION)
    if several and task.name in SIDE_BY_SIDE and not left_open:
        index = ", ".join(f"0..{size - 1}" for size in shape)
        tasks = ", ".join(repr(each) for each in (*IN_SEQUENCE, CLASS_SEGMENTATION, REGRESSION) if each != task.name)
        raise SettingError(
            f"output {output.name!r} has shape {list(shape)}, and so no single class: name one of its values (of a "
            f"detector, say, a box's score) by {name}=({index}), or pass another task=: {tasks}"
        )


def _per_example(name: str, value: Any, count: int, low: int, high: int, output: Var) -> np.ndarray:
    """One whole number per example, each at least `low` and below `high`; those below 0 count from the end."""
    if value is None:
        return np.full(count, UNSET, np.int64)
    array = array_of(name, value)
    if not np.issubdtype(array.dtype, np.integer) or array.shape not in ((), (count,)):
        hot = f"an array {list(array.shape)}: one-hot? pass {name}={name}.argmax(1)"
        found = hot if array.ndim == 2 and array.shape[0] == count and array.shape[1] > 1 else f"{shown(value)}"
        raise SettingError(f"{name} must be an integer or one integer per example ({count}), found {found}")
    wrong = array[(array < low) | (array >= high)]
    if wrong.size:
        raise (UnfitExampleError if array.ndim else SettingError)(
            f"{name} {wrong[0]} is out of range: output {output.name!r} takes {name} from {low} to {high - 1}"
        )
    return np.broadcast_to(array, (count,)).astype(np.int64)


def _flat_index(name: str, index: tuple, shape: tuple[int, ...], output: Var) -> int:
    """The flat index of a tuple, whose negative entries count from the end."""
    try:
        wrapped = [i + size if -size <= i < 0 else i for i, size in zip(index, shape, strict=True)]
        return int(np.ravel_multi_index(wrapped, shape))
    except (ValueError, TypeError) as error:
        raise SettingError(
            f"{name}={index} does not index output {output.name!r} of shape {list(shape)}; "
            f"one {name} per example is a list, not a tuple"
        ) from error


def read_start(start: Any, count: int, output: Var) -> np.ndarray:
    """The user's start relevance as an array [batch, *output shape].

    Args:
        start: An array shaped like the output.
        count: Number of examples.
        output: The output explained.

    Raises:
        SettingError: When it is not shaped like the output or not finite.
    """
    array = array_of("start", start)
    shape = (count, *_shape(output))
    if array.shape != shape or array.dtype.kind not in "fiu" or not stays_finite(array, output.dtype):
        raise SettingError(
            f"start must be a finite array shaped like output {output.name!r}, {list(shape)}, "
            f"or a function that gives one; found {array.dtype} {list(array.shape)}"
        )
    return array.reshape(count, *output.shape).astype(output.dtype)


def stays_finite(array: np.ndarray, dtype: np.dtype) -> bool:
    """Whether all numbers are finite, and still are in this type."""
    with np.errstate(over="ignore"):
        return bool(np.isfinite(array.astype(dtype)).all())
