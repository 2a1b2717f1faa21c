"""From a module to an import: exported in one way after the other until one is proven, and kept for the next call."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from backtrace_jax.batch import TOGETHER
from backtrace_jax.batch.layout import BatchAxis, moved_first
from backtrace_jax.errors import (
    BacktraceError,
    ImportMismatchError,
    InputError,
    MissingDependencyError,
    MixedExamplesError,
    ModelError,
    UnsupportedError,
)
from backtrace_jax.ir.imported import Gradient, Imported, Source

from .. import onnx, proof
from .answers import batched_answers, observed, run
from .calls import Call, names_of, read_call
from .exporters import Attempt, Export, attempts, export
from .gradients import gradient
from .names import describe
from .precision import Doubled, rounding_of
from .proving import lowered, prove
from .state import state_of
from .substitutions import evaluating, exportable, training_note

Feeds = Mapping[str, np.ndarray]

_REWRITE = "Rewrite this, or export it to ONNX yourself"
_CUT = "pad_packed_sequence cuts to the longest example of a batch: pass it total_length=x.shape[1]"

_REASON = 160  # characters of why a module cannot be imported


@dataclass(frozen=True)
class _Form:
    """What an import was made for.

    Attributes:
        state: Hash of the module.
        call: The arguments without their arrays.
        types: Name, shape of a single example and type of every array.
        axes: The axis of the batch in every array.
    """

    state: str
    call: str
    types: tuple[tuple[str, tuple[int, ...], str], ...]
    axes: tuple[int | None, ...]


@dataclass
class _Kept:
    """An import, and what is known of it.

    Attributes:
        imported: The import.
        outputs: The axis of the batch in each output.
        attempt: How it was exported.
        inputs: Hash of the inputs it was made with, where it is good for those alone.
        proven: Whether its numbers were compared with those of its module.
        failure: How they were found to differ.
    """

    imported: Imported
    outputs: dict[str, int | None]
    attempt: Attempt
    inputs: str
    proven: bool = False
    failure: BacktraceError | None = None

    def takes(self, call: Call, feeds: Feeds) -> bool:
        """Whether it may be used for these inputs: a batch that the file fixes is one of the module's own."""
        rows = len(next(iter(feeds.values())))
        pairs = ((entry.dims, call.axis(entry.name)) for entry in self.imported.inputs)
        fits = all(dims is None or axis is None or dims[axis] in (None, 1, rows) for dims, axis in pairs)
        return fits and (not self.imported.alone or self.inputs == _hash(feeds))

    def failed(self, call: Call, feeds: Feeds) -> dict[Attempt, BaseException]:
        """The way it was exported, where it was found to differ on inputs that it takes."""
        return {self.attempt: self.failure} if self.failure is not None and self.takes(call, feeds) else {}


@dataclass(frozen=True)
class _Source(Source):
    """A module as one call of it was imported; see `importers.Source`."""

    module: torch.nn.Module
    call: Call
    outputs: Mapping[str, int | None]

    def read(self, inputs: Any, *, anew: bool = False) -> Imported:
        axes = dict(zip(self.call.names, self.call.axes, strict=True))
        given = names_of(self.module, inputs)
        if given and (missing := [name for name in axes if name not in given]):
            raise InputError(
                f"input {', '.join(missing)} is missing, with which {type(self.module).__name__} was imported; "
                "pass it, or give explain the module itself for a call without it"
            )
        return read_module(self.module, inputs, axes, anew=anew, proven=anew)

    def answer(self, feeds: Feeds) -> dict[str, np.ndarray]:
        with evaluating(self.module):
            found = run(self.module, self.call, feeds)
        if missing := [name for name in self.outputs if name not in found]:
            raise ImportMismatchError(
                f"{type(self.module).__name__} returns no {missing[0]!r} on these inputs, but {', '.join(found)}"
            )
        return {name: moved_first(name, found[name], axis) for name, axis in self.outputs.items()}

    def gradient(self, feeds: Feeds, output: str, start: np.ndarray) -> Gradient | None:
        with evaluating(self.module):
            return gradient(self.module, self.call, feeds, output, self.outputs[output], start)

    def rounding(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """Measured against the module with weights in double precision, on these inputs and others next to them."""
        with evaluating(self.module):
            try:
                return proof.measured_rounding(self.answer, replace(self, module=Doubled(self.module)).answer, feeds)
            except InputError:  # it computes in its own precision only, so nothing can be measured
                return {}


_KEPT: WeakKeyDictionary[torch.nn.Module, dict[_Form, _Kept]] = WeakKeyDictionary()


def read_module(
    module: torch.nn.Module, example: Any, batch_axis: BatchAxis = 0, *, anew: bool = False, proven: bool = True
) -> Imported:
    """Import a module for inputs like these, or find the import of it that there is; `read` says more."""
    if example is None:
        raise InputError(
            "a PyTorch module is exported for its inputs: pass them, or example= where an Explainer is made of it"
        )
    if importlib.util.find_spec("onnxscript") is None:
        raise MissingDependencyError("torch exports through onnxscript: pip install 'backtrace-jax[torch]'")
    _check_loaded(module)
    call = read_call(module, example, batch_axis)
    feeds = call.first(example)
    types = tuple((name, array.shape[1:], str(array.dtype)) for name, array in feeds.items())
    form = _Form(state_of(module), repr(call.arguments), types, call.axes)
    kept = {known: found for known, found in _KEPT.get(module, {}).items() if known.state == form.state}
    last = kept.get(form)
    if anew or last is None or not last.takes(call, feeds) or (proven and not last.proven):
        examples = len(next(iter(feeds.values()))) if anew else proof.EXAMPLES
        kept[form] = _import(module, call, feeds, examples if proven else None, last)
    _KEPT[module], found = kept, kept[form]
    source, notes = _Source(module, call, found.outputs), (*filter(None, [training_note(module)]),)
    pending = None if found.proven else partial(_prove_later, found, source)
    return replace(found.imported, source=source, notes=notes, prove=pending)


def _prove_later(kept: _Kept, source: _Source, feeds: Feeds, forward: proof.Forward | None = None) -> None:
    """Compare an import with its module, until it was proven once.

    Raises:
        ImportMismatchError: When they differ, or the examples of a trace are not apart.
    """
    if kept.proven:
        return
    axes = dict(zip(source.call.names, source.call.axes, strict=True))
    try:
        _prove(kept, source, feeds, forward or proof.lowered(kept.imported, feeds, axes).compiled(), proof.EXAMPLES)
    except (ImportMismatchError, MixedExamplesError) as error:
        kept.failure = error
        raise ImportMismatchError(str(error)) from error


def _prove(kept: _Kept, source: _Source, feeds: Feeds, forward: proof.Forward, examples: int) -> None:
    axes = dict(zip(source.call.names, source.call.axes, strict=True))
    prove(replace(kept.imported, source=source), source.answer, feeds, forward, axes, kept.attempt, examples)
    kept.proven = True


def _check_loaded(module: torch.nn.Module) -> None:
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.is_meta:
            raise ModelError(
                f"the weights of {type(module).__name__} are not loaded: {name!r} is a meta tensor; load them, for "
                "example by load_state_dict(state, assign=True)"
            )


def _hash(feeds: Feeds) -> str:
    found = hashlib.sha256()
    for array in feeds.values():
        found.update(np.ascontiguousarray(array).view(np.uint8).data)
    return found.hexdigest()


def _import(module: torch.nn.Module, call: Call, feeds: Feeds, examples: int | None, last: _Kept | None) -> _Kept:
    """The first export that is proven, on this many examples at most (None: as far as graphs tell).

    Where a trace was all that could be had the last time, or an export was found to differ, no other is tried first.

    Raises:
        ImportMismatchError: When files were written, and none computes what the module computes.
        UnsupportedError: When there is no file that can be read.
    """
    with evaluating(module):
        outputs = batched_answers(module, call, feeds)
        seen = observed(module, call, feeds)
    failures = dict[Attempt, BaseException]() if last is None else last.failed(call, feeds)
    traced = last is not None and last.imported.alone
    axes = dict(zip(call.names, call.axes, strict=True))
    batched = set(call.axes) != {None}
    ways = attempts(module, len(next(iter(feeds.values()))), frozen=traced or seen.found, batched=batched)
    for attempt in [way for way in ways if way not in failures and (way.alone or not traced)]:
        if attempt.rows != 1 and not attempt.alone and _mixing(failures):
            continue  # what mixes in a batch of any size does so in one of this size
        try:
            exported = export(module, call, feeds, outputs, attempt)
            imported = _imported(module, call, exported, attempt, failures)
            source = _Source(module, call, outputs)
            graph = lowered(imported, source.answer, feeds, axes, attempt)
            found = _Kept(imported, outputs, attempt, _hash(feeds) if attempt.alone else "")
            if examples is not None:
                _prove(found, source, feeds, graph.compiled(), examples)
        except Exception as error:  # exporters raise anything; what was raised is recorded, or raised in the end
            failures[attempt] = error
        else:
            return found
    with exportable(module):
        run(module, call, {name: _with_a_gap(array) for name, array in feeds.items()})
    raise _refusal(type(module).__name__, failures, _CUT if seen.cut else _REWRITE)


def _with_a_gap(array: np.ndarray) -> np.ndarray:
    """A mask that leaves something out: transformers look past one of ones, whatever its shape."""
    masks = array.ndim > 1 and array.dtype.kind in "biu" and bool((array == 1).all())
    return np.concatenate([array[..., :-1], np.zeros_like(array[..., -1:])], axis=-1) if masks else array


def _imported(
    module: torch.nn.Module, call: Call, exported: Export, attempt: Attempt, failures: Mapping[Attempt, BaseException]
) -> Imported:
    """An exported file as an import, which owns its weights from then on."""
    folder = exported.folder
    read = onnx.read(exported.proto if folder is None else folder.model, copy=False)
    if folder is not None:
        folder.remove()
    origin = {"framework": f"torch {torch.__version__}", "exporter": attempt.exporter, "opset": str(attempt.opset)}
    if attempt.alone:
        origin["traced"] = "for these inputs alone"
    if failures:
        origin["fallback"] = "; ".join(f"{tried}: {describe(error)}" for tried, error in failures.items())
    return replace(
        read,
        name=type(module).__name__,
        origin=origin,
        feed=call.arrays,
        proto=None if folder else exported.proto,
        rounding=rounding_of(exported.proto),
        alone=attempt.alone,
    )


def _mixing(failures: Mapping[Attempt, BaseException]) -> str:
    """How examples mix, if they do: by the newer exporter's graph or a trace's values, as a trace unrolls loops."""
    pairs = ((attempt, error) for attempt, error in failures.items() if attempt.exporter == "dynamo" or attempt.alone)
    return next((error.reason for _, error in pairs if isinstance(error, MixedExamplesError)), "")


def _refusal(name: str, failures: Mapping[Attempt, BaseException], way_out: str) -> BacktraceError:
    """The reason that tells most: where files were written, how one of them differs, and else the first exporter's."""
    if mixed := _mixing(failures):
        return MixedExamplesError(f"{name[:30]} cannot be explained example by example: {mixed}", TOGETHER)
    wrong = [each for each in failures.values() if isinstance(each, ImportMismatchError)]
    kind = ImportMismatchError if wrong else UnsupportedError
    done = "no export computes what it computes" if wrong else "it cannot be exported"
    reason = describe(next(iter(wrong or failures.values())))[:_REASON].rstrip(".")
    return kind(f"{name[:30]} cannot be imported: {done}. {reason}. {way_out}")
