"""From a Keras model to an `Imported`: written, to be proven against the model, and kept for the next call."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from backtrace_jax.errors import BacktraceError, ModelError, UnsupportedError
from backtrace_jax.errors.arguments import check_plain_file
from backtrace_jax.ir.imported import Gradient, Imported, Source

from ..jax.gradients import gradient as traced_gradient
from ..jax.tracing import Tracing
from ..onnx import read as read_onnx
from ..proof import Forward, lowered, prove
from . import (
    attention,  # noqa: F401  the tables of emitters are filled on import
    comparing,  # noqa: F401
    convolution,  # noqa: F401
    dense,  # noqa: F401
    diagonals,  # noqa: F401
    formulas,  # noqa: F401
    images,  # noqa: F401
    joining,  # noqa: F401
    losses,  # noqa: F401
    merging,  # noqa: F401
    moving,  # noqa: F401
    neural,  # noqa: F401
    normalization,  # noqa: F401
    operations,  # noqa: F401
    ordering,  # noqa: F401
    pooling,  # noqa: F401
    products,  # noqa: F401
    recurrent,  # noqa: F401
    reductions,  # noqa: F401
    scattering,  # noqa: F401
    shape,  # noqa: F401
    signals,  # noqa: F401
)
from .calling import hosted, signature_of
from .exclusions import NoRoadError
from .graph import is_network, network, runs_a_graph, walk
from .loading import Loaded, keras_package, load
from .running import Feed, Runner, quietly
from .tensor import Tensor, as_array
from .text import hosts
from .traced import traced_import
from .writer import Writer

_FILES_KEPT = 4  # models of files that are kept in memory


@dataclass
class _Written:
    """A model in one state of its weights as it was written, or traced; nothing here keeps the model alive."""

    digest: str
    imported: Imported
    runner: Runner
    tracing: Tracing | None = None
    proven: bool = False


_LOADED: dict[tuple[str, str], Loaded] = {}  # by name and hash of the content
_WRITTEN: WeakKeyDictionary[Any, _Written] = WeakKeyDictionary()


def exported(
    model: Any, example: Any = None, loaded: Loaded | None = None, *, together: bool = False, anew: bool = False
) -> Imported:
    """The import of a model; the same model with the same weights is read and proven once.

    Args:
        model: The model.
        example: Inputs, for which a model is traced that runs a call of its own.
        loaded: The file it is from.
        together: Whether the examples of a batch are one example, so that inputs come with an axis in front.
        anew: Whether it is read again in any case.
    """
    digest, written = _digest(model), _WRITTEN.get(model)
    if written is None or written.digest != digest or not digest or anew:
        written = _WRITTEN[model] = _kept(written, _read(model, digest, loaded, example, together=together), anew=anew)
    source = _Model(model, loaded, written, together)
    return replace(written.imported, prove=partial(_prove, source), source=source)


def _kept(before: _Written | None, found: _Written, *, anew: bool) -> _Written:
    """What was read before, where it is the same, with what was compiled for it."""
    return before if before is not None and before.imported.sha256 == found.imported.sha256 and not anew else found


def exported_file(path: Path, example: Any = None, *, together: bool = False) -> Imported:
    """The import of a file, read anew when its content changes; `exported` says more.

    Raises:
        ModelError: When there is no such file, or it cannot be read.
    """
    check_plain_file(path, ModelError)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    known = path.name, hashlib.sha256(data).hexdigest()
    loaded = _LOADED.pop(known, None) or load(path.name, data)
    _LOADED[known] = loaded  # the last place is that of the newest
    for oldest in [*_LOADED][:-_FILES_KEPT]:
        _LOADED.pop(oldest, None)
    return exported(loaded.model, example, loaded, together=together)


@dataclass(frozen=True)
class _Model(Source):
    """A model as it was written; see `importers.Source`."""

    model: Any
    loaded: Loaded | None
    written: _Written
    together: bool

    def read(self, inputs: Any, *, anew: bool = False) -> Imported:
        return exported(self.model, inputs, self.loaded, together=self.together, anew=anew)

    def answer(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if not self.together:
            return self.written.runner.run(self.model, feeds)
        found = self.written.runner.run(self.model, {name: array[0] for name, array in feeds.items()})
        return {name: array[None] for name, array in found.items()}

    def gradient(self, feeds: Mapping[str, np.ndarray], output: str, start: np.ndarray) -> Gradient | None:
        """A model that stops gradients is refused, others have the gradient of what they compute.

        Of one that was traced, gradients are compared, as those of JAX models are.
        """
        if self.written.tracing is not None:
            types = self.written.tracing.dtypes
            own = {key: array.astype(types[key]) for key, array in feeds.items()}
            return traced_gradient(self.written.tracing, own, output, start)
        name = next(_stops(self.model), None)
        if name is not None:
            raise UnsupportedError(
                f"gradient modes take the derivative of what the model computes, and layer {name!r} (StopGradient) "
                "tells Keras another gradient. Other modes are not affected; for the derivative explain its export: "
                "backtrace_jax.export(model, path)"
            )
        return None


def _stops(model: Any) -> Iterator[str]:
    """Names of the operations that stop gradients, those of models inside the model among them."""
    for each in network(model).operations:
        inner = getattr(each, "layer", each)  # what a wrapper applies
        if type(each).__name__ == "StopGradient":
            yield each.name
        elif is_network(inner):
            yield from _stops(inner)


def _prove(source: _Model, feeds: Mapping[str, np.ndarray], forward: Forward | None = None) -> None:
    """Compare an import with its model, until it was proven once."""
    written, axes = source.written, dict.fromkeys(feeds) if source.together else None
    if not written.proven:
        forward = forward or lowered(written.imported, feeds, axes).compiled()
        prove(written.imported, source.answer, feeds, forward, axes=axes)
        written.proven = True


def _digest(model: Any) -> str:
    """Hash of the model's configuration and weights; nothing where a configuration does not tell what it computes."""
    keras_package()
    found = hashlib.sha256()
    if not runs_a_graph(model):
        return ""
    try:
        with quietly():
            found.update(json.dumps(model.get_config(), default=str, sort_keys=True).encode())
    except (NotImplementedError, TypeError, ValueError):  # a layer of the user's own
        return ""
    for variable in model.variables:
        if variable.dtype != "string":
            found.update(np.ascontiguousarray(as_array(variable)).data)
    return found.hexdigest()


def _read(model: Any, digest: str, loaded: Loaded | None, example: Any, *, together: bool) -> _Written:
    """Read a model layer by layer, or as a whole by what JAX traces of it, where layers have no ONNX form.

    Raises:
        UnsupportedError: When it can be read on neither road.
    """
    try:
        return write(model, digest, loaded)
    except NoRoadError:
        raise
    except UnsupportedError as error:
        if keras_package().backend.backend() != "jax":
            error.args = (f"{error}; or set KERAS_BACKEND=jax, where it is traced as it is",)
            raise
        if not runs_a_graph(model):
            return trace(model, digest, loaded, example, together=together)
        try:
            return trace(model, digest, loaded, example, together=together)
        except BacktraceError as other:
            error.args = (f"{error}; nor can JAX's trace of it be explained: {other!s:.120}",)
            raise error from other


def trace(model: Any, digest: str, loaded: Loaded | None, example: Any = None, *, together: bool = False) -> _Written:
    """Read a model as a whole, by what JAX traces of it."""
    signature, layers = signature_of(model, example), hosted(network(model)) if runs_a_graph(model) else {}
    fronts = hosts(layers, {} if loaded is None else loaded.fronts)
    feed = Feed(signature.inputs, fronts, signature.ranks, signature)
    given = {} if example is None else feed(example)
    if together:
        given = {name: array[0] for name, array in given.items()}
    base, signature, tracing = traced_import(model, signature, given)
    feed = replace(feed, declared=base.inputs)
    name, more = (model.name, {}) if loaded is None else (loaded.name, loaded.origin)
    imported = replace(base, name=name, origin={**base.origin, **more}, feed=feed)
    return _Written(digest, imported, Runner(signature, signature.outputs), tracing)


def write(model: Any, digest: str, loaded: Loaded | None) -> _Written:
    """Read a model layer by layer."""
    keras, functional, writer = keras_package(), network(model), Writer()
    signature = signature_of(model)
    with quietly():
        tensors = [_input(writer, *each) for each in zip(signature.names, functional._inputs, strict=True)]
        outputs = keras.tree.flatten(walk(writer, functional, tensors))
    named = writer.output_names(signature.outputs, outputs)
    proto = writer.finish(model.name, named)
    base = read_onnx(proto, copy=False)
    ranks = {each.name: len(each.dims or ()) for each in base.inputs}
    imported = replace(
        base,
        name=model.name if loaded is None else loaded.name,
        origin=_origin(keras, writer.opset, loaded),
        feed=Feed(base.inputs, hosts(writer.hosts, {} if loaded is None else loaded.fronts), ranks),
        proto=proto,
    )
    return _Written(digest, imported, Runner(signature, tuple(named)))


def _origin(keras: Any, opset: int, loaded: Loaded | None) -> dict[str, str]:
    known = {"framework": f"keras {keras.__version__}", "exporter": "layer by layer", "opset": str(opset)}
    return {**known, **({} if loaded is None else loaded.origin)}


def _input(writer: Writer, name: str, symbol: Any) -> Tensor:
    if getattr(symbol, "sparse", False) or getattr(symbol, "ragged", False):
        raise NoRoadError(f"input {name!r} is sparse or ragged; declare it dense")
    return writer.input(name, tuple(symbol.shape), symbol.dtype)
