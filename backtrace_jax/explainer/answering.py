"""Answers what one call asks about its inputs, one question or several, by as many compiled functions as it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from backtrace_jax.analysis.axes import channel_axes, input_channel_axes
from backtrace_jax.batch import Leaving
from backtrace_jax.engine.compile import Constant
from backtrace_jax.engine.compiled import Compiled
from backtrace_jax.engine.cost import work
from backtrace_jax.engine.form import Form
from backtrace_jax.engine.outline import Outline
from backtrace_jax.errors import BacktraceError
from backtrace_jax.explanation.explanation import Explanation
from backtrace_jax.importers.proof import Forward
from backtrace_jax.ir.imported import Imported
from backtrace_jax.question.constants import read_baseline
from backtrace_jax.question.feeds import check_indices
from backtrace_jax.question.settings import Settings
from backtrace_jax.question.words import Question
from backtrace_jax.rules import find_mode

from .asking import Asked, Posed, grouped, outputs_of, shared, stacked, together, understood
from .questions import Questions
from .results import as_explanation
from .stages import Known, Stages

Progress: TypeAlias = "Callable[[int, int], object] | None"


@dataclass(frozen=True)
class _Call:
    """What a call is answered with, beside its questions.

    Attributes:
        stages: The way to compiled functions.
        settings: The choices.
        imported: The model as it is for these inputs.
        known: What it is known by.
        feeds: The inputs by name, batch first.
        reference: The reference input, by name.
        seen: What is known before anything is compiled.
        leaving: Where each output holds the examples.
        many: Whether several questions are asked.
    """

    stages: Stages
    settings: Settings
    imported: Imported
    known: Known
    feeds: dict[str, np.ndarray]
    reference: Mapping[str, np.ndarray]
    seen: Outline
    leaving: tuple[Leaving, ...] | None
    many: bool

    def about(self, question: int) -> AbstractContextManager[None]:
        """Where several are asked, errors say which question they are about."""
        return about(question) if self.many else nullcontext()

    def forms(self, asked: Asked | Questions) -> dict[Form, dict[int, Posed]]:
        """The questions by their places, those of one form together."""
        shapes = tuple((name, array.shape[1:]) for name, array in self.feeds.items())
        count, found = len(next(iter(self.feeds.values()))), {}
        for i, one in enumerate(asked.listed(self.seen)):
            with self.about(i):
                posed = understood(self.seen, one, count)
            form = posed.form(shapes, tuple(self.reference), self.seen.rows, self.leaving, many=self.many)
            found.setdefault(form, {})[i] = posed
        return found

    def constants(self, form: Form, posed: Mapping[int, Posed]) -> dict[int, Constant]:
        """What all examples share, by the places of questions of one form."""
        with self.about(min(posed)) if form.conditions else nullcontext():
            planned = self.stages.planned(self.known, form)
        found = {}
        for i, one in posed.items():
            with self.about(i):
                found[i] = shared(planned, self.reference, one.restricted)
        return found

    def started(self, compiled: Compiled, posed: Mapping[int, Posed], constant: Constant) -> list[Question]:
        """The questions, with the starts that the user's functions make of the output."""
        if not any(callable(one.asked.start) for one in posed.values()):
            return [one.question for one in posed.values()]
        blank = posed[min(posed)].question
        outputs = outputs_of(compiled, self.feeds, blank, constant, self.seen)[compiled.output_name]
        found = []
        for i, one in posed.items():
            with self.about(i):
                found.append(one.started(outputs, self.seen))
        return found

    def answered(
        self, form: Form, posed: Mapping[int, Posed], constants: Mapping[int, Constant], progress: Progress
    ) -> Iterator[tuple[int, Explanation]]:
        """Explanations with the places of their questions, which are of one form."""
        compiled = self.stages.compiled(self.known, form)
        examples, constant = stacked(compiled, self.feeds), constants[min(posed)]
        questions = self.started(compiled, posed, constant)
        if self.many:
            asking = together(compiled, questions, [*constants.values()])
            results = compiled.run_many(examples, asking, constant._replace(masks={}), progress)
        else:
            results = [compiled.run(examples, grouped(compiled, questions[0]), constant, progress)]
        for i, question, result in zip(posed, questions, results, strict=True):
            with self.about(i):
                given = self.imported, self.feeds, question, constants[i], result
                yield i, as_explanation(compiled, self.stages.told(self.known, form), *given)


@dataclass(frozen=True)
class Understood:
    """What a call asks, found to have an answer; nothing is compiled yet."""

    call: _Call
    forms: dict[Form, dict[int, Posed]]
    constants: Mapping[Form, Mapping[int, Constant]]
    progress: Progress

    def explanations(self) -> list[Explanation]:
        """The answers, in the order of the questions."""
        found: dict[int, Explanation] = {}
        for form, posed in self.forms.items():
            progress = _part_of(self.progress, len(found), len(posed), sum(map(len, self.forms.values())))
            found.update(self.call.answered(form, posed, self.constants[form], progress))
        return [found[i] for i in sorted(found)]

    @property
    def derived_bytes(self) -> int:
        """Memory of what the function compiled last keeps of the weights."""
        return self._compiled([*self.forms][-1]).explain.derived_bytes

    @property
    def flops(self) -> float:
        """Floating-point operations of the forward passes that explaining one example takes, loops as often as run."""
        compiled = self._compiled([*self.forms][-1])
        return work(compiled.program, compiled.effort) * compiled.request.mode.walks / compiled.rows

    @property
    def channels(self) -> dict[str, int]:
        """Axis of the channels within one example, of the inputs and layers in which it is known."""
        compiled = self._compiled(next(reversed(self.forms)))
        graph, layers = compiled.program.graph, compiled.request.layers
        made, ranks = channel_axes(graph), {var.name: len(var.shape) for var in graph.variables()}
        made = {name: axis % (ranks[name] - 1) + 1 if name in graph.turned else axis for name, axis in made.items()}
        found = {**{name: made[var] for name, var in layers.items() if var in made}, **input_channel_axes(graph)}
        return {name: axis - 1 for name, axis in found.items() if axis}

    @property
    def probability(self) -> bool:
        """Whether the explained output holds probabilities."""
        return self.call.seen.answer.probability

    @property
    def convolutional(self) -> bool:
        """Whether the network has convolutions."""
        return self.call.stages.told(self.call.known, next(reversed(self.forms))).convolutional

    def forward(self, found: Explanation) -> Forward:
        """The forward pass of the explanation that was found, for other inputs of the same shapes."""
        form, posed = next(iter(self.forms.items()))
        constant, question = self.constants[form][min(posed)], posed[min(posed)].question

        def run(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            count = len(next(iter(arrays.values())))
            if all(np.array_equal(array, self.call.feeds[name][:count]) for name, array in arrays.items()):
                return {name: array[:count] for name, array in found.outputs.items()}
            return outputs_of(self._compiled(form), arrays, question, constant, self.call.seen)

        return Forward(run, [each.name for each in self.call.leaving or () if each.refused])

    def _compiled(self, form: Form) -> Compiled:
        return self.call.stages.compiled(self.call.known, form)


def understand(
    stages: Stages,
    settings: Settings,
    imported: Imported,
    feeds: dict[str, np.ndarray],
    asked: Asked | Questions,
    together: int | None = None,
) -> Understood:
    """What a call asks of an import as it is; mistakes in any question are named before anything is compiled.

    Args:
        stages: The way to compiled functions.
        settings: The choices.
        imported: The model.
        feeds: The inputs by name, batch first.
        asked: What is asked.
        together: Examples of which it is proven that the model keeps them apart; None: of as many as there are.
    """
    reference = read_baseline(asked.baseline, feeds, find_mode(settings.mode))
    arranged = stages.arranged(imported)
    known, shapes = arranged.known, tuple((name, array.shape[1:]) for name, array in feeds.items())
    count = len(next(iter(feeds.values())))
    leaving = stages.leaving(known, shapes, count if together is None or arranged.rows > 1 else together)
    seen = stages.outline(known, shapes, arranged.rows, leaving)
    check_indices(feeds, seen.tables)
    call = _Call(stages, settings, imported, known, feeds, reference, seen, leaving, asked.many)
    forms = call.forms(asked)
    constants = {form: call.constants(form, posed) for form, posed in forms.items()}
    return Understood(call, forms, constants, asked.progress)


def _part_of(progress: Progress, before: int, now: int, total: int) -> Progress:
    """The progress of all questions, of which some are answered and others are under way."""
    if progress is None or now == total:
        return progress
    return lambda done, of: progress(of // now * before + done, of // now * total)


@contextmanager
def about(question: int) -> Iterator[None]:
    """Inside, errors say which question of several they are about."""
    try:
        yield
    except BacktraceError as error:
        error.args = (f"question {question}: {error.args[0]}", *error.args[1:])
        raise
