"""Where a model keeps its batch: brought to the front, so that everything behind sees examples first.

A model whose batch is another axis gets transpositions in front of and behind its graph, one without a batch reshapes;
both are moves, and relevance passes them like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from .errors import InputError, SettingError
from .importers import Imported, InputType
from .ir import Eqn, Graph, Program, Var

BatchAxis: TypeAlias = "int | Mapping[str, int | None] | None"
"""Axis of the batch in every input, None where there is none; or one by input name."""

Shape: TypeAlias = tuple[int, ...]


def batch_first(model: Imported, batch_axis: BatchAxis) -> Imported:
    """The same model with its batch in front.

    Raises:
        SettingError: When an axis does not exist.
    """
    axes = {entry.name: _axis(entry, batch_axis) for entry in model.inputs}
    if isinstance(batch_axis, Mapping) and batch_axis.keys() - axes.keys():
        unknown = ", ".join(sorted(map(str, batch_axis.keys() - axes.keys())))
        raise SettingError(f"batch_axis: no input is called {unknown}; there are: {', '.join(axes)}")
    if all(axis == 0 for axis in axes.values()):
        return model
    declared = tuple(replace(entry, dims=_dims_first(entry.dims, axes[entry.name])) for entry in model.inputs)
    return replace(model, inputs=declared, lower=lambda shapes: _lowered(model, shapes, axes))


def _axis(entry: InputType, batch_axis: BatchAxis) -> int | None:
    axis = batch_axis.get(entry.name, 0) if isinstance(batch_axis, Mapping) else batch_axis
    if axis is None:
        return None
    rank = None if entry.dims is None else len(entry.dims)
    if not isinstance(axis, int) or isinstance(axis, bool) or (rank is not None and not -rank <= axis < rank):
        raise SettingError(f"batch_axis={axis!r} is no axis of input {entry}; None stands for a model without batch")
    if rank is None and axis < 0:
        raise SettingError(f"batch_axis={axis!r}: input {entry} declares no rank; count from the front")
    return axis % rank if rank else axis


def _dims_first(dims: Sequence[int | None] | None, axis: int | None) -> tuple[int | None, ...] | None:
    if dims is None:
        return None
    return (1, *dims) if axis is None else (dims[axis], *dims[:axis], *dims[axis + 1 :])


def moved_first(name: str, value: Any, axis: int | None) -> Any:
    """An input with its batch in front; one without a batch is a batch of one."""
    array = np.asarray(value)
    if axis is None:
        return array[None]
    if not -array.ndim <= axis < array.ndim:
        raise InputError(f"input {name!r} of shape {list(array.shape)} has no axis {axis}, where its batch should be")
    return np.moveaxis(array, axis, 0)


def inputs_first(inputs: Any, names: Sequence[str], batch_axis: BatchAxis) -> Any:
    """The user's inputs with their batch in front; anything that does not fit is left for later checks to name."""
    if batch_axis == 0:
        return inputs
    given = inputs if isinstance(inputs, Mapping) else dict(zip(names, inputs, strict=False))
    if not isinstance(inputs, Mapping | tuple):
        given = {names[0]: inputs}
    if isinstance(inputs, tuple) and len(inputs) != len(names):
        return inputs
    axes = batch_axis if isinstance(batch_axis, Mapping) else dict.fromkeys(names, batch_axis)
    return {name: moved_first(name, value, axes.get(name, 0)) for name, value in given.items()}


def _lowered(model: Imported, shapes: Mapping[str, Shape], axes: Mapping[str, int | None]) -> Program:
    """The model's graph between moves that bring the batch to the front, and from there to its own place."""
    program = model.lower({name: _own(shape, axes[name]) for name, shape in shapes.items()})
    batched = any(axis is not None for axis in axes.values())
    twice = model.lower({name: _own(_doubled(shape, axes[name]), axes[name]) for name, shape in shapes.items()})
    graph, wider = program.graph, twice.graph.outputs
    places = [_place(var, other) if batched else None for var, other in zip(graph.outputs, wider, strict=True)]
    first = [_entering(var, shapes[var.name], axes[var.name]) for var in graph.inputs]
    graph = _renamed(graph, {var.name: eqn.outvars[0] for var, eqn in zip(graph.inputs, first, strict=True)})
    last = {var.name: _leaving(var, place) for var, place in zip(graph.outputs, places, strict=True)}
    outputs = tuple(eqn.outvars[0] if (eqn := last[var.name]) else var for var in graph.outputs)
    eqns = (*first, *graph.eqns, *(eqn for eqn in last.values() if eqn))
    inputs = tuple(eqn.invars[0] for eqn in first)
    return replace(program, graph=Graph(inputs, graph.params, eqns, outputs, graph.output_names))


def _own(shape: Shape, axis: int | None) -> Shape:
    """A shape with the batch in front as the model itself has it."""
    return shape[1:] if axis is None else (*shape[1 : axis + 1], shape[0], *shape[axis + 1 :])


def _doubled(shape: Shape, axis: int | None) -> Shape:
    return shape if axis is None else (2 * shape[0], *shape[1:])


def _place(var: Var, wider: Var) -> int | None:
    """The axis of an output that grows with the batch; None where none does."""
    growing = [axis for axis, (one, two) in enumerate(zip(var.shape, wider.shape, strict=True)) if one != two]
    if len(growing) > 1:
        raise SettingError(f"batch_axis: output {var.name!r} grows along axes {growing} with the batch")
    return growing[0] if growing else None


def _entering(var: Var, shape: Shape, axis: int | None) -> Eqn:
    """The move of an input from batch first to the model's own layout."""
    given = Var(var.name, shape, var.dtype)
    inner = Var(f"{var.name}.in_place", var.shape, var.dtype)
    if axis is None:
        return Eqn("reshape", (given,), (inner,), {"shape": var.shape})
    perm = (*range(1, axis + 1), 0, *range(axis + 1, len(shape)))
    return Eqn("transpose", (given,), (inner,), {"perm": perm})


def _leaving(var: Var, axis: int | None) -> Eqn | None:
    """The move of an output that brings its batch to the front; None where it is there."""
    if axis == 0:
        return None
    name, rank = f"{var.name}.batch_first", len(var.shape)
    if axis is None:
        shape = (1, *var.shape)
        return Eqn("reshape", (var,), (Var(name, shape, var.dtype),), {"shape": shape})
    perm = (axis, *(i for i in range(rank) if i != axis))
    shape = tuple(var.shape[i] for i in perm)
    return Eqn("transpose", (var,), (Var(name, shape, var.dtype),), {"perm": perm})


def _renamed(graph: Graph, names: Mapping[str, Var]) -> Graph:
    """The graph with its inputs read under other names."""
    eqns = tuple(replace(eqn, invars=tuple(names.get(var.name, var) for var in eqn.invars)) for eqn in graph.eqns)
    return replace(graph, eqns=eqns, outputs=tuple(names.get(var.name, var) for var in graph.outputs))


def rows_of(declared: Sequence[InputType]) -> int:
    """How many examples one run of the model takes: more than one where the file fixes the size of its batch.

    Raises:
        InputError: When inputs fix different sizes.
    """
    sizes = {entry.dims[0] for entry in declared if entry.dims} - {None, 1}
    if len(sizes) > 1:
        found = "; ".join(map(str, declared))
        raise InputError(
            f"inputs fix different sizes of their first axis: {found}; if it is no batch, pass batch_axis="
        )
    return next(iter(sizes), 1) or 1
