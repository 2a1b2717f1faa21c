"""The road by JAX: a model is traced as Keras runs it, where its layers have no ONNX form or its `call` is its own.

Weights, layers, inputs and outputs have the names that they have on the other road.
"""

from __future__ import annotations

import importlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any
from weakref import ref

import jax
import numpy as np
from jax.extend import core
from jax.interpreters.partial_eval import dce_jaxpr

from backtrace_jax.errors import ModelError, UnsupportedError
from backtrace_jax.ir.imported import Imported, InputType

from ..jax.arguments import Parameters
from ..jax.calls import Call, Slot, outputs_by_name
from ..jax.configuration import Configuration
from ..jax.lowering import live
from ..jax.models.model import Model
from ..jax.reading import digest
from ..jax.scopes import marked
from ..jax.tracing import Tracing
from .calling import Signature
from .exclusions import TRACED
from .graph import check_layer, describe, network, runs_a_graph, tree
from .running import holding, quietly, weights_of
from .tensor import as_array

_ANY = 83  # a size along an axis that may have any, as Keras itself supposes one
_SCOPES = "name_scope_stack"  # where Keras keeps them
_CALLS = frozenset(("jit", "pjit", "closed_call", "remat", "checkpoint", "custom_jvp_call"))
_COMPARISONS = frozenset(("eq", "ne", "lt", "le", "gt", "ge"))
_MEANT = (("f", "i"), ("i", "f"), ("u", "f"))  # kinds of number: declared, and read


def traced_import(
    model: Any, signature: Signature, given: Mapping[str, np.ndarray]
) -> tuple[Imported, Signature, Tracing]:
    """The import of a model by what JAX traces of it, how it is called, with the names of its outputs, and the trace.

    Args:
        model: The model.
        signature: How it is called.
        given: Inputs by name, whose sizes it is traced for where none are declared; nothing where there are none yet.

    Raises:
        UnsupportedError: When it cannot be traced, or computes what has no rule.
    """
    _check(model)
    call, pure = _call(signature.names), _pure(model, signature)
    declared = {each.name: each.dtype for each in signature.inputs}
    shapes = {each.name: _shape(each, given) for each in signature.inputs}
    tracing = Tracing(pure, call, declared, Configuration.now())
    first = tracing.at(shapes)
    jaxpr = core.ClosedJaxpr(dce_jaxpr(first.jaxpr.jaxpr, True, True)[0], first.jaxpr.consts)
    read_as = _read_as(jaxpr, call.names, declared)
    taken = {**declared, **{name: dtype for name, dtype in read_as.items() if dtype.kind == "i"}}
    tracing = tracing if taken == declared and not read_as else replace(tracing, dtypes=taken, read_as=read_as)
    if given or all(None not in (each.dims or ())[1:] for each in signature.inputs):
        tracing.lower(shapes)  # what has no rule is said at once
    imported = Imported(
        name=model.name,
        sha256=digest(tracing.at(shapes), pure),
        inputs=tuple(InputType(each.name, each.dims, read_as.get(each.name, each.dtype)) for each in signature.inputs),
        lower=tracing.lower,
        unsupported=partial(tracing.unsupported, shapes),
        origin={"framework": pure.framework, "exporter": TRACED},
    )
    return imported, replace(signature, outputs=tuple(first.names)), tracing


def _check(model: Any) -> None:
    for layer in model._flatten_layers():
        try:
            check_layer(layer)
        except UnsupportedError as error:
            error.args = (f"{describe(layer)}: {error}",)
            raise


def _pure(model: Any, signature: Signature) -> Model:
    """The model as a function of its weights, and of its inputs by name in whatever types; does not keep it alive."""
    held, keras = ref(model), importlib.import_module("keras")
    name, weights = model.name, {path: as_array(variable) for path, variable in weights_of(model).items()}

    def function(weights: Mapping[str, Any], arrays: Mapping[str, Any]) -> Any:
        found = held()
        if found is None:
            raise ModelError(f"the model {name!r} is gone that this was imported from; keep a reference to it")
        with quietly(), holding(found, weights), _named_by_layers(found):
            values = [arrays[each.name].astype(each.dtype) for each in signature.inputs]
            returned = signature.returned(found, values)
        if not signature.outputs:
            return OrderedDict(_apart(signature.names, outputs_by_name(returned)))
        return OrderedDict(_apart(signature.names, zip(signature.outputs, tree().flatten(returned), strict=True)))

    return Model(name, f"keras {keras.__version__}", function, weights, None)


def _apart(taken: Iterable[str], named: Any) -> dict[str, Any]:
    """Outputs by names that no input and no other output has."""
    found: dict[str, Any] = {}
    for stem, value in dict(named).items() if isinstance(named, dict) else named:
        names = (f"{stem}_{number}" if number else stem for number in count())
        found[next(name for name in names if name not in found and name not in taken)] = value
    return found


@contextmanager
def _named_by_layers(model: Any) -> Iterator[None]:
    """Inside, what this thread traces of layers is named by their paths in the model, and their calls are told apart.

    Keras keeps the scopes of the layers that are being called in a list of the thread; it is another one meanwhile.
    """
    state = importlib.import_module("keras.src.backend.common.global_state")
    before = state.get_global_attribute(_SCOPES)
    state.set_global_attribute(_SCOPES, _Scopes(network(model) if runs_a_graph(model) else model))
    try:
        yield
    finally:
        state.set_global_attribute(_SCOPES, before)


class _Scopes(list[Any]):
    """Keras' scopes of the layers that are being called, each of which opens one of ours in JAX."""

    def __init__(self, root: Any) -> None:
        super().__init__()
        self._root, self._paths, self._number = root, [""], count()

    def append(self, scope: Any) -> None:
        path = self._paths[-1]
        if scope.caller is self._root:
            scope._jax_name_scope = nullcontext()  # the model itself is not part of the paths inside it
        else:
            path = f"{path}/{scope.name}".lstrip("/")
            scope._jax_name_scope = jax.named_scope(marked(path, next(self._number)))
        super().append(scope)
        self._paths.append(path)

    def pop(self, *place: Any) -> Any:
        self._paths.pop()
        return super().pop(*place)


def _call(names: Iterable[str]) -> Call:
    """A call whose only argument is a dict of the inputs."""
    slots = {name: Slot(name) for name in sorted(names)}
    leaves, tree = jax.tree_util.tree_flatten(((slots,), {}))
    return Call((*slots,), tree, (*leaves,), (0,) * len(slots), Parameters())


def _shape(declared: InputType, given: Mapping[str, np.ndarray]) -> tuple[int, ...]:
    """The shape of one example, of any size where none is known."""
    sizes = given[declared.name].shape if declared.name in given else declared.dims or ()
    return (1, *(_ANY if size is None else size for size in sizes[1:]))


def _read_as(jaxpr: Any, names: Sequence[str], declared: Mapping[str, np.dtype]) -> dict[str, np.dtype]:
    """Inputs that the model reads in another kind of number than it declares, with that type.

    Token ids declared as floats bear relevance as integers only, and pixels declared as integers as real numbers only.
    """
    found = {}
    for name, var in zip(names, jaxpr.jaxpr.invars[len(jaxpr.jaxpr.invars) - len(names) :], strict=True):
        readers = [*_readers(jaxpr.jaxpr, var)]
        casts = {eqn.params.get("new_dtype") for eqn in readers if eqn.primitive.name not in _COMPARISONS}
        (target,) = casts if len(casts) == 1 else (None,)
        kinds = (declared[name].kind, np.dtype(target).kind if target is not None else "")
        compared = any(eqn.primitive.name in _COMPARISONS for eqn in readers)
        if kinds in _MEANT and (kinds[1] == "i" or not compared):
            found[name] = np.dtype(target)
    return found


def _readers(jaxpr: Any, var: Any) -> Iterator[Any]:
    """The equations that read a variable, in functions that are called with it as well."""
    for eqn in live(jaxpr):
        bodies = [*core.jaxprs_in_params(eqn.params)] if eqn.primitive.name in _CALLS else []
        for place, atom in enumerate(eqn.invars):
            if atom is var:
                yield from _readers(bodies[0], bodies[0].invars[place]) if len(bodies) == 1 else (eqn,)
