"""The names of tasks, and what is asked of an output: the words that everything about start relevance shares."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from backtrace_jax.errors import SettingError
from backtrace_jax.errors.texts import shown

AUTO, CLASSIFICATION, REGRESSION, CUSTOM = "auto", "classification", "regression", "custom"
BINARY_SEGMENTATION, CLASS_SEGMENTATION = "binary-segmentation", "multi-class-segmentation"
NEXT_TOKEN, TOKENS, SPAN = "next-token", "token-classification", "span-qa"
UNIT = "unit"
"""What "auto" means for a value inside the model: its most active unit, or the one asked for."""

_FAMILY = {
    "binary-classification": CLASSIFICATION,
    "multi-class-classification": CLASSIFICATION,
    CLASSIFICATION: CLASSIFICATION,
    "bbox-regression": REGRESSION,
    REGRESSION: REGRESSION,
    BINARY_SEGMENTATION: BINARY_SEGMENTATION,
    CLASS_SEGMENTATION: CLASS_SEGMENTATION,
    "generation": NEXT_TOKEN,
    NEXT_TOKEN: NEXT_TOKEN,
    TOKENS: TOKENS,
    SPAN: SPAN,
}
TASKS = (AUTO, *_FAMILY)

SIDE_BY_SIDE = (CLASSIFICATION, REGRESSION, UNIT)
"""Tasks that see all units of the output in one row."""
IN_SEQUENCE = (NEXT_TOKEN, TOKENS)
"""Tasks whose output has positions to choose from."""

ALL_UNITS = -1
"""The target of an example whose relevance was started at every unit of the output (regression)."""

UNSET = np.iinfo(np.int64).min
"""A target, rival or position that is left to the task."""

NODES, TOTAL = "nodes", "total"
LEDGERS = (NODES, TOTAL)
"""Of what books are kept: of every node, or of the graph as a whole; None stands for no books."""

HIGH, LOW = "high", "low"
MEMORIES = (HIGH, LOW)
"""How much memory a walk takes: all values of the forward pass are kept, or most of them computed anew."""


class Question(NamedTuple):
    """What is asked about one example (about a chunk of them: one more axis in front).

    Attributes:
        target: Class, unit, or flat index explained; `UNSET`: the task's own choice.
        against: Class that the target is contrasted with; `UNSET`: none.
        position: Position in the sequence, negative ones counted from the end; `UNSET`: the task's own choice.
        start: The user's own start relevance, in the output's shape, or None.
    """

    target: Any
    against: Any
    position: Any
    start: Any


def open_question(count: int) -> Question:
    """Everything left to the task, for a batch of examples."""
    unset = np.full(count, UNSET, np.int64)
    return Question(unset, unset, unset, None)


def canonical_task(task: str) -> str:
    """The task's family.

    Raises:
        SettingError: For a name that does not exist.
    """
    name = task.strip().lower().replace(" ", "-").replace("_", "-") if isinstance(task, str) else ""
    if name not in TASKS:
        raise SettingError(f"task {shown(task)} does not exist; there are: {', '.join(TASKS)}")
    return _FAMILY.get(name, name)
