"""Where a model keeps its batch: brought to the front, so that everything behind sees examples first.

A model whose batch is another axis gets transpositions in front of and behind its graph, one without a batch reshapes;
both are moves, and relevance passes them like any other. What is for all examples (a temperature, a sampling rate) is
given to each of them. Where outputs hold the examples, and that nothing mixes them, is followed through the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import compress
from typing import Any, TypeAlias, TypeVar

import numpy as np

from backtrace_jax.errors import InputError, SettingError
from backtrace_jax.errors.arguments import more_than_numbers
from backtrace_jax.errors.texts import shown
from backtrace_jax.ir import Eqn, Graph, Program, Var
from backtrace_jax.ir.imported import Imported, InputType

from . import Leaving

BatchAxis: TypeAlias = "int | Mapping[str, int | None] | None"
"""Axis of the batch in every input, None where there is none; or one by input name, None where all share the input."""

Axes: TypeAlias = Mapping[str, int | None]
Shape: TypeAlias = tuple[int, ...]
Size = TypeVar("Size", bound=int | None)


def axes_of(model: Imported, batch_axis: BatchAxis) -> dict[str, int | None]:
    """The axis of the batch in each input.

    Raises:
        SettingError: When an axis, or an input, does not exist.
    """
    return _axes(
        {entry.name: (entry, None if entry.dims is None else len(entry.dims)) for entry in model.inputs},
        batch_axis,
    )


def axes_in(shapes: Mapping[str, Shape], batch_axis: BatchAxis) -> dict[str, int | None]:
    """The axis of the batch in inputs of these shapes.

    Raises:
        SettingError: When an axis, or an input, does not exist.
    """
    return _axes({name: (f"{name} {list(shape)}", len(shape)) for name, shape in shapes.items()}, batch_axis)


def _axes(inputs: Mapping[str, tuple[object, int | None]], batch_axis: BatchAxis) -> dict[str, int | None]:
    """The axis of the batch in inputs that are described and of a rank, which may not be declared."""
    if isinstance(batch_axis, Mapping) and batch_axis.keys() - inputs.keys():
        unknown = ", ".join(sorted(map(str, batch_axis.keys() - inputs.keys())))
        raise SettingError(f"batch_axis: no input is called {unknown}; there are: {', '.join(inputs)}")
    chosen = {name: batch_axis.get(name, 0) if isinstance(batch_axis, Mapping) else batch_axis for name in inputs}
    return {name: _axis(chosen[name], *inputs[name]) for name in inputs}


def _axis(axis: Any, described: object, rank: int | None) -> int | None:
    if axis is None or (rank == 0 and axis == 0):  # a number without axes: the check of the inputs has more to say
        return axis
    if not isinstance(axis, int) or isinstance(axis, bool) or (rank is not None and not -rank <= axis < rank):
        raise SettingError(
            f"batch_axis={shown(axis)} is no axis of input {described}; None stands for an input without batch"
        )
    if rank is None and axis < 0:
        raise SettingError(f"batch_axis={shown(axis)}: input {described} declares no rank; count from the front")
    return axis % rank if rank else axis


def batch_first(model: Imported, axes: Axes) -> Imported:
    """The same model with the batch of its inputs in front."""
    if all(axis == 0 for axis in axes.values()):
        return model
    declared = tuple(replace(entry, dims=dims_first(entry.dims, axes[entry.name])) for entry in model.inputs)
    return replace(model, inputs=declared, lower=lambda shapes: _entered(model, shapes, axes))


def dims_first(dims: Sequence[int | None] | None, axis: int | None) -> tuple[int | None, ...] | None:
    """Declared sizes with the batch in front; a batch of one where there is none."""
    if dims is None:
        return None
    return (1, *dims) if axis is None else (dims[axis], *dims[:axis], *dims[axis + 1 :])


def inputs_first(inputs: Any, names: Sequence[str], axes: Axes) -> Any:
    """The user's inputs with their batch in front; anything that does not fit is left for later checks to name.

    An input without a batch is given to every example of the others.
    """
    if all(axis == 0 for axis in axes.values()):
        return inputs
    if not isinstance(inputs, Mapping):
        inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        if len(inputs) != len(names):
            return inputs
    given = inputs if isinstance(inputs, Mapping) else dict(zip(names, inputs, strict=True))
    first = {name: moved_first(name, value, axes.get(name, 0)) for name, value in given.items()}
    count = next((len(array) for name, array in first.items() if axes.get(name, 0) is not None and array.ndim), 1)
    return {name: array if axes.get(name, 0) is not None else _repeated(array, count) for name, array in first.items()}


def moved_first(name: str, value: Any, axis: int | None) -> np.ndarray:
    """An array with its batch in front; one without a batch is a batch of one."""
    if more := more_than_numbers(value):
        raise InputError(f"input {name!r} {more}")
    array = np.asarray(value)
    if axis is None:
        return array[None]
    if axis and not -array.ndim <= axis < array.ndim:
        raise InputError(f"input {name!r} of shape {list(array.shape)} has no axis {axis}, where its batch should be")
    return np.moveaxis(array, axis, 0) if axis else array


def _repeated(array: np.ndarray, count: int) -> np.ndarray:
    return np.broadcast_to(array, (count, *array.shape[1:]))


def examples_in_front(axes: Axes) -> Axes:
    """Where the arrays of many examples hold them: in front where the model itself has no batch at all."""
    return dict.fromkeys(axes, 0) if all(axis is None for axis in axes.values()) else axes


def own_inputs(inputs: Mapping[str, np.ndarray], axes: Axes) -> dict[str, np.ndarray]:
    """Inputs whose examples are in front, as the user of the model has them."""
    places = axes.items()
    return {name: inputs[name][0] if axis is None else np.moveaxis(inputs[name], 0, axis) for name, axis in places}


class _Kept:
    """Lowers a model; what it was lowered to last is given out once more before it is lowered anew."""

    def __init__(self, lower: Callable[..., Program]) -> None:
        self._lower = lower
        self._held: dict[Any, Program] = {}

    def __call__(self, shapes: Mapping[str, Shape], **more: Any) -> Program:
        key = tuple(sorted(shapes.items()))
        if more or key in self._held:
            return self._lower(shapes, **more) if more else self._held.pop(key)
        self._held = {key: self._lower(shapes)}
        return self._held[key]


def kept(model: Imported) -> Imported:
    """The same model, which is not lowered twice to be followed and to be explained."""
    return model if isinstance(model.lower, _Kept) else replace(model, lower=_Kept(model.lower))


def own_shape(shape: tuple[Size, ...], axis: int | None) -> tuple[Size, ...]:
    """A shape with the batch in front as the model itself has it; a single number has no place for one."""
    return shape[1:] if axis is None or not shape else (*shape[1 : axis + 1], shape[0], *shape[axis + 1 :])


def _entered(model: Imported, shapes: Mapping[str, Shape], axes: Axes) -> Program:
    """The model's graph behind moves that bring the batch from the front to its own place."""
    program = model.lower({name: own_shape(shape, axes[name]) for name, shape in shapes.items()})
    graph = program.graph
    first = [_entering(var, shapes[var.name], axes[var.name]) for var in graph.inputs]
    inner = {var.name: eqn.outvars[0] for var, eqn in zip(graph.inputs, first, strict=True) if eqn}
    graph = _renamed(graph, inner)
    inputs = tuple(eqn.invars[0] if eqn else var for var, eqn in zip(graph.inputs, first, strict=True))
    eqns = (*(eqn for eqn in first if eqn), *graph.eqns)
    entered = replace(program, graph=replace(graph, inputs=inputs, eqns=eqns))
    if any(axis is not None for axis in axes.values()):
        return entered
    return left(entered, tuple(Leaving(var.shape, None) for var in entered.graph.outputs))


def left(program: Program, found: Sequence[Leaving] | None, rows: int = 1) -> Program:
    """The program with the batch of its outputs in front, without those that are not told for one example."""
    if found is None:
        return program
    graph = program.graph
    kept = [not each.refused for each in found]
    told = list(compress(zip(graph.outputs, found, strict=True), kept))
    moves = {var.name: _leaving(var, each, rows) for var, each in told}
    outputs = tuple(moves[var.name][-1].outvars[0] if moves[var.name] else var for var, _ in told)
    names = tuple(compress(graph.output_names, kept))
    eqns = (*graph.eqns, *(eqn for each in moves.values() for eqn in each))
    return replace(program, graph=replace(graph, eqns=eqns, outputs=outputs, output_names=names))


def _entering(var: Var, shape: Shape, axis: int | None) -> Eqn | None:
    """The move of an input from batch first to the model's own layout; None where that is the same."""
    if axis == 0:
        return None
    given = Var(var.name, shape, var.dtype)
    inner = Var(f"{var.name}.in_place", var.shape, var.dtype)
    if axis is None:
        return Eqn("reshape", (given,), (inner,), {"shape": var.shape})
    perm = (*range(1, axis + 1), 0, *range(axis + 1, len(shape)))
    return Eqn("transpose", (given,), (inner,), {"perm": perm})


def _leaving(var: Var, found: Leaving, rows: int) -> list[Eqn]:
    """The moves of an output that bring its batch to the front; none where it is there."""
    if found.axis is None:
        return [] if rows > 1 else _reshaping(var, (1, *found.shape))
    size = tuple(rows if axis == found.axis else n for axis, n in enumerate(found.shape))
    moves = _reshaping(var, size)
    if found.axis == 0:
        return moves
    perm = (found.axis, *(axis for axis in range(len(size)) if axis != found.axis))
    given = moves[-1].outvars[0] if moves else var
    turned = Var(f"{var.name}.batch_first", tuple(size[axis] for axis in perm), var.dtype)
    return [*moves, Eqn("transpose", (given,), (turned,), {"perm": perm})]


def _reshaping(var: Var, shape: Shape) -> list[Eqn]:
    if var.shape == shape:
        return []
    return [Eqn("reshape", (var,), (Var(f"{var.name}.batched", shape, var.dtype),), {"shape": shape})]


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
            f"inputs fix different sizes of their batch, here first: {found}; if it is another axis of some, or none "
            "(None), pass batch_axis= by input"
        )
    return next(iter(sizes), 1) or 1
