"""Start relevance: what is to be explained of an output (RULES section 10).

Every task sees one example's output as a matrix [positions, classes] and says how much each entry weighs; the weights
add up to 1. A binary answer has one class, an image of classes has pixels for positions, and so on. From the weights
follow the start relevance, and what speaks against it: a rival class, or in mode "contrastive" all the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .errors import SettingError
from .explanation import ALL_UNITS
from .ir import Graph, Var
from .ops import MOVE, OPS

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

_PROBABILITIES = ("sigmoid", "hard_sigmoid", "softmax")
_TYPE_CHANGES = ("cast", "quantize", "dequantize")
_BINARY = (CLASSIFICATION, BINARY_SEGMENTATION)  # families in which a unit of its own answers yes or no

UNSET = np.iinfo(np.int64).min
"""A target, rival or position that is left to the task."""


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


class Start(NamedTuple):
    """Start relevance in the output's shape (in pairs [2, ...]), and the target explained."""

    relevance: Array
    target: Array


@dataclass(frozen=True)
class Task:
    """How relevance starts at an output.

    Attributes:
        name: One of the families above.
        begin: (output, question) -> start relevance and target.
        nonnegative: Whether the start relevance cannot be negative.
        classes: How many classes there are to choose from.
        positions: How many positions there are to choose from.
    """

    name: str
    begin: Callable[[Array, Question], Start]
    nonnegative: bool
    classes: int
    positions: int


@dataclass(frozen=True)
class _Family:
    """A task before it meets an output.

    Attributes:
        shape: Shape of the output -> (positions, classes).
        classes_first: Whether classes come before positions in the output.
        weigh: (matrix, question, thresholding) -> (weights, target).
    """

    shape: Callable[[tuple[int, ...]], tuple[int, int]]
    weigh: Callable[[Array, Question, float], tuple[Array, Array]]
    classes_first: bool = False


def canonical_task(task: str) -> str:
    """The task's family.

    Raises:
        SettingError: For a name that does not exist.
    """
    name = task.strip().lower().replace(" ", "-").replace("_", "-") if isinstance(task, str) else ""
    if name not in TASKS:
        raise SettingError(f"task {task!r} does not exist; there are: {', '.join(TASKS)}")
    return _FAMILY.get(name, name)


def resolve_task(
    task: str,
    graph: Graph,
    output: Var,
    *,
    scaler: float | None = 1.0,
    thresholding: float = 0.5,
    custom: bool = False,
    contrasted: bool = False,
    paired: bool = False,
    rows: int = 1,
) -> Task:
    """Settle how relevance starts at an output.

    "auto" means classification, but regression for a single unit that is no probability, and the most active unit of
    a value inside the model.

    Args:
        task: A name of `TASKS`.
        graph: The graph, which tells whether the output is a probability.
        output: The output explained.
        scaler: Total relevance to hand out; None: the output's own value.
        thresholding: Probability from which a unit belongs to a mask.
        custom: Whether the user passes the start relevance.
        contrasted: Whether the target is contrasted with another class.
        paired: Whether relevance for and against travels as a pair.
        rows: Number of examples that the output holds along its first axis; their questions come together.

    Raises:
        SettingError: When the output has no shape for the task, or not that many rows.
    """
    if rows > 1 and output.shape[:1] != (rows,):
        raise SettingError(f"output {output.name!r} {list(output.shape)} has no batch of {rows}, which the file fixes")
    if custom:
        return Task(CUSTOM, lambda value, asked: _custom(value, asked, paired), paired, _units(output) // rows, 1)
    probability = _is_probability(graph, output)
    name = _family(task, graph, output, probability)
    family = _FAMILIES[name]
    positions, classes = family.shape((1, *output.shape[1:]) if rows > 1 else output.shape)
    cut = thresholding if name == BINARY_SEGMENTATION else 0.5 if probability else 0.0

    def begin(value: Array, asked: Question) -> Start:
        matrix = _as_matrix(value, family, positions, classes)
        weights, target = family.weigh(matrix, asked, cut)
        relevance, rival = _scaled(matrix, weights, scaler), _rival(matrix, weights, asked, scaler)
        if paired:
            others = _others(matrix, weights, scaler, probability=probability, binary=name in _BINARY)
            relevance = jnp.stack([relevance, jnp.where(asked.against == UNSET, others, rival)])
        else:
            relevance = relevance - rival
        return Start(_as_output(relevance, value.shape, family), target)

    positive = scaler is not None and scaler >= 0
    started = begin if rows == 1 else _by_row(begin, paired)
    return Task(name, started, positive and (paired or not contrasted), classes, positions)


def _by_row(begin: Callable[[Array, Question], Start], paired: bool) -> Callable[[Array, Question], Start]:
    """The same start for every row of an output that holds several examples."""

    def begin_rows(value: Array, asked: Question) -> Start:
        each = jax.vmap(begin)(value[:, None], asked)
        relevance = jnp.squeeze(each.relevance, 2 if paired else 1)
        return Start(jnp.swapaxes(relevance, 0, 1) if paired else relevance, each.target)

    return begin_rows


def _family(task: str, graph: Graph, output: Var, probability: bool) -> str:
    family = canonical_task(task)
    if family != AUTO:
        return family
    if output not in graph.outputs:
        return UNIT
    return REGRESSION if _units(output) == 1 and not probability else CLASSIFICATION


def _units(output: Var) -> int:
    return int(np.prod(output.shape))


def _is_probability(graph: Graph, output: Var) -> bool:
    """Whether an output holds results of a sigmoid or softmax, however moved."""
    found: set[str] = set()
    for eqn in graph.eqns:
        carried = {var.name for i, var in enumerate(eqn.invars) if OPS[eqn.op].carries(i)}
        moved = (OPS[eqn.op].kind == MOVE or eqn.op in _TYPE_CHANGES) and carried and carried <= found
        if moved or eqn.op in _PROBABILITIES:
            found.update(var.name for var in eqn.outvars)
    return output.name in found


# the output as a matrix, and back


def _as_matrix(value: Array, family: _Family, positions: int, classes: int) -> Array:
    return value.reshape(classes, positions).T if family.classes_first else value.reshape(positions, classes)


def _as_output(relevance: Array, shape: tuple[int, ...], family: _Family) -> Array:
    turned = jnp.swapaxes(relevance, -1, -2) if family.classes_first else relevance
    return turned.reshape(*relevance.shape[:-2], *shape)


def _one_row(shape: tuple[int, ...]) -> tuple[int, int]:
    return 1, int(np.prod(shape))


def _one_class(shape: tuple[int, ...]) -> tuple[int, int]:
    return int(np.prod(shape)), 1


def _classes_last(shape: tuple[int, ...]) -> tuple[int, int]:
    return int(np.prod(shape[:-1])), shape[-1] if shape else 1


def _classes_second(shape: tuple[int, ...]) -> tuple[int, int]:
    """Classes follow the batch axis, as in images [1, classes, height, width]."""
    return int(np.prod(shape[2:])), shape[1] if len(shape) > 1 else 1


def _spans(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows are start and end, classes the places in the text; one row where the model has an output for each."""
    rows = 2 if len(shape) == 3 and shape[-1] == 2 else 1
    if len(shape) != (3 if rows == 2 else 2):
        raise SettingError(
            f"task 'span-qa' takes an output [batch, length] or [batch, length, 2]; one example of it is {list(shape)}"
        )
    return rows, int(np.prod(shape)) // rows


# weights: which entries of the matrix are explained


def _one_hot(index: Array, size: int, dtype: Any) -> Array:
    return (jnp.arange(size) == index).astype(dtype)


def _chosen(asked: Array, default: Array) -> Array:
    return jnp.where(asked == UNSET, default, asked)


def _classification(matrix: Array, asked: Question, threshold: float) -> tuple[Array, Array]:
    """All of it at the target class, by default the predicted one; both classes of a binary answer at its one unit."""
    if matrix.size == 1:
        predicted = (matrix[0, 0] >= threshold).astype(jnp.int64)
        return jnp.ones_like(matrix), _chosen(asked.target, predicted)
    return _unit(matrix, asked, threshold)


def _regression(matrix: Array, asked: Question, threshold: float) -> tuple[Array, Array]:
    """An equal part at every output, or all of it at the chosen one."""
    count, every = matrix.shape[1], asked.target == UNSET
    weights = jnp.where(every, 1 / count, _one_hot(asked.target, count, matrix.dtype))
    return weights.astype(matrix.dtype)[None], jnp.where(every, ALL_UNITS, asked.target)


def _unit(matrix: Array, asked: Question, threshold: float) -> tuple[Array, Array]:
    """All of it at the unit asked for, by default the most active one."""
    target = _chosen(asked.target, jnp.argmax(matrix[0]))
    return _one_hot(target, matrix.shape[1], matrix.dtype)[None], target


def _binary_segmentation(matrix: Array, asked: Question, threshold: float) -> tuple[Array, Array]:
    """Equal parts at all units of the mask."""
    return _equal_parts(matrix > threshold, matrix.dtype), jnp.asarray(ALL_UNITS)


def _class_segmentation(matrix: Array, asked: Question, threshold: float) -> tuple[Array, Array]:
    """Equal parts at the pixels of the target class, by default the most frequent one."""
    winners = jnp.argmax(matrix, axis=1)
    frequent = jnp.argmax(jnp.sum(winners[:, None] == jnp.arange(matrix.shape[1])[None], axis=0))
    target = _chosen(asked.target, frequent)
    mask = (winners[:, None] == target) & (jnp.arange(matrix.shape[1])[None] == target)
    return _equal_parts(mask, matrix.dtype), target


def _equal_parts(mask: Array, dtype: Any) -> Array:
    return mask.astype(dtype) / jnp.maximum(jnp.sum(mask), 1).astype(dtype)


def _next_token(matrix: Array, asked: Question, threshold: float) -> tuple[Array, Array]:
    """All of it at one position, by default the last, and the token given or predicted there."""
    position = _chosen(asked.position, jnp.asarray(-1)) % matrix.shape[0]
    token = _chosen(asked.target, jnp.argmax(matrix[position]))
    row, column = (_one_hot(i, size, matrix.dtype) for i, size in zip((position, token), matrix.shape, strict=True))
    weights = row[:, None] * column[None]
    return weights, position * matrix.shape[1] + token


def _tokens(matrix: Array, asked: Question, threshold: float) -> tuple[Array, Array]:
    """The class given or predicted at one position, or equal parts at all of them."""
    rows, classes = matrix.shape
    each = _chosen(asked.target, jnp.argmax(matrix, axis=1))
    hot = (jnp.arange(classes)[None] == jnp.reshape(each, (-1, 1))).astype(matrix.dtype)
    position = asked.position % rows
    every = asked.position == UNSET
    share = jnp.where(every, 1 / rows, _one_hot(position, rows, matrix.dtype)).astype(matrix.dtype)
    one = position * classes + jnp.broadcast_to(each, (rows,))[position]
    return share[:, None] * hot, jnp.where(every, ALL_UNITS, one)


def _span(matrix: Array, asked: Question, threshold: float) -> tuple[Array, Array]:
    """Equal parts at the chosen or predicted start and end; a flat target holds both, start times length plus end."""
    rows, places = matrix.shape
    predicted = jnp.argmax(matrix, axis=1)
    asked_for = jnp.stack([asked.target // places, asked.target % places]) if rows == 2 else asked.target[None]
    chosen = jnp.where(asked.target == UNSET, predicted, asked_for)
    weights = (jnp.arange(places)[None] == chosen[:, None]).astype(matrix.dtype) / rows
    return weights, chosen[0] * places + chosen[1] if rows == 2 else chosen[0]


_FAMILIES = {
    CLASSIFICATION: _Family(_one_row, _classification),
    REGRESSION: _Family(_one_row, _regression),
    UNIT: _Family(_one_row, _unit),
    BINARY_SEGMENTATION: _Family(_one_class, _binary_segmentation),
    CLASS_SEGMENTATION: _Family(_classes_second, _class_segmentation, classes_first=True),
    NEXT_TOKEN: _Family(_classes_last, _next_token),
    TOKENS: _Family(_classes_last, _tokens),
    SPAN: _Family(_spans, _span, classes_first=True),
}


# from weights to relevance


def _custom(value: Array, asked: Question, paired: bool) -> Start:
    """The user's own start; in pairs what is negative speaks against."""
    given = asked.start.astype(value.dtype)
    relevance = jnp.stack([jnp.maximum(given, 0), jnp.maximum(-given, 0)]) if paired else given
    return Start(relevance, asked.target)


def _rival(matrix: Array, weights: Array, asked: Question, scaler: float | None) -> Array:
    """Relevance of the class that the target is contrasted with, at the same positions; nothing where there is none."""
    moved = jnp.sum(weights, axis=1, keepdims=True) * _one_hot(asked.against, weights.shape[1], weights.dtype)[None]
    return _scaled(matrix, jnp.where(asked.against == UNSET, 0, moved), scaler)


def _scaled(matrix: Array, weights: Array, scaler: float | None) -> Array:
    """The scaler shared by weight; without one, the outputs' own values."""
    return jnp.where(weights > 0, matrix, 0) if scaler is None else scaler * weights


def _others(matrix: Array, weights: Array, scaler: float | None, *, probability: bool, binary: bool) -> Array:
    """What speaks against at the same positions: the other classes, none negative, rescaled to the scaler.

    One unit that answers yes or no has the probability of the other answer instead, as it is.
    """
    if matrix.shape[1] == 1:
        complement = 1 - matrix if probability else jax.nn.sigmoid(-matrix) if binary else jnp.zeros_like(matrix)
        return complement * (jnp.sign(weights) if scaler is None else scaler * weights)
    rivals = (weights == 0) & jnp.any(weights > 0, axis=1, keepdims=True)
    sizes = jnp.where(rivals, matrix if probability else _softmax(matrix, rivals, rescaled=scaler is not None), 0)
    total = jnp.sum(sizes)
    return sizes if scaler is None else sizes * (scaler / jnp.where(total == 0, 1, total))


def _softmax(matrix: Array, chosen: Array, *, rescaled: bool) -> Array:
    """Softmax over classes; rescaled, the largest of the chosen entries is 1, so that they never vanish together."""
    logarithms = jax.nn.log_softmax(matrix, axis=1)
    largest = jnp.max(logarithms, where=chosen, initial=jnp.finfo(matrix.dtype).min)
    return jnp.exp(logarithms - largest if rescaled else logarithms)
