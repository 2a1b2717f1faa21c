"""`explain` and `Explainer`: from a model and inputs to an Explanation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from .compiled import Compiled, Shapes, compile_model
from .errors import SettingError
from .explanation import Explanation
from .feeds import Inputs, read_inputs
from .importers import Imported, read
from .results import as_explanation, joined, unbatched
from .settings import Settings, as_names
from .tasks import read_targets

Progress = Callable[[int, int], None]
_SHAPES_KEPT = 8  # compiled functions an Explainer keeps, one per input shape
_EXPLAINERS_KEPT = 4  # explainers `explain` keeps, so that a second call compiles nothing


class Explainer:
    """Explains one model with one choice of settings; compiles once per input shape and is called many times."""

    def __init__(
        self,
        model: Any,
        *,
        mode: str = "default",
        task: str = "auto",
        output: str | int | None = None,
        scaler: float | None = 1.0,
        thresholding: float = 0.5,
        layers: str | Sequence[str] | None = None,
        wrt: str | Sequence[str] | None = None,
        chunk: int | None = None,
        dtype: str = "float32",
        precision: str = "highest",
    ) -> None:
        """Read the model and check the settings; `explain` says what they mean.

        Raises:
            ModelError: When the model cannot be read.
            SettingError: When a setting does not exist.
        """
        self.settings = Settings(
            mode, task, output, scaler, thresholding, as_names(layers), as_names(wrt), chunk, dtype, precision
        )
        self.device = jax.devices()[0]
        self._model = read(model)
        self._compiled = lru_cache(_SHAPES_KEPT)(self._compile)

    def __call__(
        self, inputs: Inputs, *, target: Any = None, start: Any = None, progress: Progress | None = None
    ) -> Explanation:
        """Explain a batch of inputs; `explain` says what the arguments mean."""
        feeds = read_inputs(inputs, self._model.inputs)
        shapes = tuple((name, array.shape[1:]) for name, array in feeds.items())
        compiled = self._compiled(shapes, start is not None)
        result = compiled.run(_examples(compiled, feeds, target, start), progress)
        return as_explanation(compiled, self.settings, self._model.sha256, feeds, result)

    def _compile(self, shapes: Shapes, custom: bool) -> Compiled:
        return compile_model(self._model, self.settings, self.device, shapes, custom=custom)


def _examples(compiled: Compiled, feeds: Mapping[str, np.ndarray], target: Any, start: Any) -> Any:
    """What the compiled function takes: inputs, targets and start relevance, batch first."""
    count = len(next(iter(feeds.values())))
    targets = read_targets(target, count, compiled.output, compiled.request.task)
    types = {var.name: var.dtype for var in compiled.program.graph.inputs}
    inputs = {name: array[:, None].astype(types[name]) for name, array in feeds.items()}
    return inputs, targets, None if start is None else _start(compiled, inputs, targets, start)


def _start(compiled: Compiled, inputs: Any, targets: np.ndarray, start: Any) -> np.ndarray:
    """The user's start relevance as an array; a function is given the outputs of a first run."""
    output = compiled.output
    shape = (len(targets), *output.shape)
    if callable(start):
        blank = np.zeros(shape, output.dtype)
        start = start(unbatched(compiled.run((inputs, targets, blank)).outputs[compiled.output_name]))
    array = np.asarray(start)
    if array.shape != joined(shape) or array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise SettingError(
            f"start must be a finite array shaped like output {output.name!r}, {list(joined(shape))}, "
            f"or a function that gives one; found {array.dtype} {list(array.shape)}"
        )
    return array.reshape(shape).astype(output.dtype)


def explain(
    model: Any,
    inputs: Inputs,
    *,
    mode: str = "default",
    task: str = "auto",
    target: Any = None,
    output: str | int | None = None,
    scaler: float | None = 1.0,
    thresholding: float = 0.5,
    start: Any = None,
    layers: str | Sequence[str] | None = None,
    wrt: str | Sequence[str] | None = None,
    chunk: int | None = None,
    dtype: str = "float32",
    precision: str = "highest",
    progress: Progress | None = None,
) -> Explanation:
    """Why did the model answer as it did? Relevance of every input for one answer per example.

    A second call with the same model, settings and shapes compiles nothing.

    Args:
        model: Path of an ONNX file, or an onnx.ModelProto.
        inputs: An array, a tuple of arrays in the model's order, or a dict by input name; batch first.
        mode: Which rules share relevance out.
        task: What kind of answer the output is: "auto", "binary-classification", "multi-class classification",
            "bbox-regression", ...; "auto" takes a single unit that is no probability for a regression, anything else
            for a classification.
        target: Class explained: None (the predicted one), an integer, one integer per example, or a tuple indexing the
            output's axes. For a regression the output explained (None: all of them in equal parts).
        output: Name or index of the output explained; the first one by default.
        scaler: Total relevance handed out; None: the output's own value.
        thresholding: Threshold of segmentation masks.
        start: Start relevance itself instead of a task: an array shaped like the output, or a function
            outputs -> array.
        layers: Intermediate relevance to keep: "all", or names and globs of values and modules.
        wrt: Names of the inputs that bear relevance; None: all that can.
        chunk: Examples per compiled call, 1 or a multiple of 8; by default chosen from the model and the device.
        dtype: "float32", or "float64" for audits.
        precision: Of contractions: "highest" (full float32), "high" or "default" (the backend's fastest).
        progress: Called with (examples done, examples in all).

    Returns:
        Relevance by input name, the outputs, and a ledger of where all start relevance went.

    Raises:
        BacktraceError: The one root of all errors, each naming what is wrong and what to do.
    """
    settings = Settings(
        mode, task, output, scaler, thresholding, as_names(layers), as_names(wrt), chunk, dtype, precision
    )
    imported = read(model)
    explainer = _kept_explainer(_Known(imported.sha256, imported), settings)
    return explainer(inputs, target=target, start=start, progress=progress)


@dataclass(frozen=True)
class _Known:
    """A model known by its hash alone."""

    sha256: str
    model: Imported = field(compare=False)


@lru_cache(_EXPLAINERS_KEPT)
def _kept_explainer(known: _Known, settings: Settings) -> Explainer:
    return Explainer(known.model, **{each.name: getattr(settings, each.name) for each in fields(settings)})
