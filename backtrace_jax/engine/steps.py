"""A planned relevance walk: the equations it passes, each with its rule."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby
from typing import Any

from backtrace_jax.ir import Eqn, Graph, Var
from backtrace_jax.rules import Rule, Slopes

from .segments import Segment


@dataclass(frozen=True)
class Step:
    """One equation of the walk.

    Attributes:
        eqn: The equation.
        kind: Its kind, given which operands bear relevance.
        rule: The rule that applies; None for control flow, whose body has a plan of its own.
        bears: Whether each operand bears relevance that can come from it.
        saturation: Range of the activation that alone consumes the result, or None.
        nonnegative: Whether each operand is known never to be negative.
        gate: Position of the factor that gates the other one, or None.
        breaks: Whether operands or result may hold NaN or Inf that the answer does not show.
        body: Plan of the walk through the body, for control flow.
        measured: Whether integers or truths are computed from quantities; the rule then sees them as floats.
        slopes: How it hands on slopes R/x; None: it hands on relevance.
    """

    eqn: Eqn
    kind: str
    rule: Rule | None
    bears: tuple[bool, ...]
    saturation: tuple[Any, Any] | None = None
    nonnegative: tuple[bool, ...] = ()
    gate: int | None = None
    breaks: bool = False
    body: Plan | None = None
    measured: bool = False
    slopes: Slopes | None = None

    @property
    def rule_name(self) -> str:
        """Name of the rule, for reports."""
        return str(self.rule) if self.rule else "over time"

    @property
    def keeps_sign(self) -> bool:
        """Whether relevance that is not negative anywhere stays so."""
        return self.rule.keeps_sign if self.rule else all(step.keeps_sign for step in (self.body or _NOWHERE).steps)

    @property
    def taking(self) -> tuple[bool, ...]:
        """Whether each operand gets a share."""
        if self.rule:
            return self.rule.takers(self.bears, self.gate)
        reached = {var.name for var in (self.body or _NOWHERE).inputs}
        inner = self.eqn.params["body"].inputs
        return tuple(bears and var.name in reached for bears, var in zip(self.bears, inner, strict=True))

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names under which its books are kept: its own, then those of its body."""
        own = self.eqn.outvars[0].name
        return (own, *(f"{own}/{name}" for step in (self.body or _NOWHERE).steps for name in step.nodes))


@dataclass(frozen=True)
class Plan:
    """A relevance walk over a graph.

    Attributes:
        graph: The graph.
        outputs: The values whose relevance is given.
        steps: Equations that pass relevance on, in the order of the walk (output first).
        inputs: Where the walk ends: inputs of the graph, or, in modes that compare with a reference, the rows that
            integer inputs look up.
        paired: Whether relevance for and against travel as a pair.
        conserving: Whether relevance is shared out, so that books can close; otherwise slopes travel.
        tokens: Where the walk ends at rows: the rest of the way, from the rows to the integers that look them up.
        forgotten: Names of the inputs that bear no relevance because nobody said that they hold quantities.
        slopes: Names of the values whose slopes travel: all their consumers hand those on. Of others relevance does.
        segments: Runs of equations whose values the walk computes anew, in the order of computation; none: all values
            are kept.
    """

    graph: Graph
    outputs: tuple[Var, ...]
    steps: tuple[Step, ...]
    inputs: tuple[Var, ...]
    paired: bool = False
    conserving: bool = True
    tokens: Plan | None = None
    forgotten: tuple[str, ...] = ()
    slopes: frozenset[str] = frozenset()
    segments: tuple[Segment, ...] = ()

    @property
    def output(self) -> Var:
        """The value explained."""
        return self.outputs[0]

    def turned(self, step: Step) -> tuple[int, ...]:
        """Positions of the operands whose slopes a step hands on as relevance, since other consumers hand on that."""
        names = [var.name for var in step.eqn.invars]
        return tuple(i for i, name in enumerate(names) if step.slopes and step.bears[i] and name not in self.slopes)

    @cached_property
    def stretches(self) -> tuple[tuple[Segment | None, tuple[Step, ...]], ...]:
        """The steps by the segment whose values they read; None: values as the forward pass has left them."""
        if not self.segments:
            return ((None, self.steps),)
        owners = {eqn.outvars[0].name: place for place, each in enumerate(self.segments) for eqn in each.eqns}
        last = len(self.segments) - 1
        groups = groupby(self.steps, key=lambda step: owners[step.eqn.outvars[0].name])
        return tuple((None if place == last else self.segments[place], tuple(steps)) for place, steps in groups)

    @cached_property
    def kept(self) -> frozenset[str]:
        """Names of what segments read that others have made."""
        return frozenset(name for each in self.segments for name in each.reads)

    @cached_property
    def bounded(self) -> tuple[tuple[Step, Rule], ...]:
        """Steps whose rule takes its operand to lie between bounds, and that rule."""
        return tuple((step, step.rule) for step in self.steps if step.rule and step.rule.bounded)

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """Names under which the books are kept, in the order of their rows."""
        return tuple(name for step in self.steps for name in step.nodes)

    @cached_property
    def own_rows(self) -> tuple[int, ...]:
        """Rows of the books that are the steps' own; those of a body are already part of its step's."""
        ends = accumulate((len(step.nodes) for step in self.steps), initial=0)
        return tuple(ends)[:-1]


_NOWHERE = Plan(Graph((), (), (), (), ()), (), (), ())
