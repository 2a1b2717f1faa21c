"""Words for what an explanation is about: the explained unit, a position in an input. Shared by every report."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from backtrace_jax.errors import SettingError
from backtrace_jax.errors.texts import printable, shown
from backtrace_jax.question.words import (
    ALL_UNITS,
    BINARY_SEGMENTATION,
    CLASS_SEGMENTATION,
    CLASSIFICATION,
    NODES,
    REGRESSION,
    SPAN,
    TOKENS,
    UNIT,
)

from .ledger import NEGATIVE, POSITIVE, Channel
from .record import Record

SIDES = {"for": POSITIVE, "against": NEGATIVE}
"""What a report calls the channels of a contrastive explanation."""

_NO_CLASSES = (REGRESSION, BINARY_SEGMENTATION, SPAN, UNIT)  # tasks in which a row of numbers is none of classes
_EVERY = {BINARY_SEGMENTATION: "the mask of", TOKENS: "every position of"}


def no_books(explanation: Record) -> str:
    """What a report says where there is neither a ledger nor a completeness error."""
    left_out = explanation.fingerprint.get("ledger", NODES) is None
    return f"no ledger: {'none was asked for' if left_out else 'gradients are not conserved'}"


def check_example(explanation: Record, example: Any) -> int:
    """The position of an example in the batch, counted from 0; a negative one is counted from the end.

    Raises:
        SettingError: There is no such example.
    """
    count = len(explanation)
    whole = isinstance(example, int | np.integer) and not isinstance(example, bool)
    if not whole or not -count <= example < count:
        file = "; a file to write is path=" if isinstance(example, str) else ""
        raise SettingError(f"there is no example {shown(example)}: this explanation has {count}, numbered from 0{file}")
    return int(example) % count


def unit(explanation: Record, example: int) -> str:
    """Name what is explained: `logits[3]`, `scores[5, 1023]`, `class 2 of masks`, `span 3 to 7 of text`, `all of box`.

    A single unit that answers for two classes is named with the class: `probability[0] (class 1)`.
    """
    name, task = printable(explanation.output), explanation.fingerprint.get("task", "")
    if explanation.target is None:
        return f"the given start at {name}"
    target, found = int(explanation.target[example]), units(explanation, example)
    if not found:
        return f"{_EVERY.get(task, 'all of')} {name}" if target == ALL_UNITS else f"class {target} of {name}"
    if len(found) == 2:
        start, end = (flat // 2 for flat in found)
        return f"span {start} to {end} of {name}"
    shape = explanation.outputs[explanation.output].shape[1:]
    answer = f" (class {target})" if answers_for_two(explanation) else ""
    return position(name, found[0], shape) + answer


def arrived(channel: Channel, example: int) -> float:
    """What of one channel's relevance is at the inputs, in all."""
    return sum(float(np.sum(array[example], dtype=np.float64)) for array in channel.relevance.values())


def answers_for_two(explanation: Record) -> bool:
    """Whether a single unit is explained whose value is that of class 1, and reversed that of class 0."""
    shape = explanation.outputs[explanation.output].shape[1:]
    return explanation.fingerprint.get("task") == CLASSIFICATION and math.prod(shape) == 1


def classes_of(task: str, shape: tuple[int, ...]) -> int | None:
    """How many classes an output of this shape tells apart, of which it predicts one; None: it is no row of classes."""
    if math.prod(shape) == 1:
        return 2 if task == CLASSIFICATION else None
    return shape[0] if len(shape) == 1 and task not in _NO_CLASSES else None


def predicted_classes(explanation: Record, threshold: float) -> np.ndarray:
    """The class that each example was predicted to be of, [batch] int64: that of the largest output.

    Args:
        explanation: The explanation.
        threshold: What a single unit exceeds where it predicts class 1.

    Raises:
        SettingError: The output is no row of classes (`classes_of`).
    """
    values = explanation.outputs[explanation.output]
    classes = classes_of(explanation.task, values.shape[1:])
    if classes is None:
        raise SettingError(f"the output {printable(explanation.output)!r} is no row of classes: none is predicted")
    flat = values.reshape(len(values), -1)
    if flat.shape[1] == 1:
        return (flat[:, 0] > threshold).astype(np.int64)
    return flat.argmax(axis=1).astype(np.int64)


def speaks_for_other(explanation: Record, example: int) -> bool:
    """Whether class 0 of such a unit is explained, of which the output holds no value."""
    return answers_for_two(explanation) and explanation.target is not None and not explanation.target[example]


def units(explanation: Record, example: int) -> list[int]:
    """Flat indices of the units explained, within one example of the output.

    One as a rule; start and end of a span in an output [places, 2]; none where relevance starts at a set of units: all
    of them, those of a mask, or the caller's own.
    """
    task, shape = explanation.fingerprint.get("task"), explanation.outputs[explanation.output].shape[1:]
    target = ALL_UNITS if explanation.target is None else int(explanation.target[example])
    if target == ALL_UNITS or task == CLASS_SEGMENTATION:
        return []
    if task == SPAN and len(shape) == 2 and shape[1] == 2:
        start, end = divmod(target, shape[0])
        return [2 * start, 2 * end + 1]
    return [target if math.prod(shape) > 1 else 0]


def position(name: str, flat: int, shape: tuple[int, ...]) -> str:
    """Write one entry of an array by name and index; a scalar needs no index."""
    index = ", ".join(str(int(place)) for place in np.unravel_index(flat, shape)) if shape else ""
    return f"{printable(name)}[{index}]" if index else printable(name)


def number(value: float) -> str:
    """Write a signed number with the four digits that matter, in fixed point where that is readable."""
    size = abs(value)
    return f"{value:+.6f}" if size == 0 or 1e-4 <= size < 1e6 else f"{value:+.3e}"
