"""From a JAX model to an import, which is kept for the next call."""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MethodType
from typing import Any
from weakref import finalize

import jax
import numpy as np

from backtrace_jax.batch.layout import BatchAxis, moved_first
from backtrace_jax.errors import BacktraceError, InputError
from backtrace_jax.ir.imported import Gradient, Imported, InputType, Source

from .. import proof
from .calls import Call, Given, Slot, read_call
from .configuration import Configuration
from .gradients import coarsest, gradient
from .models import Model, is_key, pure
from .state import state_of
from .tracing import Traced, Tracing, own

Feeds = Mapping[str, np.ndarray]

_KEPT_FORMS = 8  # imports that are kept of a model
_KEPT_TUPLES = 4  # imports of tuples, all together
_ADDRESS = re.compile(r"0x[0-9a-f]+")


@dataclass(frozen=True)
class _Form:
    """What an import was made for.

    Attributes:
        state: Hash of the model.
        call: Hash of how it is called: constants, shapes but for the batch, types, and how JAX is set.
    """

    state: str
    call: str


@dataclass
class _Kept:
    """An import, and what is known of it."""

    imported: Imported
    tracing: Tracing
    proven: bool = False


@dataclass(frozen=True)
class _Source(Source):
    """A model as one call of it was traced; see `importers.Source`."""

    model: Any
    tracing: Tracing

    @property
    def call(self) -> Call:
        """How the model is called."""
        return self.tracing.call

    def read(self, inputs: Any, *, anew: bool = False) -> Imported:
        self.call.arrays(inputs)  # another call is another import
        axes = dict(zip(self.call.names, self.call.axes, strict=True))
        return read_model(self.model, self.call.by_name(inputs), axes, anew=anew, proven=anew)

    def answer(self, feeds: Feeds) -> dict[str, np.ndarray]:
        return self._answer(self.tracing, feeds)

    def _answer(self, tracing: Tracing, feeds: Feeds) -> dict[str, np.ndarray]:
        outputs = tracing.run({name: self.call.own(name, array) for name, array in feeds.items()})
        axis = None if all(each is None for each in self.call.axes) else 0
        return {name: moved_first(name, np.asarray(array), axis) for name, array in outputs.items()}

    def gradient(self, feeds: Feeds, output: str, start: np.ndarray) -> Gradient | None:
        return gradient(self.tracing, feeds, output, start)

    def rounding(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """Measured against the model with weights and inputs in double precision, on these inputs and others."""
        try:
            return proof.measured_rounding(self.answer, partial(self._answer, self.tracing.double()), feeds)
        except BacktraceError:  # it computes in its own precision only, so nothing can be measured
            return {}


class _Keeping:
    """Imports by the model that they are of, and by what they were made for; they go when the model goes."""

    def __init__(self) -> None:
        self._by_model: dict[int, OrderedDict[_Form, _Kept]] = {}
        self._tuples: OrderedDict[_Form, _Kept] = OrderedDict()

    def of(self, model: Any) -> OrderedDict[_Form, _Kept]:
        """The imports of a model; tuples, which are made anew at every call, have theirs in common."""
        owner = model.__self__ if isinstance(model, MethodType) else model
        if id(owner) in self._by_model:
            return self._by_model[id(owner)]
        try:
            finalize(owner, self._by_model.pop, id(owner), None).atexit = False
        except TypeError:  # nothing tells when it goes
            return self._tuples
        return self._by_model.setdefault(id(owner), OrderedDict())

    def keep(self, model: Any, form: _Form, kept: _Kept) -> None:
        """Keep an import, and let go of those of the model as it was, and of those not asked for lately."""
        found = self.of(model)
        if found is not self._tuples:
            for other in [each for each in found if each.state != form.state]:
                del found[other]
        found[form] = kept
        found.move_to_end(form)
        while len(found) > (_KEPT_TUPLES if found is self._tuples else _KEPT_FORMS):
            found.popitem(last=False)


_KEEPING = _Keeping()


def read_model(
    model: Any, example: Any, batch_axis: BatchAxis = 0, *, anew: bool = False, proven: bool = True
) -> Imported:
    """Import a model for inputs like these, or find the import of it that there is; `read` says more."""
    if example is None:
        raise InputError(
            "a JAX model is traced for its inputs: pass them, or example= where an Explainer is made of it"
        )
    configuration, function = Configuration.now(), pure(model)
    call, given = read_call(function.signature, example, batch_axis)
    form = _form(model, configuration, call, given)
    kept = None if anew or form is None else _KEEPING.of(model).get(form)
    if kept is None:
        kept = _imported(function, call, given, configuration)
    if form is not None:
        _KEEPING.keep(model, form, kept)
    source = _Source(model, kept.tracing)
    if proven and not kept.proven:
        _prove(kept, source, call.first(example))
    pending = None if kept.proven else partial(_prove, kept, source)
    return replace(kept.imported, source=source, prove=pending)


def source_of(imported: Imported) -> _Source:
    """The model behind an import of it."""
    assert isinstance(imported.source, _Source)
    return imported.source


def _form(model: Any, configuration: Configuration, call: Call, given: Given) -> _Form | None:
    """What an import is made for; None where something of the model cannot be looked into."""
    types = [(name, array.dtype, _single(array.shape, call.axis(name))) for name, array in given.arrays.items()]
    constants = [None if isinstance(leaf, Slot) else leaf for leaf in call.leaves]
    state, call_state = state_of(model), state_of(configuration.settings, str(call.tree), constants, types, call.axes)
    return None if state is None or call_state is None else _Form(state, call_state)


def _imported(function: Model, call: Call, given: Given, configuration: Configuration) -> _Kept:
    with configuration.set():
        function = replace(function, weights={name: own(weight) for name, weight in function.weights.items()})
        types = {name: np.dtype(jax.dtypes.canonicalize_dtype(array.dtype)) for name, array in given.arrays.items()}
    tracing = Tracing(function, call, types, configuration)
    shapes = {name: _single(array.shape, call.axis(name)) for name, array in given.arrays.items()}
    traced = tracing.at(shapes)
    imported = Imported(
        name=function.name,
        sha256=digest(traced, function),
        inputs=tuple(InputType(name, (None,) * given.arrays[name].ndim, dtype) for name, dtype in types.items()),
        lower=tracing.lower,
        unsupported=partial(tracing.unsupported, shapes),
        origin={"framework": function.framework, "exporter": f"jax {jax.__version__}"},
        feed=call.arrays,
        structure=call.shaped,
        notes=function.notes,
        rounding=coarsest(traced.jaxpr.jaxpr),
    )
    return _Kept(imported, tracing)


def _prove(kept: _Kept, source: _Source, feeds: Feeds, forward: proof.Forward | None = None) -> None:
    """Compare an import with its model, until it was proven once.

    Raises:
        ImportMismatchError: When they differ.
    """
    if kept.proven:
        return
    axes = dict(zip(source.call.names, source.call.axes, strict=True))
    imported = replace(kept.imported, source=source)
    proof.prove(imported, source.answer, feeds, forward or proof.lowered(imported, feeds, axes).compiled(), axes=axes)
    kept.proven = True


def _single(shape: tuple[int, ...], axis: int | None) -> tuple[int, ...]:
    return tuple(1 if k == axis else size for k, size in enumerate(shape))


def digest(traced: Traced, model: Model) -> str:
    """Hash of what a model computes, of its weights, and of the arrays that it holds."""
    found = hashlib.sha256(_ADDRESS.sub("", str(traced.jaxpr.jaxpr)).encode())
    found.update(repr(traced.names).encode())
    for name, array in (*sorted(model.weights.items()), *(("", const) for const in traced.jaxpr.consts)):
        plain = np.asarray(jax.random.key_data(array) if is_key(array) else array)
        found.update(f"{name} {plain.dtype} {plain.shape}".encode())
        found.update(np.ascontiguousarray(plain).reshape(-1).view(np.uint8).data)
    return found.hexdigest()
