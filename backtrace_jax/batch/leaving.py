"""Where the outputs of a model hold the examples of a batch, and that nothing mixes them, found by its graph."""

from __future__ import annotations

from collections.abc import Mapping

from backtrace_jax.errors import (
    BacktraceError,
    DataDependentError,
    InputError,
    MixedExamplesError,
    ModelError,
    UnsupportedError,
)
from backtrace_jax.ir import Var
from backtrace_jax.ir.imported import Imported

from . import Leaving, leaving_of, proven
from .layout import Axes, Shape, own_shape


def leavings(model: Imported, axes: Axes, shapes: Mapping[str, Shape], count: int) -> tuple[Leaving, ...] | None:
    """What each output is for one example; None where all outputs are batch first as they come.

    Args:
        model: The model as it was read.
        axes: The axis of the batch in each of its inputs.
        shapes: Shape of each input for one example, without the batch.
        count: How many examples are explained.

    Raises:
        UnsupportedError: Naming the node that does something to several examples that it does not do to each alone.
        InputError: When a batch of the size that the file fixes would have to be filled up, and its examples interact.
    """
    if all(axis is None for axis in axes.values()):
        return None
    sizes = _declared_sizes(model, axes)
    rows = max((size for size in sizes if size), default=1)
    if rows > 1:
        return _of_fixed_batch(model, axes, shapes, count, rows)
    if count == 1 or 1 in sizes:
        return _of_one(model, axes, shapes)
    return _proven(model, axes, shapes, count)


def check_apart(model: Imported, axes: Axes, shapes: Mapping[str, Shape]) -> None:
    """That the examples of a batch whose size the file fixes do not interact.

    Raises:
        MixedExamplesError: Naming the node that mixes them.
    """
    rows = max((size for size in _declared_sizes(model, axes) if size), default=1)
    if rows > 1:
        leaving_of(model.lower(_sized(shapes, axes, rows)), axes, rows)


def _declared_sizes(model: Imported, axes: Axes) -> list[int | None]:
    """The sizes of the batch in each input that has one, None where it is dynamic."""
    pairs = ((entry.dims, axes[entry.name]) for entry in model.inputs)
    return [dims[axis] if dims else None for dims, axis in pairs if axis is not None]


def _proven(model: Imported, axes: Axes, shapes: Mapping[str, Shape], count: int) -> tuple[Leaving, ...] | None:
    """What each output is for one example; None where all are batch first, so that any batch is compiled once."""
    try:
        one = model.lower(_sized(shapes, axes, 1))
    except ModelError as error:
        raise ModelError(
            f"the model does not take an example alone: {error}. If the inputs are one example together, pass "
            "batch_axis=None"
        ) from error
    try:
        batch = model.lower(_sized(shapes, axes, count), examples=count)
    except DataDependentError:  # the caller knows the values of inputs that may decide
        raise
    except BacktraceError as error:
        raise UnsupportedError(
            f"the model takes one example, but not {count} together: {error}. Explain them one by one"
        ) from error
    found = proven(one, batch, axes, count)
    return None if all(map(_plain, found, one.graph.outputs)) else found


def _plain(each: Leaving, var: Var) -> bool:
    """Whether an output is batch first as it comes."""
    return not each.refused and each.axis == 0 and each.shape == var.shape


def _of_one(model: Imported, axes: Axes, shapes: Mapping[str, Shape]) -> tuple[Leaving, ...] | None:
    """One example at a time is what the model computes, whatever it would do to several."""
    one = model.lower(_sized(shapes, axes, 1))
    if all(var.shape[:1] == (1,) for var in one.graph.outputs):
        return None
    try:
        return _proven(model, axes, shapes, 2)
    except BacktraceError:  # no batch to be told: each output belongs to the example as a whole
        return None


def _of_fixed_batch(
    model: Imported, axes: Axes, shapes: Mapping[str, Shape], count: int, rows: int
) -> tuple[Leaving, ...] | None:
    """Runs of the size that the file fixes, whose examples may interact as long as no run is filled up."""
    program = model.lower(_sized(shapes, axes, rows))
    if model.alone and all(var.shape[:1] == (rows,) for var in program.graph.outputs):
        return None  # a trace that went row by row, whose examples were proven apart by its values
    try:
        found = leaving_of(program, axes, rows, mixing=count % rows == 0)
    except MixedExamplesError as error:
        raise InputError(_cannot(count, rows, error)) from error
    return None if all(not each.refused and each.axis == 0 for each in found) else found


def _cannot(count: int, rows: int, error: MixedExamplesError) -> str:
    """Why no output of a fixed batch is told."""
    if count % rows == 0:
        return f"{error.reason}, so that the whole batch is explained as one example only: pass batch_axis=None"
    return (
        f"{count} examples do not fill batches of {rows}, which the file fixes, and its examples interact: "
        f"{error.reason}. Pass a multiple of {rows} examples, or batch_axis=None"
    )


def _sized(shapes: Mapping[str, Shape], axes: Axes, count: int) -> dict[str, Shape]:
    """Full shapes of the model's own inputs for so many examples."""
    return {name: own_shape((count, *shape), axes[name]) for name, shape in shapes.items()}
