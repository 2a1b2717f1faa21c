"""`check` and `show`: what a model consists of and whether it can be explained, without compiling anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from backtrace_jax.batch import Leaving
from backtrace_jax.batch.layout import Axes, BatchAxis, axes_of, batch_first, inputs_first, kept, left, rows_of
from backtrace_jax.batch.leaving import leavings
from backtrace_jax.engine.plan import plan_walk
from backtrace_jax.engine.steps import Plan
from backtrace_jax.errors import BacktraceError, DataDependentError, ModelError, UnsupportedError
from backtrace_jax.errors.arguments import known_arguments
from backtrace_jax.errors.texts import printable
from backtrace_jax.explanation.cautions import inputs_forgotten
from backtrace_jax.importers import jax, read
from backtrace_jax.ir import Graph, Program
from backtrace_jax.ir.imported import Imported, InputType
from backtrace_jax.passes import simplify
from backtrace_jax.question.feeds import Inputs, read_inputs, refuse_datasets
from backtrace_jax.question.settings import given_axes
from backtrace_jax.rules import Mode, find_mode

from .specialising import VALUE_OF, Deciding

NOMINAL = 64  # size taken for dynamic axes other than the batch where no inputs are given


@dataclass(frozen=True)
class SupportRow:
    """One equation of the lowered model, or one node that cannot be lowered.

    Attributes:
        node: Name of the node it came from.
        operator: Qualified ONNX operator.
        operation: Operation of the graph; empty where there is none.
        kind: What kind of thing it is where it stands; empty where it carries no relevance or is missing.
        rule: The rule of the mode; empty likewise.
        problem: Why it is not supported; empty where it is.
    """

    node: str
    operator: str
    operation: str = ""
    kind: str = ""
    rule: str = ""
    problem: str = ""


@dataclass(frozen=True)
class SupportReport:
    """What `check` found; prints as a table with one line per operator, kind and rule."""

    model: str
    mode: str
    rows: tuple[SupportRow, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the model can be explained."""
        return not self.problems

    def __str__(self) -> str:
        """Format the table, then the problems or a line that says there are none."""
        counted = Counter((row.operator, row.operation, row.kind, row.rule) for row in self.rows)
        table = [("operator", "operation", "kind", "rule", "nodes")]
        table += [(*key, str(count)) for key, count in counted.items()]
        closing = [f"missing: {problem}" for problem in self.problems] or [
            f"every operator has a rule in mode {self.mode!r}"
        ]
        lines = [self.model, *_aligned(table), *closing, *(f"note: {note}" for note in self.notes)]
        return "\n".join(map(printable, lines))


def _aligned(table: Iterable[tuple[str, ...]]) -> list[str]:
    rows = [tuple(cell or "-" for cell in row) for row in table]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


@known_arguments
def check(
    model: Any, inputs: Inputs = None, *, mode: str | Mode = "default", batch_axis: BatchAxis = 0
) -> SupportReport:
    """Say for every operator which kind and rule it has, and what is missing; compiles nothing.

    Args:
        model: As `explain` takes it.
        inputs: Example inputs; without them dynamic axes are taken as 64.
        mode: The mode to find rules in.
        batch_axis: Axis of the batch in the inputs, as `explain` takes it.

    Raises:
        ModelError: When the model cannot be read.
        SettingError: When the mode, or an axis, does not exist.
    """
    found, axis = find_mode(mode), given_axes(batch_axis)
    try:
        imported = _read(model, inputs, axis)
    except UnsupportedError:
        if not jax.is_model(model):
            raise
        imported = read(model, inputs, axis, proven=False)  # what is missing is listed below
    name = imported.name
    try:
        lowered, notes = _lowered(imported, axes_of(imported, axis), inputs)
    except (UnsupportedError, ModelError) as error:
        rows = tuple(SupportRow(node, operator, problem=reason) for node, operator, reason in imported.unsupported())
        if not rows and isinstance(error, ModelError):
            raise
        reasons = sorted({f"{row.problem} (node {row.node!r})" for row in rows}) or [str(error)]
        return SupportReport(name, found.name, rows, tuple(reasons), _hints(error, inputs))
    graph = simplify(lowered).graph
    output = next((var for var in graph.outputs if var.is_float), graph.outputs[0])
    try:
        plan = plan_walk(graph, found, output)
    except BacktraceError as error:
        return SupportReport(name, found.name, (), (str(error),))
    return SupportReport(name, found.name, _rows(graph, plan), (), (*notes, *inputs_forgotten(plan.forgotten)))


def _read(model: Any, inputs: Inputs, axis: Any) -> Imported:
    refuse_datasets(inputs)
    return read(model, inputs, axis)


def _rows(graph: Graph, plan: Plan) -> tuple[SupportRow, ...]:
    steps = {step.eqn.outvars[0].name: step for step in plan.steps}
    chosen = ((eqn, steps.get(eqn.outvars[0].name)) for eqn in graph.eqns)
    return tuple(
        SupportRow(eqn.source.node, eqn.source.operator, eqn.op, *(step.kind, step.rule_name) if step else ())
        for eqn, step in chosen
    )


def _hints(error: BacktraceError, inputs: Inputs) -> tuple[str, ...]:
    if inputs is not None or not isinstance(error, DataDependentError):
        return ()
    return (f"with inputs= the model is taken for their values of {', '.join(sorted(error.inputs))}, as explain does",)


@known_arguments
def show(model: Any, inputs: Inputs = None, *, batch_axis: BatchAxis = 0) -> str:
    """The lowered graph, printed like a jaxpr; without inputs, dynamic axes are taken as 64."""
    axis = given_axes(batch_axis)
    imported = _read(model, inputs, axis)
    lowered, _ = _lowered(imported, axes_of(imported, axis), inputs)
    return str(simplify(lowered).graph)


def _lowered(model: Imported, axes: Axes, inputs: Inputs) -> tuple[Program, tuple[str, ...]]:
    """The graph that `explain` would explain, and what is to be known about it."""
    model = kept(model)
    first = batch_first(model, axes)
    rows = rows_of(first.inputs)
    if inputs is not None:
        given = inputs_first(model.arrays(inputs), [entry.name for entry in first.inputs], axes)
        feeds = read_inputs(given, first.inputs, axes)
        return Deciding().settled(model, axes, feeds, lambda settled: _lowered_for(settled, axes, feeds))
    shapes = {entry.name: _nominal(entry) for entry in first.inputs}
    try:
        leaving, notes = _followed(model, axes, shapes, max(rows, 2))
        return _laid_out(model, axes, shapes, rows, leaving), notes
    except ModelError as error:
        raise ModelError(f"{error}. Dynamic axes were taken as {NOMINAL}; pass inputs= to use real sizes") from error


def _lowered_for(model: Imported, axes: Axes, feeds: Mapping[str, np.ndarray]) -> tuple[Program, tuple[str, ...]]:
    shapes = {name: array.shape[1:] for name, array in feeds.items()}
    rows = rows_of(batch_first(model, axes).inputs)
    leaving = leavings(model, axes, shapes, len(next(iter(feeds.values()))))
    taken = tuple(f"{what}: {value}" for what, value in model.origin.items() if what.startswith(VALUE_OF))
    return _laid_out(model, axes, shapes, rows, leaving), taken


def _nominal(entry: InputType) -> tuple[int, ...]:
    if entry.dims is None:
        raise ModelError(f"input {entry} declares no rank; pass inputs= so that shapes are known")
    return tuple(size or NOMINAL for size in entry.dims[1:])


def _followed(
    model: Imported, axes: Axes, shapes: Mapping[str, tuple[int, ...]], count: int
) -> tuple[tuple[Leaving, ...] | None, tuple[str, ...]]:
    """Where outputs hold the examples; where they cannot be told apart, that only one of them can be explained."""
    try:
        return leavings(model, axes, shapes, count), ()
    except UnsupportedError as error:
        return leavings(model, axes, shapes, 1), (f"one example at a time: {error}",)


def _laid_out(
    model: Imported,
    axes: Axes,
    shapes: Mapping[str, tuple[int, ...]],
    rows: int,
    leaving: tuple[Leaving, ...] | None,
) -> Program:
    return left(batch_first(model, axes).lower({name: (rows, *shape) for name, shape in shapes.items()}), leaving, rows)
