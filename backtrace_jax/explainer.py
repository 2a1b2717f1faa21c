"""`explain` and `Explainer`: from a model and inputs to an Explanation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from functools import lru_cache
from typing import Any, Unpack

import jax
import numpy as np

from .arguments import fields_of, with_fields
from .asking import Asked, grouped, outputs_of, shared, stacked, understood
from .cautions import warn
from .compiled import Form
from .constants import named_conditions, read_baseline
from .differentiating import check_gradient, halfway
from .errors import ImportMismatchError, NumericsError, SettingError
from .explanation import Explanation
from .feeds import Inputs, check_indices, read_inputs, refuse_datasets
from .given import Given, GivenBeside, GivenQuestion, GivenSettings
from .importers import Imported, read
from .importers.comparison import compare
from .layout import axes_of, batch_first, inputs_first, rows_of
from .processes import enter
from .results import as_explanation
from .rules import MODES, Once, find_mode
from .settings import EVERY, FIRST, Settings
from .specialising import Deciding
from .stages import Known, Stages
from .targets import read_start
from .texts import shown

_OPTIONS = {
    option: f"mode=mode({name!r}, {option}=...)" for name, entry in [*MODES.items()][::-1] for option in entry.defaults
}
_SETTINGS = {each.name: f"Explainer(model, {each.name}=...)" for each in fields(Settings)}
_ASKED = {each.name: f"explainer(inputs, {each.name}=...)" for each in fields(Asked)}
_AS_ASKED = ("wrt", "chunk", "dtype", "precision", "batch_axis")  # settings that a compared gradient is taken with
_EXPLAINERS_KEPT = 4  # explainers `explain` keeps, so that a second call compiles nothing


class Explainer:
    """Explains one model with one choice of settings; compiles once per input shape and is called many times.

    Attributes:
        settings: The choices.
        device: Where it runs.
        derived_bytes: Memory that the function compiled last keeps for what the rules make of the weights (`prepare`).
    """

    @with_fields(Settings, elsewhere=_OPTIONS | _ASKED)
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

    @with_fields(Asked, elsewhere=_OPTIONS | _SETTINGS)
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
        self._imported, found = self._explain_proven(self._imported, inputs, Asked(**asked))
        return found

    def _explain_proven(self, imported: Imported, inputs: Inputs, asked: Asked) -> tuple[Imported, Explanation]:
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
                self._gradients[output] = _made(Known.of(imported), settings)
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


@with_fields(Asked, Settings, elsewhere=_OPTIONS)
def explain(model: Any, inputs: Inputs, **chosen: Unpack[Given]) -> Explanation:
    """Why did the model answer as it did? Relevance of every input for one answer per example.

    A second call with the same model, settings and shapes compiles nothing.

    Args:
        model: Path of an ONNX file, an onnx.ModelProto, a PyTorch module, or a Keras model or its file.
        inputs: An array, a tuple of arrays in the model's order, or a dict by input name; batch first. With a PyTorch
            module also tensors and encodings, with a Keras model also text where it takes text.
        mode: Which rules share relevance out: a name (`backtrace-jax modes` lists them), `mode(name, option=...)`, or a
            `composite` of your own.
        task: What kind of answer the output is: "auto", "binary-classification", "multi-class classification",
            "bbox-regression", "binary-segmentation", "multi-class-segmentation", "next-token",
            "token-classification", "span-qa", ...; one that the output does not fit is refused. "auto" reads it from
            the graph: one number is a class if it is a probability, else a quantity; a row of numbers is one of
            classes, or a regression where an autoencoder restored its input; the axis of the last softmax holds the
            classes of places; one channel of probabilities over a picture is a mask; as many classes as the table of
            tokens has rows are next tokens. What it chose is in the fingerprint ("task", "class_axis"); what stays open
            is asked back.
        target: Class explained: None (the predicted one), an integer (negative: from the end), one integer per
            example, or a tuple indexing the output's axes. For a regression the output explained (None: all of them in
            equal parts). On a single unit 1 explains it and 0 explains class 0, whose start is reversed (in
            contrastive mode the two channels change places); None starts at the unit as 1 does, whatever is predicted.
        against: Class that the target is contrasted with ("why 3 rather than 5"), or one per example; a tuple where the
            target takes one.
        position: For sequences, the position explained (negative: from the end), or one per example. By default the
            last one for "next-token", all in equal parts for "token-classification".
        output: Name or index of the output explained, by default the first that holds floats; or the name of a value or
            module inside the model, whose most active unit (or `target`) is explained.
        scaler: Total relevance handed out; None: the output's own value, and in gradient modes the plain derivative.
        thresholding: Value of the output above which a unit belongs to a segmentation mask.
        class_axis: Axis of the output (0 is the batch) that holds the classes of a segmentation or sequence, where the
            graph does not tell it (no softmax, no channels, as behind a Reshape).
        start: Start relevance itself instead of a task: an array shaped like the output, or a function
            that makes one from the explained output's array. In contrastive mode its negative part speaks against.
        baseline: Reference input for "deeplift" and "integrated-gradients": None or "zero", an array shaped like one
            example (tokens: the ids of a reference text), an array of examples whose mean it is, or a dict of these.
        conditions: Restricts the flow: by name of a value or module, a mask from 0 to 1 that broadcasts against the
            value (without batch axis), or a list of the channels to keep, whichever axis the layer has them on (units
            of a dense layer are last). What it cuts off is booked as dead.
        layers: Intermediate relevance to keep: "all", or names and globs of values and modules. A module that is called
            several times gives each call, as `name`, `name:1`, ...; `output` and `conditions` name one, the first as
            `name:0`.
        wrt: Names of the inputs that bear relevance; None: all floats, and integers that look up rows of a table, and
            where there are neither, integers and booleans as the quantities they stand for (beside others those
            have to be named here).
        chunk: Examples per compiled call, 1 or a multiple of 8; by default chosen from the model and the device.
        dtype: What is computed in: "float32", or "float64" for audits. Models in half precision are no exception: only
            where they cast to it themselves are numbers rounded to it. Outputs and relevance come in this type.
        precision: Of contractions: "highest" (full float32), "high" or "default" (the backend's fastest).
        batch_axis: Axis of the batch in the inputs; None for a model without batch, whose inputs are one example; or
            one by input name, None where all examples share the input. The Explanation has the batch first in any
            case. A model that does to several examples what it does not do to each alone is refused.
        prepare: Whether what the rules make of the weights, such as their magnitudes, is made once and kept: faster,
            above all for single examples, at the price of memory (`Explainer.derived_bytes`).
        prove: How often a PyTorch or Keras model is run to compare its outputs with those explained: "every" call, so
            that a model that was changed, or goes another way on these inputs, is imported anew or refused; or the
            "first" only, which saves a forward pass and trusts that the model stays as it is. Gradient modes compare
            the gradient as well where a PyTorch module may tell autograd another one (detach, no_grad, hooks, a
            backward of its own).
        progress: Called with (examples done, examples in all).

    Returns:
        Relevance by input name, the outputs, and a ledger of where all start relevance went.

    Raises:
        BacktraceError: The one root of all errors, each naming what is wrong and what to do.
    """
    enter()
    refuse_datasets(inputs)
    asked, settings = Asked(**fields_of(Asked, chosen)), Settings.of(**fields_of(Settings, chosen))
    imported = read(model, inputs, settings.axes)
    return _kept_explainer(Known.of(imported), settings)._explain_proven(imported, inputs, asked)[1]


@lru_cache(_EXPLAINERS_KEPT)
def _kept_explainer(known: Known, settings: Settings) -> Explainer:
    return _made(known, settings)


def _made(known: Known, settings: Settings) -> Explainer:
    chosen = {each.name: getattr(settings, each.name) for each in fields(settings)}
    return Explainer(known.model, **{**chosen, "batch_axis": settings.axes})
