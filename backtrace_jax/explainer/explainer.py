"""`Explainer`: one model with one choice of settings, from inputs to an Explanation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, Unpack

import jax
import numpy as np

from backtrace_jax.batch.layout import axes_of, batch_first, inputs_first, rows_of
from backtrace_jax.engine.compiled import Form
from backtrace_jax.errors import ImportMismatchError, NumericsError, SettingError
from backtrace_jax.errors.arguments import with_fields
from backtrace_jax.errors.texts import shown
from backtrace_jax.explanation.cautions import warn
from backtrace_jax.explanation.explanation import Explanation
from backtrace_jax.importers import read
from backtrace_jax.importers.comparison import compare
from backtrace_jax.ir.imported import Imported
from backtrace_jax.question.constants import named_conditions, read_baseline
from backtrace_jax.question.feeds import Inputs, check_indices, read_inputs, refuse_datasets
from backtrace_jax.question.settings import EVERY, FIRST, Settings
from backtrace_jax.question.targets import read_start
from backtrace_jax.rules import MODES, Once, find_mode
from backtrace_jax.runtime.processes import enter

from .asking import Asked, grouped, outputs_of, shared, stacked, understood
from .differentiating import check_gradient, halfway
from .given import GivenBeside, GivenQuestion, GivenSettings
from .results import as_explanation
from .specialising import Deciding
from .stages import Known, Stages

OPTIONS = {
    option: f"mode=mode({name!r}, {option}=...)" for name, entry in [*MODES.items()][::-1] for option in entry.defaults
}
_SETTINGS = {each.name: f"Explainer(model, {each.name}=...)" for each in fields(Settings)}
_ASKED = {each.name: f"explainer(inputs, {each.name}=...)" for each in fields(Asked)}
_AS_ASKED = ("wrt", "chunk", "dtype", "precision", "batch_axis")  # settings that a compared gradient is taken with


class Explainer:
    """Explains one model with one choice of settings; compiles once per input shape and is called many times.

    Attributes:
        settings: The choices.
        device: Where it runs.
        derived_bytes: Memory that the function compiled last keeps for what the rules make of the weights (`prepare`).
    """

    @with_fields(Settings, elsewhere=OPTIONS | _ASKED)
    def __init__(self, model: Any, *, example: Inputs = None, **settings: Unpack[GivenSettings]) -> None:
        """Read the model and check the settings.

        Args:
            model: As `explain` takes it.
            example: Inputs that a PyTorch module is traced with.
            settings: As `explain` takes them: mode, task, output, scaler, thresholding, class_axis, layers, wrt, chunk,
                dtype, precision, batch_axis, prepare, prove.

        Raises:
            ModelError: When the model cannot be read.
            SettingError: When a setting does not exist.
        """
        enter()
        refuse_datasets(example)
        self.settings = Settings.of(**settings)
        self.device = jax.devices()[0]
        self._imported = read(model, example, self.settings.axes)
        if example is not None and self._imported.feed is None:
            raise SettingError("example= is what a PyTorch module is traced with; a file needs none: leave it out")
        self._inputs_of(self._imported)
        self._proven: Known | None = None
        self._gradients: dict[str, Explainer] = {}
        self._deciding = Deciding()
        self._stages = Stages(self.settings, self.device)
        self.derived_bytes = 0

    @with_fields(Asked, elsewhere=OPTIONS | _SETTINGS)
    def __call__(self, inputs: Inputs, **asked: Unpack[GivenQuestion]) -> Explanation:
        """Explain a batch of inputs.

        Args:
            inputs: As `explain` takes them.
            asked: Likewise: target, against, position, start, baseline, conditions, progress.
        """
        enter()
        refuse_datasets(inputs)
        source = self._imported.source
        if source is not None and self.settings.prove == EVERY:
            self._imported = source.read(inputs)
        self._imported, found = self.explained(self._imported, inputs, Asked(**asked))
        return found

    def explained(self, imported: Imported, inputs: Inputs, asked: Asked) -> tuple[Imported, Explanation]:
        """Explain a batch by an import whose outputs are those of its source; it is made anew where they are not."""
        if imported.source is None or (self.settings.prove == FIRST and self._proven == Known.of(imported)):
            found = self._explain(imported, inputs, asked)
        else:
            imported, found = self._explain_until_proven(imported, inputs, asked)
        warn(found.warnings)
        return imported, found

    def _explain_until_proven(self, imported: Imported, inputs: Inputs, asked: Asked) -> tuple[Imported, Explanation]:
        assert imported.source is not None
        try:
            found = self._explain_compared(imported, inputs, asked)
        except (ImportMismatchError, NumericsError):
            imported = imported.source.read(inputs, anew=True)
            found = self._explain_compared(imported, inputs, asked)
        self._proven = Known.of(imported)
        return imported, found

    def _explain_compared(self, imported: Imported, inputs: Inputs, asked: Asked) -> Explanation:
        """Explain a batch, and compare its outputs with those of the source.

        Raises:
            ImportMismatchError: When they disagree, with both values.
        """
        assert imported.source is not None
        feeds = self._feeds(imported, inputs)
        expected = imported.source.answer(feeds)  # first: what cannot be called is not compiled
        found = self._explain(imported, inputs, asked)
        floats = {
            name: array
            for name, array in expected.items()
            if array.dtype.kind not in "biu" and name in found.outputs  # those that mix examples are not told
        }
        unsettled = compare(imported, found.outputs, floats, feeds, {found.output: found.target})
        self._check_gradient(imported, feeds, expected, found.output)
        return replace(found, warnings=(*found.warnings, *unsettled)) if unsettled else found

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
                self._gradients[output] = made(Known.of(imported), settings)
            return self._gradients[output]._explain_by_feeds(imported, dict(feeds), Asked(start=start)).relevance

        places = [feeds] if isinstance(mode.procedure, Once) else [feeds, halfway(feeds)]
        check_gradient(imported, places, answer, output, derivative)

    def _inputs_of(self, imported: Imported) -> Imported:
        return batch_first(imported, axes_of(imported, self.settings.axes))

    def _feeds(self, imported: Imported, inputs: Inputs) -> dict[str, np.ndarray]:
        declared, axes = self._inputs_of(imported).inputs, axes_of(imported, self.settings.axes)
        given = inputs_first(imported.arrays(inputs), [entry.name for entry in declared], axes)
        return read_inputs(given, declared, axes)

    def _explain(self, imported: Imported, inputs: Inputs, asked: Asked) -> Explanation:
        return self._explain_by_feeds(imported, self._feeds(imported, inputs), asked)

    def _explain_by_feeds(self, imported: Imported, feeds: dict[str, np.ndarray], asked: Asked) -> Explanation:
        """Explain a batch by an import, specialised to the inputs that decide what is computed."""
        axes = axes_of(imported, self.settings.axes)
        if imported.prove is not None:
            imported.prove(feeds)
        wrt = self.settings.wrt
        return self._deciding.settled(
            imported, axes, feeds, lambda settled: self._explain_as(settled, feeds, asked), wrt
        )

    def _explain_as(self, imported: Imported, feeds: dict[str, np.ndarray], asked: Asked) -> Explanation:
        """Explain a batch by an import as it is."""
        restricted = named_conditions(asked.conditions)
        reference = read_baseline(asked.baseline, feeds, find_mode(self.settings.mode))
        known, rows = Known.of(imported), rows_of(self._inputs_of(imported).inputs)
        shapes = tuple((name, array.shape[1:]) for name, array in feeds.items())
        count = len(next(iter(feeds.values())))
        leaving = self._stages.leaving(known, shapes, count)
        seen = self._stages.outline(known, shapes, rows, leaving)
        check_indices(feeds, seen.tables)
        task, question, start = understood(seen, self.settings, asked, count)
        form = Form(
            shapes,
            task,
            custom=start is not None,
            contrasted=asked.against is not None,
            reference=tuple(reference),
            conditions=tuple(restricted),
            rows=rows,
            leaving=leaving,
        )
        constant = shared(self._stages.planned(known, form), reference, restricted)
        compiled = self._stages.compiled(known, form)
        self.derived_bytes = compiled.explain.derived_bytes
        examples = stacked(compiled, feeds)
        if callable(start):
            outputs = outputs_of(compiled, examples, question, constant, seen)
            question = question._replace(start=read_start(asked.started(outputs), count, seen.one))
        result = compiled.run(examples, grouped(compiled, question), constant, asked.progress)
        return as_explanation(compiled, self.settings, imported, feeds, question, constant, result)

    def each(self, inputs: Inputs, targets: Any, **asked: Unpack[GivenBeside]) -> list[Explanation]:
        """Explain several targets of the same inputs: one Explanation for each, as `__call__` takes `target`."""
        if "target" in asked:
            raise SettingError("each takes its targets as a list; leave target= out")
        if isinstance(targets, str) or not hasattr(targets, "__iter__") or getattr(targets, "ndim", 1) == 0:
            raise SettingError(f"targets must be a list, one target for each explanation, found {shown(targets)}")
        return [self(inputs, target=target, **asked) for target in targets]

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Say how an explainer reaches another process; copies would be compiled anew just the same.

        Raises:
            SettingError: Always.
        """
        raise SettingError(
            "an Explainer holds compiled functions, which are neither copied nor pickled; make one from the model's "
            "file where it is needed (of a module or Keras model, the file that export(model, path) writes)"
        )


def made(known: Known, settings: Settings) -> Explainer:
    """An explainer of a model that has been read."""
    chosen = {each.name: getattr(settings, each.name) for each in fields(settings)}
    return Explainer(known.model, **{**chosen, "batch_axis": settings.axes})
