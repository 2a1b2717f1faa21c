"""An output as a matrix [positions, classes], for every task, and back; or why it is no answer to that task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array

from backtrace_jax.errors import SettingError

from .answers import Answer
from .words import (
    BINARY_SEGMENTATION,
    CLASS_SEGMENTATION,
    CLASSIFICATION,
    CUSTOM,
    NEXT_TOKEN,
    REGRESSION,
    SPAN,
    TOKENS,
    UNIT,
)


@dataclass(frozen=True)
class Arrangement:
    """Where positions and classes are in one example of an output.

    Attributes:
        shape: Shape of the example, without batch axis.
        axis: Axis of the classes; None: all units are classes at one position, or positions of one class.
        positions: How many positions there are.
        classes: How many classes there are.
    """

    shape: tuple[int, ...]
    axis: int | None
    positions: int
    classes: int

    def matrix(self, value: Array) -> Array:
        """One example, with or without a batch axis of size 1, as [positions, classes]."""
        value = value.reshape(self.shape)
        last = value if self.axis is None else jnp.moveaxis(value, self.axis, -1)
        return last.reshape(self.positions, self.classes)

    def back(self, matrix: Array, shape: tuple[int, ...]) -> Array:
        """A matrix, or a pair of matrices, in the output's shape."""
        pair = matrix.shape[:-2]
        if self.axis is not None:
            others = self.shape[: self.axis] + self.shape[self.axis + 1 :]
            turned = matrix.reshape(*pair, *others, self.classes)
            matrix = jnp.moveaxis(turned, -1, self.axis - len(self.shape))
        return matrix.reshape(*pair, *shape)

    def flat(self, index: Array) -> Array:
        """The flat index within the output of a flat index within the matrix; of an output with two axes."""
        if self.axis is None or self.axis == len(self.shape) - 1:
            return index
        return jnp.where(index < 0, index, index % self.classes * self.positions + index // self.classes)


def arranged_for(task: str, answer: Answer) -> Arrangement:
    """The matrix that a task sees in an answer.

    Raises:
        SettingError: When the answer has no such form.
    """
    axis = _AXES[task](task, answer)
    classes = answer.units if axis == _ROW else 1 if axis == _COLUMN else answer.shape[axis]
    return Arrangement(answer.shape, None if axis < 0 else axis, answer.units // max(classes, 1), classes)


_ROW, _COLUMN = -1, -2


def _refusal(task: str, answer: Answer, reason: str) -> SettingError:
    shape = f"[batch, {', '.join(map(str, answer.shape))}]" if answer.shape else "[batch]"
    return SettingError(f"task {task!r} does not fit output {answer.name!r} {shape}: {reason}")


def _row(task: str, answer: Answer) -> int:
    return _ROW


def _quantities(task: str, answer: Answer) -> int:
    if answer.exclusive in answer.several:
        raise _refusal(task, answer, "it holds class probabilities (softmax); use task='classification'")
    return _ROW


def _mask(task: str, answer: Answer) -> int:
    """A mask has an axis for its channel, or two axes at least."""
    if len(answer.shape) < 2 or _is_one_place(answer, answer.channels):
        raise _refusal(task, answer, "it is no mask, which lies over a picture or series; or pass start=")
    if answer.exclusive in answer.several:
        raise _refusal(task, answer, "its classes exclude each other (softmax); use task='multi-class-segmentation'")
    return _COLUMN


def _is_one_place(answer: Answer, axis: int | None) -> bool:
    """Whether channels are all that there is."""
    return axis in answer.several and len(answer.several) == 1


def _regions(task: str, answer: Answer) -> int:
    """Classes lie along one axis, at the places of the others."""
    if len(answer.several) < 2 or answer.shape[_of_classes(task, answer)] < 2:
        raise _refusal(task, answer, "it has no classes at every place of a picture or series")
    return _of_classes(task, answer)


def _sequence(task: str, answer: Answer) -> int:
    """Classes lie along one of two axes, positions along the other."""
    if len(answer.shape) != 2:
        raise _refusal(task, answer, "it has no positions, which takes [batch, positions, classes]")
    return _of_classes(task, answer)


def _of_classes(task: str, answer: Answer) -> int:
    """The axis of the classes."""
    if answer.classes is None:
        raise _refusal(
            task,
            answer,
            "the graph does not tell which axis holds the classes; pass class_axis=1 (channels first), class_axis=-1 "
            "(channels last), or another",
        )
    return answer.classes


def _next_token(task: str, answer: Answer) -> int:
    """The same, or the token after the last position alone: as many classes as the table has rows."""
    if len(answer.shape) == 1 and answer.is_vocabulary(0):
        return 0
    return _sequence(task, answer)


def _places(task: str, answer: Answer) -> int:
    """Rows are start and end, classes the places in the text; one row where the model has an output for each."""
    over_text = answer.shape and answer.shape[0] in {size for shape in answer.inputs for size in shape}
    if not over_text or answer.shape[1:] not in ((), (2,)):
        raise _refusal(task, answer, "it is no span, which takes [batch, length] or [batch, length, 2] over the text")
    return 0


_AXES: dict[str, Callable[[str, Answer], int]] = {
    CLASSIFICATION: _row,
    CUSTOM: _row,
    UNIT: _row,
    REGRESSION: _quantities,
    BINARY_SEGMENTATION: _mask,
    CLASS_SEGMENTATION: _regions,
    NEXT_TOKEN: _next_token,
    TOKENS: _sequence,
    SPAN: _places,
}
