"""The file of an exported explainer: a compiled explanation that neither importers nor frameworks are needed for.

A NumPy archive, as saved explanations are: numbered arrays (weights, constants, functions as StableHLO), and one entry
of JSON for the rest: the graph, the settings, how functions in pieces go together, and a digest of all. Nothing is
pickled. What is read is untrusted, and bounded as in `runtime.unpacking`.
"""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from dataclasses import dataclass, fields
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from backtrace_jax.batch import Leaving
from backtrace_jax.engine.compile import Made, make_explain
from backtrace_jax.engine.compiled import Compiled
from backtrace_jax.engine.exported import export_function, restored
from backtrace_jax.engine.form import Form, Shapes, chunk_types, constant_types
from backtrace_jax.errors import BacktraceError, InputError, SettingError
from backtrace_jax.errors.texts import shown
from backtrace_jax.ir import Graph, Program
from backtrace_jax.ir.imported import Imported
from backtrace_jax.passes.check import check
from backtrace_jax.question.settings import Settings
from backtrace_jax.rules import MODES, find_mode
from backtrace_jax.rules import mode as named_mode
from backtrace_jax.runtime.files import replacing
from backtrace_jax.runtime.numerics import exact_types
from backtrace_jax.runtime.unpacking import read_arrays

from .answering import Understood
from .specialising import VALUE_OF
from .values import Reading, Writing

FORMAT, VERSION = "backtrace-jax explainer", 1

LARGEST_VALUE = 2**30
"""Bytes of one value of the graph, for one example (adjustable)."""

ANY, ONE, SEVERAL, WHOLE = "any", "one", "several", "whole batches"
"""How many examples what was exported answers for."""


@dataclass(frozen=True)
class Stored:
    """What an exported explainer has in place of a model that can be lowered.

    Attributes:
        program: The graph at the shapes it was exported for, and its weights.
        shapes: Of its inputs, for one example.
        rows: Examples per run of the graph.
        leaving: Where its outputs hold the examples.
        counts: How many examples may be asked about.
        form: The form of the call that was exported, as text.
        made: The functions of that form.
    """

    program: Program
    shapes: Shapes
    rows: int
    leaving: tuple[Leaving, ...] | None
    counts: str
    form: str
    made: Made

    def leaving_of(self, shapes: Shapes, count: int) -> tuple[Leaving, ...] | None:
        """Where the outputs hold the examples.

        Raises:
            InputError: When it was exported for other shapes, or numbers of examples.
        """
        if shapes != self.shapes:
            told = "; ".join(f"{name} {[*shape]}" for name, shape in self.shapes)
            found = "; ".join(f"{name} {[*shape]}" for name, shape in shapes)
            raise InputError(f"this explainer was exported for examples of {told:.100}, found {found:.100}")
        allowed = {ANY: True, ONE: count == 1, SEVERAL: count > 1, WHOLE: count % self.rows == 0}
        if not allowed[self.counts]:
            number = f"batches of {self.rows}" if self.counts == WHOLE else f"{self.counts} at a time"
            raise InputError(f"this explainer was exported for examples in {number}, found {count}: they may interact")
        return self.leaving

    def make(self, form: Form) -> Any:
        """What compiles a form in place of tracing it; None where it was not exported."""
        return partial(restored, self.made) if _told(form) == self.form else None


def write(path: str | PathLike[str], ready: Understood, settings: Settings) -> None:
    """Write an explainer that answers what is asked here; see `Explainer.export`."""
    call, form = ready.call, next(iter(ready.forms))
    if decided := sorted(name for name in call.imported.origin if name.startswith(VALUE_OF)):
        raise SettingError(f"this model is compiled for the {decided[0]}, and cannot be exported: make it a constant")
    mode = find_mode(settings.mode)
    if mode.own_rules or mode.name not in MODES:
        raise SettingError(f"mode {mode.name!r} has rules of your own, which are Python code and cannot be exported")
    program = call.stages.lowered(call.known, form.shapes, form.rows, call.leaving)
    writing = Writing()
    imported = call.imported
    told = {
        "model": {name: writing.value(getattr(imported, name)) for name in _MODEL},
        "settings": {
            each.name: writing.value(getattr(settings, each.name)) for each in fields(settings) if each.name != "mode"
        },
        "mode": [mode.name, writing.value(dict(mode.options))],
        "graph": writing.value(program.graph),
        "weights": writing.value(dict(program.weights)),
        "stored": writing.many([form.shapes, form.rows, call.leaving, counts(ready), _told(form)]),
        "made": writing.value(_exported(call.stages.compiled(call.known, form), form, settings)),
    }
    _save(path, told, writing.arrays)


_MODEL = ("name", "sha256", "inputs", "origin", "rounding", "alone", "notes")


def _exported(compiled: Compiled, form: Form, settings: Settings) -> Made:
    """The functions of a form, as StableHLO."""
    request, graph = compiled.request, compiled.program.graph
    examples = chunk_types(graph, compiled.output, compiled.sizes.chunk, form, None)
    constant = constant_types(graph, form, compiled.masked)
    given = request, compiled.weights[0], constant, examples, compiled.device
    with exact_types(request.precision):
        return make_explain(*given, prepare=settings.hoists, chunks=compiled.sizes.chunks, by=export_function)


def _told(form: Form) -> str:
    """A form as text; the functions of its task follow from the settings and the rest of it."""
    pairs = [(form, each) for each in fields(form) if each.name != "task"]
    pairs += [(form.task, each) for each in fields(form.task) if each.compare]
    return repr({each.name: getattr(owner, each.name) for owner, each in pairs})


def counts(ready: Understood) -> str:
    """How many examples may be asked about, now that it is known for as many as there are."""
    call = ready.call
    count, rows = len(next(iter(call.feeds.values()))), call.seen.rows
    other = rows + 1 if rows > 1 else 2 if count == 1 else 1
    try:
        shapes = tuple((name, array.shape[1:]) for name, array in call.feeds.items())
        if call.stages.leaving(call.known, shapes, other) == call.leaving:
            return ANY
    except BacktraceError:  # those examples would interact
        pass
    return WHOLE if rows > 1 else ONE if count == 1 else SEVERAL


def _save(path: str | PathLike[str], told: dict[str, Any], arrays: list[np.ndarray]) -> None:
    text = json.dumps({"format": FORMAT, "version": VERSION, **told}, sort_keys=True).encode()
    plain = {str(number): array for number, array in enumerate(arrays)}
    plain |= {"metadata": np.frombuffer(text, np.uint8), "digest": _digest(text, plain)}
    with replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        for key, array in plain.items():
            with archive.open(f"{key}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.ascontiguousarray(array).reshape(array.shape), allow_pickle=False)


def _digest(text: bytes, arrays: dict[str, np.ndarray]) -> np.ndarray:
    found = hashlib.sha256(text)
    for number in range(len(arrays)):
        array = arrays[str(number)]
        found.update(f"{array.dtype.str} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return np.frombuffer(found.digest(), np.uint8)


def read_explainer(path: str | PathLike[str]) -> tuple[Imported, Settings, Stored]:
    """Read a file that `write` has written; see `Explainer.load`."""
    advice = "write a fresh one with Explainer.export"
    try:
        return _understood(*_read(Path(path)))
    except OSError as error:
        raise InputError(f"cannot read '{path}': {error.strerror or error}; check the path") from error
    except BacktraceError as error:
        raise InputError(f"'{path}' is not a whole exported explainer: {error!s:.150}; {advice}") from error
    except Exception as error:  # parts that do not fit together raise about anything
        found = f"{type(error).__name__}: {error}"
        raise InputError(f"'{path}' is not a whole exported explainer: {found:.150}; {advice}") from error


def _read(path: Path) -> tuple[dict[str, Any], Reading]:
    arrays = read_arrays(path)
    if not isinstance(arrays, dict) or not {"metadata", "digest"} <= arrays.keys():
        raise InputError("the file is of another kind")
    text, digest = arrays.pop("metadata").tobytes(), arrays.pop("digest")
    told = json.loads(text)
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        raise InputError("its metadata are of another program")
    if told["version"] != VERSION:
        raise InputError(f"it has format version {shown(told['version'])}, this backtrace-jax reads {VERSION}")
    if sorted(arrays) != sorted(map(str, range(len(arrays)))) or not np.array_equal(_digest(text, arrays), digest):
        raise InputError("its content is not what was written")
    return told, Reading({int(name): array for name, array in arrays.items()})


def _understood(told: dict[str, Any], reading: Reading) -> tuple[Imported, Settings, Stored]:
    model = {name: reading.value(told["model"][name]) for name in _MODEL}
    name, options = told["mode"]
    mode = named_mode(name, **reading.value(options))
    settings = Settings(mode=mode, **{name: reading.value(value) for name, value in told["settings"].items()})
    shapes, rows, leaving, counts, form = reading.many(told["stored"])
    if counts not in (ANY, ONE, SEVERAL, WHOLE):
        raise InputError(f"{shown(counts)} is no number of examples")
    program = Program(_checked(reading.value(told["graph"]), rows), reading.value(told["weights"]))
    for var in program.graph.params:
        array = program.weights[var.name]
        if (array.shape, array.dtype) != (var.shape, var.dtype):
            raise InputError(f"weight {shown(var.name)} is of another type")
    stored = Stored(program, shapes, rows, leaving, counts, form, reading.value(told["made"]))
    return Imported(**model, lower=_lower, unsupported=list), settings, stored


def _checked(graph: Any, rows: int) -> Graph:
    """The graph; what it computes has a bounded size, and its weights are in the file."""
    if not isinstance(graph, Graph):
        raise InputError("it holds no graph")
    for var in (*graph.inputs, *(var for eqn in graph.eqns for var in eqn.outvars)):
        if math.prod(var.shape) * var.dtype.itemsize > LARGEST_VALUE * rows:
            raise InputError(f"value {shown(var.name)} takes more than {LARGEST_VALUE} bytes")
    return check(graph)


def _lower(*_: Any, **__: Any) -> Program:
    raise SettingError("an explainer that was loaded holds no model that could be compiled anew; export another one")
