"""Words for what an explanation is about: the explained unit, a position in an input. Shared by every report."""

from __future__ import annotations

import math

import numpy as np

from backtrace_jax.errors import SettingError
from backtrace_jax.explanation import ALL_UNITS, Explanation


def check_example(explanation: Explanation, example: int) -> None:
    """Raise SettingError unless `example` is a position in the batch, counted from 0."""
    count = len(explanation)
    if not 0 <= example < count:
        raise SettingError(f"there is no example {example}: this explanation has {count}, numbered from 0")


def unit(explanation: Explanation, example: int) -> str:
    """Name the explained unit: `logits[3]`, `scores[5, 1023]`, or `all of box` where every unit was started.

    A single unit that answers for two classes is named with the class: `probability[0] (class 1)`.
    """
    if explanation.target is None:
        return f"the given start at {explanation.output}"
    target = int(explanation.target[example])
    if target == ALL_UNITS:
        return f"all of {explanation.output}"
    shape = explanation.outputs[explanation.output].shape[1:]
    if math.prod(shape) > 1:
        return position(explanation.output, target, shape)
    answer = f" (class {target})" if explanation.fingerprint.get("task") == "classification" else ""
    return position(explanation.output, 0, shape) + answer


def position(name: str, flat: int, shape: tuple[int, ...]) -> str:
    """Write one entry of an array by name and index; a scalar needs no index."""
    index = ", ".join(str(int(place)) for place in np.unravel_index(flat, shape)) if shape else ""
    return f"{name}[{index}]" if index else name


def number(value: float) -> str:
    """Write a signed number with the four digits that matter, in fixed point where that is readable."""
    size = abs(value)
    return f"{value:+.6f}" if size == 0 or 1e-4 <= size < 1e6 else f"{value:+.3e}"
