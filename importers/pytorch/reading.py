"""From a module to an import: exported in one way after the other until one is proven, and kept for the next call."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from backtrace_jax.errors import (
    BacktraceError,
    ImportMismatchError,
    InputError,
    MissingDependencyError,
    UnsupportedError,
)
from backtrace_jax.importers import Imported, onnx, proof

from .answers import batched_answers, run
from .calls import Call, read_call
from .exporters import Attempt, Export, attempts, export
from .names import describe
from .substitutions import evaluating

Feeds = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class _Form:
    """What an import was made for: the state of the module, the call, shapes of single examples and types."""

    digest: str
    call: str
    types: tuple[tuple[str, tuple[int, ...], str], ...]


_KEPT: WeakKeyDictionary[torch.nn.Module, dict[_Form, Imported]] = WeakKeyDictionary()


def read_module(module: torch.nn.Module, example: Any) -> Imported:
    """Import a module for inputs like these, or find the import of it that there is; `read` says more."""
    if example is None:
        raise InputError("a PyTorch module is exported for its inputs; pass example= to Explainer, or inputs")
    if importlib.util.find_spec("onnxscript") is None:
        raise MissingDependencyError("torch exports through onnxscript: pip install 'backtrace-jax[torch]'")
    call = read_call(module, example)
    feeds = call.arrays(example)
    form = _Form(_digest(module), repr(call.arguments), tuple((n, a.shape[1:], str(a.dtype)) for n, a in feeds.items()))
    kept = {known: found for known, found in _KEPT.get(module, {}).items() if known.digest == form.digest}
    if form not in kept or not _takes(kept[form], len(next(iter(feeds.values())))):
        kept[form] = _import(module, call, feeds)
    _KEPT[module] = kept
    return kept[form]


def _takes(imported: Imported, rows: int) -> bool:
    """Whether the file takes this batch: a size that it fixes is one of the module's, whose examples may interact."""
    return all(entry.dims is None or entry.dims[0] in (None, 1, rows) for entry in imported.inputs)


def _import(module: torch.nn.Module, call: Call, feeds: Feeds) -> Imported:
    """The first export that is proven.

    Raises:
        ImportMismatchError: When files were written, and none computes what the module computes.
        UnsupportedError: When there is no file that can be read.
    """
    with evaluating(module):
        outputs = batched_answers(module, call, feeds)
    failures: dict[Attempt, BaseException] = {}
    for attempt in attempts(module, len(next(iter(feeds.values())))):
        try:
            exported = export(module, call, feeds, outputs, attempt)
            imported = _imported(module, call, exported, attempt, failures)
            with evaluating(module):
                for trial in _trials(feeds, attempt):
                    proof.prove(imported, partial(run, module, call), trial)
        except Exception as error:  # exporters raise anything; what was raised is recorded, or raised in the end
            failures[attempt] = error
        else:
            return imported
    raise _refusal(type(module).__name__, failures)


def _imported(
    module: torch.nn.Module, call: Call, exported: Export, attempt: Attempt, failures: Mapping[Attempt, BaseException]
) -> Imported:
    """An exported file as an import; weights outside it stay where they are as long as the import lives."""
    folder = exported.folder
    read = onnx.read(exported.proto if folder is None else folder.model)
    origin = {"framework": f"torch {torch.__version__}", "exporter": attempt.exporter, "opset": str(attempt.opset)}
    if failures:
        origin["fallback"] = "; ".join(f"{tried}: {describe(error)}" for tried, error in failures.items())
    return replace(
        read,
        name=type(module).__name__,
        origin=origin,
        feed=partial(_feed, call, folder),
        proto=None if folder else exported.proto,
    )


def _feed(call: Call, folder: object, inputs: Any) -> dict[str, np.ndarray]:
    """Arrays by name; the folder is held here so that it lives as long as the import."""
    return call.arrays(inputs)


def _trials(feeds: Feeds, attempt: Attempt) -> Iterator[Feeds]:
    """What an export is proven on: a trace that froze a branch is right where every example goes the traced way."""
    yield feeds
    if attempt.rows is not None and attempt.rows > 1:
        yield {name: np.roll(array, 1, axis=0) for name, array in feeds.items()}
    if attempt.exporter == "torchscript":
        yield {name: -array if array.dtype.kind == "f" else array for name, array in feeds.items()}


def _refusal(name: str, failures: Mapping[Attempt, BaseException]) -> BacktraceError:
    wrong = any(isinstance(error, ImportMismatchError) for error in failures.values())
    kind = ImportMismatchError if wrong else UnsupportedError
    reasons = "\n".join(f"  {attempt}: {describe(error)}" for attempt, error in failures.items())
    done = "none of the exports computes what it computes" if wrong else "it cannot be exported"
    return kind(
        f"{name} cannot be imported: {done}.\n{reasons}\nRewrite what the reasons name, or export the module to ONNX "
        "yourself and explain that file"
    )


def _digest(module: torch.nn.Module) -> str:
    """Hash of everything that decides what a module computes: structure, settings, hooks, weights and buffers."""
    digest = hashlib.sha256(repr(module).encode())
    for name, part in module.named_modules():
        hooks = [list(part._forward_pre_hooks), list(part._forward_hooks)]
        plain = sorted((key, value) for key, value in vars(part).items() if _is_setting(key, value))
        digest.update(repr((name, hooks, plain)).encode())
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        digest.update(repr((name, tensor.shape, tensor.dtype)).encode())
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(plain.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _is_setting(name: str, value: object) -> bool:
    return name != "training" and isinstance(value, bool | int | float | str | tuple | None)
