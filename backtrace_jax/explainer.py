"""`explain` and `Explainer`: from a model and inputs to an Explanation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from .engine.chunks import check_chunk, default_chunk, run_chunks
from .engine.compile import Explain, Request, Result, compile_explain, cost
from .engine.layers import select_layers
from .engine.plan import plan_walk
from .errors import NumericsError, SettingError
from .explanation import Explanation, Ledger
from .feeds import Inputs, read_inputs
from .fingerprint import fingerprint
from .importers import Imported, read
from .ir import Program, Var
from .numerics import PRECISIONS, check_finite, exact_types, float_type
from .passes import simplify, with_float_type
from .rules import find_mode
from .tasks import CUSTOM, canonical_task, read_targets, resolve_task

Progress = Callable[[int, int], None]
_SHAPES_KEPT = 8  # compiled functions an Explainer keeps, one per input shape
_EXPLAINERS_KEPT = 4  # explainers `explain` keeps, so that a second call compiles nothing


@dataclass(frozen=True)
class Settings:
    """Everything that decides what is compiled, besides the model and the shapes; see `explain`."""

    mode: str = "default"
    task: str = "auto"
    output: str | int | None = None
    scaler: float | None = 1.0
    thresholding: float = 0.5
    layers: tuple[str, ...] | None = None
    wrt: tuple[str, ...] | None = None
    chunk: int | None = None
    dtype: str = "float32"
    precision: str = "highest"

    def __post_init__(self) -> None:
        """Check what can be checked without a model."""
        find_mode(self.mode)
        canonical_task(self.task)
        float_type(self.dtype)
        if self.precision not in PRECISIONS:
            raise SettingError(f"precision {self.precision!r} does not exist; there are: {', '.join(PRECISIONS)}")
        if self.chunk is not None:
            check_chunk(self.chunk)
        if self.scaler is not None and not np.isfinite(self.scaler):
            raise SettingError(f"scaler must be a finite number or None, found {self.scaler!r}")


@dataclass(frozen=True)
class Compiled:
    """A compiled explanation at one input shape."""

    program: Program
    request: Request
    weights: Mapping[str, Any]
    chunk: int
    call: Explain


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
            mode, task, output, scaler, thresholding, _names(layers), _names(wrt), chunk, dtype, precision
        )
        self.device = jax.devices()[0]
        self._model = read(model)
        self._compiled = lru_cache(_SHAPES_KEPT)(self._compile)

    def __call__(
        self, inputs: Inputs, *, target: Any = None, start: Any = None, progress: Progress | None = None
    ) -> Explanation:
        """Explain a batch of inputs; see `explain`."""
        feeds = read_inputs(inputs, self._model.inputs)
        shapes = tuple((name, array.shape[1:]) for name, array in feeds.items())
        compiled = self._compiled(shapes, start is not None)
        examples = self._examples(compiled, feeds, target, start)
        result = self._run(compiled, examples, progress)
        _check_result(compiled, feeds, result)
        return self._explanation(compiled, feeds, result)

    def _compile(self, shapes: tuple[tuple[str, tuple[int, ...]], ...], custom: bool) -> Compiled:
        settings = self.settings
        program = self._program(shapes)
        output = _pick_output(program, settings.output)
        plan = plan_walk(program.graph, find_mode(settings.mode), output, settings.wrt)
        task = resolve_task(settings.task, program.graph, output, settings.scaler, custom=custom)
        request = Request(plan, task, select_layers(program.graph, settings.layers), settings.precision)
        chunk = settings.chunk or default_chunk(cost(program), self.device.platform)
        with exact_types():
            weights = jax.device_put(dict(program.weights), self.device)
        types = _chunk_types(program, output, chunk, custom)
        return Compiled(program, request, weights, chunk, compile_explain(request, weights, types, self.device))

    def _program(self, shapes: Sequence[tuple[str, tuple[int, ...]]]) -> Program:
        lowered = self._model.lower({name: (1, *shape) for name, shape in shapes})
        return simplify(with_float_type(lowered, float_type(self.settings.dtype)))

    def _examples(self, compiled: Compiled, feeds: Mapping[str, np.ndarray], target: Any, start: Any) -> Any:
        count = len(next(iter(feeds.values())))
        output, task = compiled.request.plan.output, compiled.request.task
        targets = read_targets(target, count, output, task)
        types = {var.name: var.dtype for var in compiled.program.graph.inputs}
        inputs = {name: array[:, None].astype(types[name]) for name, array in feeds.items()}
        return inputs, targets, self._start(compiled, inputs, targets, start)

    def _start(self, compiled: Compiled, inputs: Any, targets: np.ndarray, start: Any) -> np.ndarray | None:
        """The user's start relevance, as an array; a function is given the outputs of a first run."""
        if start is None:
            return None
        output = compiled.request.plan.output
        shape = (len(targets), *output.shape)
        if callable(start):
            blank = np.zeros(shape, output.dtype)
            name = _output_name(compiled)
            start = start(_unbatched(self._run(compiled, (inputs, targets, blank), None).outputs[name]))
        array = np.asarray(start)
        if array.shape != _joined(shape) or array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise SettingError(
                f"start must be a finite array shaped like output {output.name!r}, {list(_joined(shape))}, "
                f"or a function that gives one; found {array.dtype} {list(array.shape)}"
            )
        return array.reshape(shape).astype(output.dtype)

    def _run(self, compiled: Compiled, examples: Any, progress: Progress | None) -> Result:
        def call(part: Any) -> Result:
            with exact_types(self.settings.precision):
                return compiled.call(compiled.weights, *jax.device_put(part, self.device))

        return run_chunks(call, examples, len(examples[1]), compiled.chunk, progress)

    def _explanation(self, compiled: Compiled, feeds: dict[str, np.ndarray], result: Result) -> Explanation:
        settings = {
            "mode": self.settings.mode,
            "task": compiled.request.task.name,
            "output": _output_name(compiled),
            "scaler": self.settings.scaler,
            "wrt": [var.name for var in compiled.request.plan.inputs],
            "chunk": compiled.chunk,
            "dtype": self.settings.dtype,
            "precision": self.settings.precision,
        }
        return Explanation(
            relevance={name: _unbatched(array) for name, array in result.relevance.items()},
            inputs=feeds,
            outputs={name: _unbatched(array) for name, array in result.outputs.items()},
            output=_output_name(compiled),
            target=None if compiled.request.task.name == CUSTOM else result.target,
            layers={name: _unbatched(array) for name, array in result.layers.items()},
            ledger=_ledger(compiled, result),
            fingerprint=fingerprint(self._model.sha256, settings, self.device),
        )


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
    settings = Settings(mode, task, output, scaler, thresholding, _names(layers), _names(wrt), chunk, dtype, precision)
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


def _names(names: str | Sequence[str] | None) -> tuple[str, ...] | None:
    return (names,) if isinstance(names, str) else None if names is None else tuple(names)


def _pick_output(program: Program, wanted: str | int | None) -> Var:
    graph = program.graph
    choices = dict(zip(graph.output_names, graph.outputs, strict=True))
    name = graph.output_names[0] if wanted is None else wanted
    if isinstance(name, int) and 0 <= name < len(choices):
        name = graph.output_names[name]
    if name not in choices:
        raise SettingError(f"output {wanted!r} does not exist; the model has: {', '.join(graph.output_names)}")
    if not choices[name].is_float:
        raise SettingError(
            f"output {name!r} holds {choices[name].dtype.name}, which bears no relevance; pick a float output"
        )
    return choices[name]


def _output_name(compiled: Compiled) -> str:
    graph = compiled.program.graph
    return graph.output_names[graph.outputs.index(compiled.request.plan.output)]


def _chunk_types(program: Program, output: Var, chunk: int, custom: bool) -> Any:
    inputs = {var.name: jax.ShapeDtypeStruct((chunk, *var.shape), var.dtype) for var in program.graph.inputs}
    given = jax.ShapeDtypeStruct((chunk, *output.shape), output.dtype) if custom else None
    return inputs, jax.ShapeDtypeStruct((chunk,), np.int64), given


def _joined(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of a stacked value: the model's own batch axis, of size 1, gives way to the axis of examples."""
    return (shape[0], *shape[2:]) if shape[1:2] == (1,) else shape


def _unbatched(array: np.ndarray) -> np.ndarray:
    return array.reshape(_joined(array.shape))


def _check_result(compiled: Compiled, feeds: Mapping[str, np.ndarray], result: Result) -> None:
    name = _output_name(compiled)
    bad = np.flatnonzero(~_finite_rows(result.outputs[name]))
    if len(bad):
        types = {var.name: var.dtype for var in compiled.program.graph.inputs}
        example = {key: array[bad[0]][None].astype(types[key]) for key, array in feeds.items()}
        check_finite(compiled.program.graph, compiled.program.weights, example, name)
    for key, array in result.relevance.items():
        if not _finite_rows(array).all():
            raise NumericsError(
                f"relevance of input {key!r} is not finite; explain with dtype='float64' or a smaller scaler"
            )


def _finite_rows(array: np.ndarray) -> np.ndarray:
    return np.isfinite(array).reshape(len(array), -1).all(axis=1)


def _ledger(compiled: Compiled, result: Result) -> Ledger:
    """The whole graph's books from those of its steps; inputs are added up once more from their relevance."""
    inputs = [np.zeros((len(result.target), 2))]
    for array in result.relevance.values():
        flat = array.reshape(len(array), -1).astype(np.float64)
        inputs.append(np.stack([flat.sum(1), np.abs(flat).sum(1)], axis=1))
    totals = np.sum(inputs, axis=0)
    nodes = [step.eqn.outvars[0].name for step in compiled.request.plan.steps]
    signed, absolute = (
        np.concatenate([result.start[:, k : k + 1], totals[:, k : k + 1], books[:, :, 2:].sum(axis=1)], axis=1)
        for k, books in enumerate(result.books)
    )
    by_node = {name: Ledger(result.books.signed[:, i], result.books.absolute[:, i], {}) for i, name in enumerate(nodes)}
    return Ledger(signed, absolute, by_node)
