"""Start relevance of outputs given as arrays: a task and a question, without a model and without compiling."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from backtrace_jax.ir import Graph, Var
from backtrace_jax.question.answers import read_answer
from backtrace_jax.question.targets import read_question, read_start
from backtrace_jax.question.tasks import QuestionForm, Task, resolve_task
from backtrace_jax.question.words import CLASS_SEGMENTATION, NEXT_TOKEN, TOKENS, canonical_task
from backtrace_jax.runtime.numerics import exact_types
from tests.engine.graphs import program

QUESTIONS = ("target", "against", "position")
CLASS_AXIS = {CLASS_SEGMENTATION: 1, NEXT_TOKEN: -1, TOKENS: -1}
"""Where the classes lie in outputs of which no softmax tells it."""

_LAST: dict[str, Callable[[Any, Var], Var]] = {
    "": lambda builder, x: builder.emit("tanh", x),
    "sigmoid": lambda builder, x: builder.emit("sigmoid", x),
    "softmax": lambda builder, x: builder.emit("softmax", x, axis=1),
    "softmax, last": lambda builder, x: builder.emit("softmax", x, axis=len(x.shape) - 1),
    "log_softmax": lambda builder, x: builder.emit("log_softmax", x, axis=1),
    "sigmoid, reshaped": lambda builder, x: builder.emit("reshape", builder.emit("sigmoid", x), shape=x.shape),
    "softmax, sliced": lambda builder, x: builder.emit(
        "slice",
        builder.emit("softmax", x, axis=1),
        start=(0,) * len(x.shape),
        limit=x.shape,
        stride=(1,) * len(x.shape),
    ),
    "softmax, doubled": lambda builder, x: builder.emit("add", *[builder.emit("softmax", x, axis=1)] * 2),
}


class Started(NamedTuple):
    """Start relevance, batch first (in pairs [batch, 2, ...]), and the target of each example."""

    relevance: NDArray
    target: NDArray
    task: Task


@cache
def graph_ending_in(shape: tuple[int, ...], dtype: np.dtype, last: str = "", *, inner: bool = False) -> Graph:
    """A graph whose value `y`, one example in this shape, comes out of an operation; `inner`: it is no output."""

    def build(builder: Any, x: Var) -> Any:
        y = _LAST[last](builder, x)
        builder.rename(y, "y")
        return {"z": builder.emit("exp", y)} if inner else {"y": y}

    return program(build, x=((1, *shape), dtype)).graph


def started(
    values: NDArray, task: str = "auto", last: str = "", *, inner: bool = False, start: Any = None, **asked: Any
) -> Started:
    """What a batch of outputs, [batch, ...], starts with; `asked`: of `QUESTIONS`, and settings of the task."""
    graph = graph_ending_in(values.shape[1:], values.dtype, last, inner=inner)
    if "softmax" not in last and values.ndim > 1:
        asked = {"class_axis": CLASS_AXIS.get(canonical_task(task)), **asked}
    output = graph.eqns[-2].outvars[0] if inner else graph.outputs[0]
    return started_at(graph, output, values, task, start=start, **asked)


def started_at(
    graph: Graph, output: Var, values: NDArray, task: str = "auto", *, start: Any = None, **asked: Any
) -> Started:
    """The same for an output of a given graph; the task's word on signs is checked on the way."""
    questions = {name: asked.pop(name, None) for name in QUESTIONS}
    kind = QuestionForm.of(questions["target"], questions["against"], start)
    resolved = resolve_task(task, read_answer(graph, output), kind, **asked)
    question = read_question(len(values), output, resolved, **questions)
    if start is not None:
        given = start(values) if callable(start) else start
        question = question._replace(start=read_start(given, len(values), output))
    whole = values.reshape(len(values), *output.shape)
    with exact_types():
        relevance, target = jax.tree.map(np.asarray, jax.vmap(resolved.begin)(whole, question))
    assert relevance.dtype == values.dtype
    assert (relevance >= 0).all() or not resolved.nonnegative, "the walk relies on this"
    batch = relevance.shape[: relevance.ndim - len(output.shape)]
    return Started(relevance.reshape(*batch, *values.shape[1:]), target, resolved)
