"""From a JAX model to an import, which is kept for the next call."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np

from backtrace_jax.batch.layout import BatchAxis, moved_first
from backtrace_jax.errors import InputError
from backtrace_jax.ir import Program
from backtrace_jax.ir.imported import Gradient, Imported, InputType, Source

from .. import proof
from .calls import Call, outputs_by_name, read_call
from .models import Model, pure
from .tracing import called, lower

Feeds = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class _Source(Source):
    """A model as one call of it was traced; see `importers.Source`."""

    model: Any
    pure: Model
    call: Call

    def read(self, inputs: Any, *, anew: bool = False) -> Imported:
        return read_model(self.model, inputs, dict(zip(self.call.names, self.call.axes, strict=True)), proven=anew)

    def answer(self, feeds: Feeds) -> dict[str, np.ndarray]:
        own = {name: self.call.own(name, array) for name, array in feeds.items()}
        outputs = outputs_by_name(called(self.pure, self.call, self.pure.weights, own))
        axis = None if all(each is None for each in self.call.axes) else 0
        return {name: moved_first(name, np.asarray(array), axis) for name, array in outputs.items()}

    def gradient(self, feeds: Feeds, output: str, start: np.ndarray) -> Gradient | None:
        return None


def read_model(model: Any, example: Any, batch_axis: BatchAxis = 0, *, proven: bool = True) -> Imported:
    """Import a model for inputs like these; `read` says more."""
    if example is None:
        raise InputError(
            "a JAX model is traced for its inputs: pass them, or example= where an Explainer is made of it"
        )
    function = pure(model)
    call = read_call(function.signature, example, batch_axis)
    feeds = call.arrays(example)
    dtypes = {name: np.dtype(jax.dtypes.canonicalize_dtype(array.dtype)) for name, array in feeds.items()}
    lowered = partial(lower, function, call, dtypes)
    shapes = {name: _single(array.shape, call.axis(name)) for name, array in feeds.items()}
    source = _Source(model, function, call)
    imported = Imported(
        name=function.name,
        sha256=_digest(lowered(shapes)),
        inputs=tuple(InputType(name, tuple(None for _ in array.shape), dtypes[name]) for name, array in feeds.items()),
        lower=lowered,
        unsupported=list,
        origin={"framework": function.framework, "exporter": f"jax {jax.__version__}"},
        feed=call.arrays,
        source=source,
    )
    axes = dict(zip(call.names, call.axes, strict=True))

    def prove(feeds: Feeds, forward: proof.Forward | None = None) -> None:
        proof.prove(
            imported, source.answer, feeds, forward or proof.lowered(imported, feeds, axes).compiled(), axes=axes
        )

    if proven:
        prove(call.first(example))
        return imported
    return replace(imported, prove=prove)


def _single(shape: tuple[int, ...], axis: int | None) -> tuple[int, ...]:
    return tuple(1 if k == axis else size for k, size in enumerate(shape))


def _digest(program: Program) -> str:
    """Hash of a graph and its weights."""
    found = hashlib.sha256(str(program.graph).encode())
    for name, array in program.weights.items():
        found.update(name.encode())
        found.update(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")
    return found.hexdigest()
