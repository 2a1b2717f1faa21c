"""A model traced at shapes, and lowered to a graph whose params are its weights."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.interpreters.partial_eval import dce_jaxpr

from backtrace_jax.ir import Program, Var
from backtrace_jax.passes.check import check

from . import scopes
from .calls import Call, outputs_by_name
from .configuration import Configuration
from .listing import Listing
from .lowering import Lowering
from .lowering import known as as_known
from .models.model import Model, is_key
from .primitives import PRIMITIVES
from .refusing import refusing

Shapes = Mapping[str, tuple[int, ...]]
Arrays = Mapping[str, Any]

_KEPT = 8  # shapes that a model is held traced for


class Traced(NamedTuple):
    """What a model computes at some shapes.

    Attributes:
        jaxpr: Takes the weights and the inputs, each sorted by name.
        names: Names of its outputs.
        paths: Where the function has the arrays that `jaxpr` holds; empty where that is unknown.
        run: The same, compiled: takes the arrays that `jaxpr` holds, then what it takes.
    """

    jaxpr: Any
    names: list[str]
    paths: list[str]
    run: Callable[..., Sequence[Any]]


@dataclass
class Tracing:
    """Traces a model for calls of one kind; a shape that it was traced for lately is not traced again.

    Attributes:
        model: The model.
        call: How it is called.
        dtypes: Types of the inputs, by name.
        configuration: How JAX is set.
        read_as: Types in which the graph takes inputs that the model itself converts to them.
    """

    model: Model
    call: Call
    dtypes: Mapping[str, np.dtype]
    configuration: Configuration
    read_as: Mapping[str, np.dtype] = field(default_factory=dict)
    _known: OrderedDict[Any, Traced] = field(default_factory=OrderedDict, init=False)

    def at(self, shapes: Shapes) -> Traced:
        """The model traced at these shapes of its inputs.

        Raises:
            BacktraceError: Naming the line of the model's code that cannot be traced.
        """
        key = tuple(shapes[name] for name in self.call.names)
        if key not in self._known:
            with self.configuration.set(), refusing(self.model.name, shapes):
                self._known[key] = self._traced(shapes)
        self._known.move_to_end(key)
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return self._known[key]

    def double(self) -> Tracing:
        """The same model with weights and inputs in double precision."""
        weights = {name: _doubled(weight) for name, weight in self.model.weights.items()}
        dtypes = {name: np.dtype(np.float64) if dtype.kind == "f" else dtype for name, dtype in self.dtypes.items()}
        return replace(
            self, model=replace(self.model, weights=weights), dtypes=dtypes, configuration=self.configuration.double()
        )

    def _traced(self, shapes: Shapes) -> Traced:
        names: list[str] = []

        def flat(weights: Arrays, arrays: Arrays) -> list[Any]:
            outputs = outputs_of(self.model, self.call, weights, arrays)
            names[:] = outputs
            return [*outputs.values()]

        weights = {name: _type(weight) for name, weight in self.model.weights.items()}
        inputs = {name: jax.ShapeDtypeStruct(shapes[name], self.dtypes[name]) for name in self.call.names}
        with scopes.named():
            jaxpr = jax.make_jaxpr(flat)(weights, inputs)
        held = {id(array): path for path, array in self.model.held.items()}
        paths = [held.get(id(const), held.get(id(getattr(const, "base", None)), "")) for const in jaxpr.consts]
        jaxpr = core.ClosedJaxpr(jaxpr.jaxpr, [*map(own, jaxpr.consts)])

        def run(consts: Sequence[Any], weights: Arrays, arrays: Arrays) -> Sequence[Any]:
            operands = jax.tree_util.tree_leaves((weights, arrays))
            return core.jaxpr_as_fun(core.ClosedJaxpr(jaxpr.jaxpr, [*consts]))(*operands)

        return Traced(jaxpr, names, paths, jax.jit(run))

    def run(self, arrays: Arrays) -> dict[str, Any]:
        """What the model answers, by name, compiled with its weights as arguments; arrays are as its user has them."""
        traced = self.at({name: np.shape(array) for name, array in arrays.items()})
        with self.configuration.set():
            results = traced.run(traced.jaxpr.consts, dict(self.model.weights), dict(arrays))
        return dict(zip(traced.names, results, strict=True))

    def lower(self, shapes: Shapes, *, known: Mapping[str, np.ndarray] | None = None, **_: Any) -> Program:
        """The model lowered at input shapes.

        Args:
            shapes: Shapes by name.
            known: Values of inputs to specialise the graph to; they are no inputs of it any more.
        """
        lowering = Lowering(PRIMITIVES)
        outputs = self._outputs(lowering, shapes, known or {})
        for name, value in outputs.items():
            if isinstance(value, Var):
                lowering.rename(value, name)
        program = lowering.finish(outputs)
        check(program.graph)
        return program

    def unsupported(self, shapes: Shapes) -> list[tuple[str, str, str]]:
        """Node, operator and reason of everything that cannot be lowered at these shapes."""
        lowering = Listing(PRIMITIVES)
        self._outputs(lowering, shapes, {})
        return lowering.missing

    def _outputs(self, lowering: Lowering, shapes: Shapes, given: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """What the model returns, lowered."""
        traced = self.at(shapes)
        weights = {name: as_known(weight) for name, weight in self.model.weights.items()}
        for name, weight in weights.items():
            lowering.name(weight, name)
        inputs = {
            name: given[name] if name in given else lowering.input(name, shapes[name], self.read_as.get(name, dtype))
            for name, dtype in self.dtypes.items()
        }
        operands = [weights[name] for name in sorted(weights)] + [inputs[name] for name in sorted(inputs)]
        return dict(zip(traced.names, lowering.inline(self._labelled(lowering, traced), operands), strict=True))

    def _labelled(self, lowering: Lowering, traced: Traced) -> Any:
        """The jaxpr without what nobody reads; arrays that a function holds are called as the function calls them."""
        consts = [as_known(const) for const in traced.jaxpr.consts]
        for const, path in zip(consts, traced.paths, strict=True):
            if path:
                lowering.name(const, path)
        return core.ClosedJaxpr(dce_jaxpr(traced.jaxpr.jaxpr, True, True)[0], consts)


def own(array: Any) -> Any:
    """An array that its owner does not write into, in the type that JAX gives it."""
    if isinstance(array, jax.Array):
        return array
    return np.array(array, jax.dtypes.canonicalize_dtype(array.dtype))


def _doubled(weight: Any) -> Any:
    floating = not is_key(weight) and jnp.issubdtype(weight.dtype, np.floating)
    return np.asarray(weight, np.float64) if floating else weight


def _type(weight: Any) -> jax.ShapeDtypeStruct:
    """The type of a weight as JAX takes it."""
    if is_key(weight):
        return jax.ShapeDtypeStruct(weight.shape, weight.dtype)
    weak = getattr(weight, "weak_type", False)
    return jax.ShapeDtypeStruct(np.shape(weight), jax.dtypes.canonicalize_dtype(weight.dtype), weak_type=weak)


def outputs_of(model: Model, call: Call, weights: Arrays, arrays: Arrays) -> dict[str, Any]:
    """What a model returns, by name; one that is written for one example is called for each of a batch."""

    def one(arrays: Arrays) -> dict[str, Any]:
        args, kwargs = call.filled(arrays)
        return outputs_by_name(model.function(weights, *args, **kwargs))

    axes = dict(zip(call.names, call.axes, strict=True))
    if not model.single or all(axis is None for axis in axes.values()):
        return one(arrays)
    return jax.vmap(one, in_axes=(axes,))(dict(arrays))
