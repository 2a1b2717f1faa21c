"""Reads what the user asks about each example: target, rival class, position, start relevance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .errors import SettingError
from .ir import Var
from .tasks import (
    BINARY_SEGMENTATION,
    CLASSIFICATION,
    CUSTOM,
    NEXT_TOKEN,
    REGRESSION,
    SPAN,
    TOKENS,
    UNSET,
    Question,
    Task,
)


def read_question(
    count: int, output: Var, task: Task, *, target: Any = None, against: Any = None, position: Any = None
) -> Question:
    """One question per example, arrays with the batch first; the start relevance is left out.

    Args:
        count: Number of examples.
        output: The output explained, one example (leading axis of size 1).
        task: The task.
        target: None, one class for all, an array with one per example, or a tuple indexing the output's axes.
        against: None, one class for all, or one per example.
        position: None, one position for all, or one per example; negative ones count from the end.

    Raises:
        SettingError: When something is out of range or of the wrong shape.
    """
    shape = output.shape[1:] if output.shape[:1] == (1,) else output.shape
    if isinstance(target, tuple):
        targets = np.full(count, _flat_index(target, shape, output, task), np.int64)
    else:
        targets = _targets(target, count, shape, output, task)
    rivals = _per_example("against", against, count, 0, _classes(task), output)
    _check_rival(task, against)
    positions = _per_example("position", position, count, -task.positions, task.positions, output)
    if position is not None and task.name not in (NEXT_TOKEN, TOKENS):
        raise SettingError(f"position= says where in a sequence; task {task.name!r} has no positions to choose from")
    return Question(targets, rivals, positions, None)


def _classes(task: Task) -> int:
    """Classes of the answer; a single unit stands for two."""
    return 2 if task.name == CLASSIFICATION and task.classes == 1 else task.classes


def _targets(target: Any, count: int, shape: tuple[int, ...], output: Var, task: Task) -> np.ndarray:
    several = len([size for size in shape if size > 1]) > 1
    if task.name in (CLASSIFICATION, REGRESSION) and several and not (task.name == REGRESSION and target is None):
        raise SettingError(
            f"output {output.name!r} has shape {shape}, which has no single class: pass target=(index, ...) with "
            f"{len(shape)} entries, start=, or a task such as 'next-token' or 'multi-class-segmentation'"
        )
    if target is not None and task.name == BINARY_SEGMENTATION:
        raise SettingError("task 'binary-segmentation' explains the whole mask; target= has no meaning there")
    if target is not None and task.name == SPAN and task.positions == 2:
        raise SettingError("task 'span-qa' on an output of starts and ends takes target=(start, end)")
    return _per_example("target", target, count, 0, _classes(task), output)


def _check_rival(task: Task, against: Any) -> None:
    if against is not None and (task.classes == 1 or task.name in (REGRESSION, CUSTOM)):
        raise SettingError(f"against= needs several classes to choose from; task {task.name!r} has none here")


def _per_example(name: str, value: Any, count: int, low: int, high: int, output: Var) -> np.ndarray:
    """One whole number per example, each at least `low` and below `high`."""
    if value is None:
        return np.full(count, UNSET, np.int64)
    array = np.asarray(value)
    if not np.issubdtype(array.dtype, np.integer) or array.shape not in ((), (count,)):
        raise SettingError(f"{name} must be an integer or one integer per example ({count}), found {value!r}")
    wrong = array[(array < low) | (array >= high)]
    if wrong.size:
        raise SettingError(
            f"{name} {wrong[0]} is out of range: output {output.name!r} takes {name} from {low} to {high - 1}"
        )
    return np.broadcast_to(array, (count,)).astype(np.int64)


def _flat_index(index: tuple, shape: tuple[int, ...], output: Var, task: Task) -> int:
    axes = (task.classes, task.classes) if task.name == SPAN and task.positions == 2 else shape
    try:
        return int(np.ravel_multi_index(index, axes))
    except (ValueError, TypeError) as error:
        raise SettingError(f"target {index} does not index output {output.name!r} of shape {axes}: {error}") from error


def read_start(start: Any, count: int, output: Var, run: Callable[[], np.ndarray]) -> np.ndarray:
    """The user's start relevance as an array [batch, *output shape].

    Args:
        start: An array shaped like the output, or a function of the outputs that gives one.
        count: Number of examples.
        output: The output explained.
        run: Gives the outputs of a first run.

    Raises:
        SettingError: When it is not shaped like the output or not finite.
    """
    whole = (count, *output.shape)
    shape = (whole[0], *whole[2:]) if whole[1:2] == (1,) else whole
    array = np.asarray(start(run()) if callable(start) else start)
    if array.shape != shape or array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise SettingError(
            f"start must be a finite array shaped like output {output.name!r}, {list(shape)}, "
            f"or a function that gives one; found {array.dtype} {list(array.shape)}"
        )
    return array.reshape(whole).astype(output.dtype)
