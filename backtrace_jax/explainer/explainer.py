"""`Explainer`: one model with one choice of settings, from inputs to an Explanation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any, Unpack

import numpy as np

from backtrace_jax.batch.layout import examples_in_front, inputs_first, own_inputs
from backtrace_jax.errors import ImportMismatchError, NumericsError, SettingError
from backtrace_jax.errors.arguments import choice, fields_of, with_fields
from backtrace_jax.explanation.cautions import warn
from backtrace_jax.explanation.explanation import Explanation
from backtrace_jax.importers import read
from backtrace_jax.importers.comparison import compare
from backtrace_jax.ir.imported import Imported, InputType
from backtrace_jax.question.feeds import Inputs, read_inputs, refuse_datasets
from backtrace_jax.question.settings import EVERY, FIRST, Settings
from backtrace_jax.rules import MODES, Once, find_mode
from backtrace_jax.runtime.machine import local_devices
from backtrace_jax.runtime.processes import enter
from backtrace_jax.sources import PLAIN, Carry, Reading, Source, carrying, open_source

from .answering import Understood, understand
from .asking import Asked
from .differentiating import check_gradient, halfway
from .given import GivenQuestion, GivenQuestions, GivenSettings, GivenStream
from .portable import Portable
from .questions import Questions
from .specialising import Deciding
from .stages import Known, Stages
from .streaming import ON_ERROR, RAISE, Asking, streamed

OPTIONS = {
    option: f"mode=mode({name!r}, {option}=...)" for name, entry in [*MODES.items()][::-1] for option in entry.defaults
}
PAIR = 2  # examples of a source that are proven to be kept apart, once for blocks of all sizes
_SETTINGS = {each.name: f"Explainer(model, {each.name}=...)" for each in fields(Settings)}
_ASKED = {each.name: f"explainer(inputs, {each.name}=...)" for each in fields(Asked)}
ENTRIES = {"target": "explainer.each(inputs, targets=[...])"}
_AS_ASKED = ("wrt", "chunk", "dtype", "precision", "batch_axis")  # settings that a compared gradient is taken with


class Explainer(Portable):
    """Explains one model with one choice of settings; compiles once per input shape and is called many times.

    Attributes:
        settings: The choices.
        device: Where it runs, and what is explained alone.
        derived_bytes: Memory that the function compiled last keeps for what the rules make of the weights (`prepare`).
    """

    @with_fields(Settings, elsewhere=OPTIONS | _ASKED)
    def __init__(self, model: Any, *, example: Inputs = None, **settings: Unpack[GivenSettings]) -> None:
        """Read the model and check the settings.

        Args:
            model: As `explain` takes it.
            example: Inputs that a PyTorch module or JAX model is traced with.
            settings: As `explain` takes them: mode, task, output, scaler, thresholding, class_axis, layers, wrt, chunk,
                dtype, precision, batch_axis, prepare, prove, ledger, memory, devices.

        Raises:
            ModelError: When the model cannot be read.
            SettingError: When a setting does not exist.
        """
        enter()
        refuse_datasets(example)
        self.settings = Settings.of(**settings)
        devices = local_devices(self.settings.devices)
        self.device = devices[0]
        self._imported = read(model, example, self.settings.axes, proven=False)
        if example is not None and self._imported.feed is None:
            raise SettingError(
                "example= is what a PyTorch module or JAX model is traced with; a file needs none: leave it out"
            )
        self._proven: Known | None = None
        self._gradients: dict[str, Explainer] = {}
        self._deciding = Deciding()
        self._stages = Stages(self.settings, devices)
        self._stages.arranged(self._imported)
        self.derived_bytes = 0

    @with_fields(Asked, elsewhere=OPTIONS | _SETTINGS)
    def __call__(self, inputs: Inputs, **asked: Unpack[GivenQuestion]) -> Explanation:
        """Explain a batch of inputs.

        Args:
            inputs: As `explain` takes them.
            asked: Likewise: target, against, position, start, baseline, conditions, progress.
        """
        return self._called(inputs, Asked(**asked))[0]

    @with_fields(Questions, elsewhere=OPTIONS | _SETTINGS | ENTRIES)
    def each(self, inputs: Inputs, targets: Any = None, **asked: Unpack[GivenQuestions]) -> list[Explanation]:
        """Explain several answers about the same inputs, from one forward pass and one gathering of evidence.

        What is listed is combined entry by entry: the first explanation is of the first target at the first position,
        and so on. All of them hold the same arrays of inputs and outputs. An answer has the same bytes whatever else is
        asked; from those of a call of its own it may differ by rounding (docs/questions.md).

        Args:
            inputs: As `explain` takes them.
            targets: What `explain` takes as target, for each question; an array [batch, questions] of one class per
                example and question; or "all": every class.
            asked: positions: what `explain` takes as position, for each question; an array [batch, questions]; or
                "all": every position of a sequence. conditions, against: one for each question as a list, or one for
                all. starts: a start relevance for each question. And for all of them: position, start, baseline,
                progress (called with answers done, answers in all).

        Returns:
            An Explanation for each question.

        Raises:
            SettingError: When lists do not fit together.
            BacktraceError: What `explain` raises, naming the question by its place in the list, from 0.
        """
        return self._called(inputs, Questions(targets, **asked))

    @with_fields(Asked, Reading, elsewhere=OPTIONS | _SETTINGS)
    def stream(
        self,
        source: Any,
        *,
        batch: int | None = None,
        on_error: str = RAISE,
        carry: Carry = (),
        **asked: Unpack[GivenStream],
    ) -> Iterator[Explanation]:
        """Explain a source of any length, consecutive examples at a time; the next are read meanwhile.

        Args:
            source: What `explain_dataset` takes.
            batch: Examples of an explanation; by default as many as are some 16 MiB of inputs, 4,096 at most.
            on_error: "raise", or "record": examples that cannot be explained are left out.
            carry: As `explain_dataset` takes it.
            asked: As `explain` takes it; target, against, position and start may be arrays with an entry for each
                example of the source, and the first three the name of a column of it. And how the source is read, as
                `explain_dataset` takes it.

        Returns:
            An iterator of explanations. Texts of different lengths come in an explanation for each length.

        Raises:
            BacktraceError: What `explain` raises, naming the example by its place in the source.
        """
        asking, reading = Asking(Asked(**fields_of(Asked, asked))), Reading(**fields_of(Reading, asked))
        choice("on_error", on_error, ON_ERROR)
        opened = self.source(source, carrying(carry, asking.columns), reading)
        asking.check(opened.count)
        return streamed(self.explain_first, opened, asking, batch, on_error)

    def source(self, given: Any, carry: Carry = (), reading: Reading = PLAIN) -> Source:
        """What the user gives as a source of this model's inputs, and of columns that travel along."""
        axes = examples_in_front(self._stages.arranged(self._imported).axes)
        return open_source(given, self._open_inputs(), axes, carry, reading)

    def _open_inputs(self) -> list[InputType]:
        """The declared inputs; sequences of tokens that a module was traced with were of one of many lengths."""
        own = self._imported.inputs
        if self._imported.source is None:
            return [*own]
        return [each if each.dtype.kind == "f" or not each.dims else _of_any_size(each) for each in own]

    def first(self, inputs: Inputs) -> dict[str, np.ndarray]:
        """Inputs as `explain` takes them, by name, examples in front."""
        return self._feeds(self._imported, inputs)

    def explain_first(self, inputs: Mapping[str, np.ndarray], asked: Asked) -> Explanation:
        """Explain inputs by name, examples in front whatever axis the model has them on; nothing is warned of."""
        enter()
        if self._imported.source is not None:
            own = own_inputs(inputs, self._stages.arranged(self._imported).axes)
            return self._called(own, asked)[0]
        return self._answered(self.understood_first(inputs, asked))[0]

    def understood_first(self, inputs: Mapping[str, np.ndarray], asked: Asked) -> Understood:
        """What is asked of such inputs."""
        feeds = read_inputs(inputs, self._stages.arranged(self._imported).inputs)
        return self._understood(self._imported, feeds, asked, together=PAIR)

    def _called(self, inputs: Inputs, asked: Asked | Questions) -> list[Explanation]:
        enter()
        refuse_datasets(inputs)
        source = self._imported.source
        if source is not None and self.settings.prove == EVERY:
            self._imported = source.read(inputs)
        self._imported, found = self.explained(self._imported, inputs, asked)
        return found

    def explained(
        self, imported: Imported, inputs: Inputs, asked: Asked | Questions
    ) -> tuple[Imported, list[Explanation]]:
        """Explain a batch by an import whose outputs are those of its source; it is made anew where they are not."""
        once = self.settings.prove == FIRST and self._proven == self._stages.arranged(imported).known
        if imported.source is None or once:
            found = self._explain(imported, inputs, asked)
        else:
            imported, found = self._explain_until_proven(imported, inputs, asked)
        warn([*dict.fromkeys(line for each in found for line in each.warnings)])
        return imported, found

    def _explain_until_proven(
        self, imported: Imported, inputs: Inputs, asked: Asked | Questions
    ) -> tuple[Imported, list[Explanation]]:
        assert imported.source is not None
        try:
            found = self._explain_compared(imported, inputs, asked)
        except (ImportMismatchError, NumericsError):
            imported = imported.source.read(inputs, anew=True)
            found = self._explain_compared(imported, inputs, asked)
        self._proven = self._stages.arranged(imported).known
        return imported, found

    def _explain_compared(self, imported: Imported, inputs: Inputs, asked: Asked | Questions) -> list[Explanation]:
        """Explain a batch, and compare its outputs with those of the source.

        Raises:
            ImportMismatchError: When they disagree, with both values.
        """
        assert imported.source is not None
        feeds = self._feeds(imported, inputs)
        ready = self._understood(imported, feeds, asked)
        expected = imported.source.answer(feeds)  # before ours is compiled: there may be none
        found = self._answered(ready)
        if imported.prove is not None:
            once = isinstance(find_mode(self.settings.mode).procedure, Once)  # a path takes many forward passes
            imported.prove(feeds, ready.forward(found[0]) if once else None)
        floats = {
            name: array
            for name, array in expected.items()
            if array.dtype.kind not in "biu" and name in found[0].outputs  # those that mix examples are not told
        }
        unsettled = [compare(imported, each.outputs, floats, feeds, {each.output: each.target}) for each in found]
        self._check_gradient(imported, feeds, expected, found[0].output)
        both = zip(found, unsettled, strict=True)
        return [replace(each, warnings=(*each.warnings, *lines)) if lines else each for each, lines in both]

    def _check_gradient(
        self, imported: Imported, feeds: dict[str, np.ndarray], answer: Mapping[str, np.ndarray], output: str
    ) -> None:
        """Compare the gradient with that of the source, in modes that take one."""
        mode = find_mode(self.settings.mode)
        if mode.conserving:
            return

        def derivative(feeds: Mapping[str, np.ndarray], output: str, start: np.ndarray) -> Mapping[str, np.ndarray]:
            if output not in self._gradients:
                kept = {name: getattr(self.settings, name) for name in _AS_ASKED}
                settings = Settings(mode="gradient", output=output, **kept)
                self._gradients[output] = made(Known.of(imported).model, settings)
            return self._gradients[output]._explain_by_feeds(imported, dict(feeds), Asked(start=start))[0].relevance

        places = [feeds] if isinstance(mode.procedure, Once) else [feeds, halfway(feeds)]
        check_gradient(imported, places, answer, output, derivative)

    def _feeds(self, imported: Imported, inputs: Inputs) -> dict[str, np.ndarray]:
        arranged = self._stages.arranged(imported)
        given = inputs_first(imported.arrays(inputs), [entry.name for entry in arranged.inputs], arranged.axes)
        return read_inputs(given, arranged.inputs, arranged.axes)

    def _explain(self, imported: Imported, inputs: Inputs, asked: Asked | Questions) -> list[Explanation]:
        return self._explain_by_feeds(imported, self._feeds(imported, inputs), asked)

    def _explain_by_feeds(
        self, imported: Imported, feeds: dict[str, np.ndarray], asked: Asked | Questions
    ) -> list[Explanation]:
        return self._answered(self._understood(imported, feeds, asked))

    def _understood(
        self,
        imported: Imported,
        feeds: dict[str, np.ndarray],
        asked: Asked | Questions,
        together: int | None = None,
    ) -> Understood:
        """What is asked of an import, specialised to the inputs that decide what is computed; nothing is compiled."""

        def attempt(settled: Imported) -> Understood:
            return understand(self._stages, self.settings, settled, feeds, asked, together)

        axes = self._stages.arranged(imported).axes
        return self._deciding.settled(imported, axes, feeds, attempt, self.settings.wrt)

    def _answered(self, ready: Understood) -> list[Explanation]:
        found = ready.explanations()
        self.derived_bytes = ready.derived_bytes
        return found


def made(model: Imported, settings: Settings) -> Explainer:
    """An explainer of a model that has been read."""
    chosen = {each.name: getattr(settings, each.name) for each in fields(settings)}
    return Explainer(model, **{**chosen, "batch_axis": settings.axes})


def _of_any_size(known: InputType) -> InputType:
    return replace(known, dims=(None,) * len(known.dims or ()))
