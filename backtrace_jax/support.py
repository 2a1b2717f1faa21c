"""`check` and `show`: what a model consists of and whether it can be explained, without compiling anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .engine.plan import plan_walk
from .errors import BacktraceError, ModelError, UnsupportedError
from .feeds import Inputs, read_inputs
from .importers import Imported, read
from .ir import Program
from .passes import simplify
from .rules import Mode, find_mode

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
        return "\n".join([f"{self.model}", *_aligned(table), *closing])


def _aligned(table: Iterable[tuple[str, ...]]) -> list[str]:
    rows = [tuple(cell or "-" for cell in row) for row in table]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def check(model: Any, inputs: Inputs = None, *, mode: str | Mode = "default") -> SupportReport:
    """Say for every operator which kind and rule it has, and what is missing; compiles nothing.

    Args:
        model: As `explain` takes it.
        inputs: Example inputs; without them dynamic axes are taken as 64.
        mode: The mode to find rules in.

    Raises:
        ModelError: When the model cannot be read.
        SettingError: When the mode does not exist.
    """
    found, imported = find_mode(mode), read(model, inputs)
    problems = imported.unsupported()
    if problems:
        rows = tuple(SupportRow(node, operator, problem=reason) for node, operator, reason in problems)
        return SupportReport(
            imported.name, found.name, rows, tuple(sorted({f"{row.problem} (node {row.node!r})" for row in rows}))
        )
    try:
        program = simplify(_lowered(imported, inputs))
    except UnsupportedError as error:
        return SupportReport(imported.name, found.name, (), (str(error),))
    output = next((var for var in program.graph.outputs if var.is_float), program.graph.outputs[0])
    try:
        steps = {step.eqn.outvars[0].name: step for step in plan_walk(program.graph, found, output).steps}
    except BacktraceError as error:
        return SupportReport(imported.name, found.name, (), (str(error),))
    rows = []
    for eqn in program.graph.eqns:
        step = steps.get(eqn.outvars[0].name)
        rows.append(
            SupportRow(eqn.source.node, eqn.source.operator, eqn.op, *(step.kind, step.rule_name) if step else ())
        )
    return SupportReport(imported.name, found.name, tuple(rows), ())


def show(model: Any, inputs: Inputs = None) -> str:
    """The lowered graph, printed like a jaxpr; without inputs, dynamic axes are taken as 64."""
    return str(simplify(_lowered(read(model, inputs), inputs)).graph)


def _lowered(model: Imported, inputs: Inputs) -> Program:
    if inputs is not None:
        feeds = read_inputs(model.arrays(inputs), model.inputs)
        return model.lower({name: (1, *array.shape[1:]) for name, array in feeds.items()})
    shapes = {}
    for known in model.inputs:
        if known.dims is None:
            raise ModelError(f"input {known} declares no rank; pass inputs= so that shapes are known")
        shapes[known.name] = tuple(size or NOMINAL for size in (1, *known.dims[1:]))
    try:
        return model.lower(shapes)
    except ModelError as error:
        raise ModelError(f"{error}. Dynamic axes were taken as {NOMINAL}; pass inputs= to use real sizes") from error
