"""What is known of the answer before anything is compiled: which value it is, and what the graph says of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from backtrace_jax.batch import TOGETHER, Leaving, no_batch
from backtrace_jax.errors import MixedExamplesError, SettingError
from backtrace_jax.ir import Graph, Var
from backtrace_jax.question.answers import Answer, read_answer, tables
from backtrace_jax.question.settings import Settings
from backtrace_jax.question.tasks import QuestionForm, Task, resolve_task
from backtrace_jax.rules import find_mode

from .layers import select_value


@dataclass(frozen=True)
class Outline:
    """What is known of a model at these shapes before anything is compiled.

    Attributes:
        output: The value explained, by the model's own name of it.
        answer: What the graph says about it.
        rows: Examples per run of the graph.
        settings: What the user chose.
        tables: Integer inputs that look up tables, each with the rows of its table.
    """

    output: Var
    answer: Answer
    rows: int
    settings: Settings
    tables: tuple[tuple[str, int], ...] = ()
    _tasks: dict[QuestionForm, Task] = field(default_factory=dict, compare=False, repr=False)

    @property
    def one(self) -> Var:
        """The value explained, for one example."""
        return self.output if self.rows == 1 else replace(self.output, shape=(1, *self.output.shape[1:]))

    def task(self, asked: QuestionForm) -> Task:
        """How relevance starts when this is asked.

        Raises:
            SettingError: When the output is no answer to the task.
        """
        if asked not in self._tasks:
            self._tasks[asked] = self._task(self.settings, asked)
        return self._tasks[asked]

    def _task(self, settings: Settings, asked: QuestionForm) -> Task:
        mode = find_mode(settings.mode)
        return resolve_task(
            settings.task,
            self.answer,
            asked,
            scaler=None if settings.scaler is None else float(settings.scaler),
            thresholding=float(settings.thresholding),
            paired=mode.paired,
            plain=not mode.conserving,
            rows=self.rows,
            class_axis=settings.class_axis,
        )


def outline(graph: Graph, settings: Settings, rows: int, leaving: Sequence[Leaving] | None = None) -> Outline:
    """What a lowered graph says about the answer to be explained.

    Raises:
        SettingError: When the output does not exist, or does not hold that many rows.
    """
    output = pick_output(graph, settings.output, leaving)
    if rows > 1 and output.shape[:1] != (rows,):
        raise SettingError(no_batch(output.name, output.shape, rows))
    named = replace(output, name=own_name(graph, output))
    return Outline(named, read_answer(graph, output, rows), rows, settings, tables(graph))


def own_name(graph: Graph, value: Var) -> str:
    """The model's own name of an output, which the graph may move or call something else; of others their name."""
    return graph.output_names[graph.outputs.index(value)] if value in graph.outputs else value.name


def pick_output(graph: Graph, wanted: str | int | None, leaving: Sequence[Leaving] | None = None) -> Var:
    """The value to explain: an output by name or index, or any value or module inside the model by name.

    Without a wish it is the first output of floats: classifiers give their label first.

    Raises:
        SettingError: When there is none of this name, or it holds no floats.
        MixedExamplesError: When it is an output that is not told for one example.
    """
    choices = dict(zip(graph.output_names, graph.outputs, strict=True))
    told = leaving or [Leaving(v.shape, None, n, v.is_float) for n, v in choices.items()]
    names = dict(enumerate(each.name for each in told))
    if wanted is None:
        wanted = next((i for i, each in enumerate(told) if each.is_float), 0)
    name = names.get(wanted, "") if isinstance(wanted, int) else wanted
    refused = next((each.refused for each in told if each.name == name), "")
    if refused:
        raise MixedExamplesError(refused, f"{TOGETHER}; or ask for another output")
    found = choices.get(name) or select_value(graph, name)
    if found is None:
        raise SettingError(
            f"output {wanted!r} does not exist; the model has: {', '.join(graph.output_names)}, and its inner values"
        )
    if not found.is_float:
        raise SettingError(f"output {name!r} holds {found.dtype.name}, which bears no relevance; pick a float output")
    return found
