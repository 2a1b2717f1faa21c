"""A model traced at shapes, and lowered to a graph whose params are its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.extend import core
from jax.interpreters.partial_eval import dce_jaxpr

from backtrace_jax.ir import Program, Var
from backtrace_jax.passes.check import check

from . import scopes
from .calls import Call, outputs_by_name
from .lowering import Lowering
from .lowering import known as as_known
from .models import Model
from .primitives import PRIMITIVES

Shapes = Mapping[str, tuple[int, ...]]


def traced(model: Model, call: Call, types: Mapping[str, jax.ShapeDtypeStruct]) -> tuple[Any, list[str]]:
    """The jaxpr of a model, whose first inputs are its weights, and the names of its outputs."""
    names: list[str] = []

    def flat(weights: Mapping[str, Any], arrays: Mapping[str, Any]) -> list[Any]:
        outputs = outputs_by_name(called(model, call, weights, arrays))
        names[:] = outputs
        return [*outputs.values()]

    shaped = {name: jax.ShapeDtypeStruct(np.shape(weight), weight.dtype) for name, weight in model.weights.items()}
    with scopes.named():
        return jax.make_jaxpr(flat)(shaped, dict(types)), names


def called(model: Model, call: Call, weights: Mapping[str, Any], arrays: Mapping[str, Any]) -> Any:
    """What a model returns; one that is written for one example is called for each of a batch."""

    def one(arrays: Mapping[str, Any]) -> Any:
        args, kwargs = call.filled(arrays)
        return model.function(weights, *args, **kwargs)

    axes = dict(zip(call.names, call.axes, strict=True))
    if not model.single or all(axis is None for axis in axes.values()):
        return one(arrays)
    return jax.vmap(one, in_axes=(axes,))(dict(arrays))


def lower(
    model: Model,
    call: Call,
    dtypes: Mapping[str, np.dtype],
    shapes: Shapes,
    *,
    known: Mapping[str, np.ndarray] | None = None,
    **_: Any,
) -> Program:
    """Lower a model at these input shapes, by name.

    Args:
        model: The model.
        call: How it is called.
        dtypes: Types of its inputs.
        shapes: Their shapes.
        known: Values of inputs to specialise the graph to; they are no inputs of it any more.
    """
    types = {name: jax.ShapeDtypeStruct(shapes[name], dtype) for name, dtype in dtypes.items()}
    jaxpr, names = traced(model, call, types)
    jaxpr = core.ClosedJaxpr(dce_jaxpr(jaxpr.jaxpr, True, True)[0], jaxpr.consts)
    lowering = Lowering(PRIMITIVES)
    weights = {name: as_known(weight) for name, weight in model.weights.items()}
    for name, weight in weights.items():
        lowering.name(weight, name)
    given = known or {}
    inputs = {
        name: given[name] if name in given else lowering.input(name, shapes[name], dtype)
        for name, dtype in dtypes.items()
    }
    operands = [weights[name] for name in sorted(weights)] + [inputs[name] for name in sorted(inputs)]
    results = lowering.inline(jaxpr, operands)
    outputs = dict(zip(names, results, strict=True))
    for name, value in outputs.items():
        if isinstance(value, Var):
            lowering.rename(value, name)
    program = lowering.finish(outputs)
    check(program.graph)
    return program
