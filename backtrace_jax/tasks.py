"""Start relevance: what is to be explained of an output (RULES section 10).

A task turns one example's output and its target into the relevance the walk starts from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from .errors import SettingError, UnsupportedError
from .explanation import ALL_UNITS
from .ir import Graph, Var

AUTO, CLASSIFICATION, REGRESSION, CUSTOM = "auto", "classification", "regression", "custom"

_TASKS = {
    "binary-classification": CLASSIFICATION,
    "multi-class-classification": CLASSIFICATION,
    "classification": CLASSIFICATION,
    "bbox-regression": REGRESSION,
    "regression": REGRESSION,
}
_NOT_YET = (
    "binary-segmentation",
    "multi-class-segmentation",
    "generation",
    "next-token",
    "token-classification",
    "span-qa",
)
TASKS = (AUTO, *_TASKS, *_NOT_YET)


@dataclass(frozen=True)
class Task:
    """How relevance starts at an output.

    Attributes:
        name: "classification", "regression" or "custom".
        start: (output, target, given) -> (start relevance in the output's shape, target explained). `target` is the
            flat index of a unit, or -1 for the task's own choice; `given` is the user's start relevance or None.
        nonnegative: Whether the start relevance cannot be negative.
    """

    name: str
    start: Callable[[Array, Array, Any], tuple[Array, Array]]
    nonnegative: bool


def canonical_task(task: str) -> str:
    """The task's family: "auto", "classification" or "regression".

    Raises:
        SettingError: For a name that does not exist.
        UnsupportedError: For a task that is known and not yet built.
    """
    name = task.strip().lower().replace(" ", "-").replace("_", "-") if isinstance(task, str) else task
    if name in _NOT_YET:
        raise UnsupportedError(f"task {task!r} is not built yet; pass start= with the relevance of the output instead")
    if name != AUTO and name not in _TASKS:
        raise SettingError(f"task {task!r} does not exist; there are: {', '.join(TASKS)}")
    return _TASKS.get(name, name)


def resolve_task(task: str, graph: Graph, output: Var, scaler: float | None, *, custom: bool) -> Task:
    """Settle how relevance starts at an output.

    "auto" means classification, but regression for a single unit that is no probability.

    Args:
        task: A name of `TASKS`.
        graph: The graph, which tells whether the output is a probability.
        output: The output explained.
        scaler: Total relevance to hand out; None: the output's own value.
        custom: Whether the user passes the start relevance.
    """
    if custom:
        return Task(CUSTOM, lambda value, target, given: (given.astype(value.dtype), target), nonnegative=False)
    maker = graph.producers().get(output.name)
    probability = maker is not None and maker.op == "sigmoid"
    family = _family(task, output, probability)
    nonnegative = scaler is not None and scaler >= 0
    if family == REGRESSION:
        return Task(REGRESSION, lambda value, target, given: _regression(value, target, scaler), nonnegative)
    if _units(output) == 1:
        threshold = 0.5 if probability else 0.0
        return Task(family, lambda value, target, given: _one_unit(value, target, scaler, threshold), nonnegative)
    return Task(family, lambda value, target, given: _classification(value, target, scaler), nonnegative)


def _family(task: str, output: Var, probability: bool) -> str:
    family = canonical_task(task)
    if family == AUTO:
        return REGRESSION if _units(output) == 1 and not probability else CLASSIFICATION
    return family


def _units(output: Var) -> int:
    return int(np.prod(output.shape))


def _classification(value: Array, target: Array, scaler: float | None) -> tuple[Array, Array]:
    """All of it at the target class, by default the predicted one."""
    flat = value.reshape(-1)
    chosen = jnp.where(target < 0, jnp.argmax(flat), target)
    amount = flat if scaler is None else jnp.full_like(flat, scaler)
    start = jnp.where(jnp.arange(flat.size) == chosen, amount, 0)
    return start.reshape(value.shape), chosen


def _one_unit(value: Array, target: Array, scaler: float | None, threshold: float) -> tuple[Array, Array]:
    """Both classes of a binary answer start at its single unit."""
    predicted = (value.reshape(()) >= threshold).astype(target.dtype)
    start = value if scaler is None else jnp.full_like(value, scaler)
    return start, jnp.where(target < 0, predicted, target)


def _regression(value: Array, target: Array, scaler: float | None) -> tuple[Array, Array]:
    """An equal part at every output, or all of it at the chosen one."""
    flat = value.reshape(-1)
    chosen = jnp.arange(flat.size) == target
    amount = flat if scaler is None else jnp.full_like(flat, scaler)
    share = amount if scaler is None else amount / flat.size
    start = jnp.where(target < 0, share, jnp.where(chosen, amount, 0))
    return start.reshape(value.shape), target


def read_targets(target: Any, count: int, output: Var, task: Task) -> np.ndarray:
    """The user's target as one flat unit index per example; -1 where the task decides.

    Args:
        target: None, one class for all, an array with one per example, or a tuple indexing the output's axes.
        count: Number of examples.
        output: The output explained, one example (leading axis of size 1).
        task: The task; a single binary unit has the classes 0 and 1.

    Raises:
        SettingError: When it is out of range or of the wrong shape.
    """
    if target is None:
        _check_flat(output, task)
        return np.full(count, ALL_UNITS, np.int64)
    shape = output.shape[1:] if output.shape[:1] == (1,) else output.shape
    if isinstance(target, tuple):
        return np.full(count, _flat_index(target, shape, output), np.int64)
    return _checked_targets(np.asarray(target), count, shape, output, task)


def _checked_targets(targets: np.ndarray, count: int, shape: tuple[int, ...], output: Var, task: Task) -> np.ndarray:
    if not np.issubdtype(targets.dtype, np.integer) or targets.shape not in ((), (count,)):
        raise SettingError(f"target must be an integer or one integer per example ({count}), found {targets!r}")
    if len(shape) > 1 and task.name != CUSTOM:
        raise SettingError(
            f"output {output.name!r} has shape {shape}: pass target=(index, ...) with {len(shape)} entries"
        )
    classes = max(_units(output), 2 if task.name == CLASSIFICATION else 1)
    wrong = targets[(targets < 0) | (targets >= classes)]
    if wrong.size:
        raise SettingError(f"target {wrong[0]} is out of range: output {output.name!r} has {classes} classes")
    return np.broadcast_to(targets, (count,)).astype(np.int64)


def _flat_index(index: tuple, shape: tuple[int, ...], output: Var) -> int:
    try:
        return int(np.ravel_multi_index(index, shape))
    except (ValueError, TypeError) as error:
        raise SettingError(f"target {index} does not index output {output.name!r} of shape {shape}: {error}") from error


def _check_flat(output: Var, task: Task) -> None:
    shape = output.shape[1:]
    if task.name == CLASSIFICATION and len([size for size in shape if size > 1]) > 1:
        raise SettingError(
            f"output {output.name!r} has shape {shape}, which has no single class: pass target=(index, ...) or start="
        )
