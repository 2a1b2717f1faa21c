"""Plans a relevance walk: which equations it passes, in which order, and which rule each one gets.

Everything here follows from the graph and the mode, before anything is compiled.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from backtrace_jax.analysis.bearing import (
    bearers,
    bearing,
    bearing_in_body,
    bearing_inputs,
    kind_of,
    measures,
    quantities_in,
)
from backtrace_jax.analysis.facts import gate_position, gates, hidden_breaks, nonnegative_values, saturation
from backtrace_jax.analysis.quantities import forgotten_quantities, has_unfollowed_index
from backtrace_jax.errors import SettingError, UnsupportedError
from backtrace_jax.ir import Eqn, Graph, Var
from backtrace_jax.ops import CONTROL, FUNCTION, LINEAR, MOVE, OPS, SELECT, SUM
from backtrace_jax.question.words import HIGH
from backtrace_jax.rules import EMBEDDING, INDEX, PASSING_ON, WEIGHTED, Mode, Node, Once, Rule, Slopes

from .segments import segmented
from .steps import Plan, Step


def plan_walk(graph: Graph, mode: Mode, output: Var, wrt: Collection[str] | None = None, *, memory: str = HIGH) -> Plan:
    """Plan the walk from one value back to the inputs.

    Args:
        graph: The graph.
        mode: The rules.
        output: Where relevance starts.
        wrt: Names of the inputs that bear relevance; None: all that are floats or look up rows, and if there are none,
            integers and truths as the quantities they stand for. Those that are named do so where they look up nothing.
        memory: Whether the values of the forward pass are kept, or most of them computed anew, segment by segment.

    Raises:
        UnsupportedError: Naming an equation without a rule in this mode.
        SettingError: When no relevance can reach the inputs asked for.
    """
    inputs = bearing_inputs(graph, wrt)
    carrying = bearing(graph, inputs)
    plan = _planned(graph, mode, output, carrying)
    quantities = _quantities(plan, carrying, wrt)
    if quantities:
        carrying = bearing(graph, inputs, quantities=quantities)
        plan = _planned(graph, mode, output, carrying, quantities_in(graph, inputs, quantities))
    _check_reached(graph, output, plan.inputs, wrt)
    reached = {var.name for var in plan.inputs}
    plan = replace(plan, forgotten=forgotten_quantities(graph, carrying, reached) if wrt is None else ())
    plan = plan if mode.procedure == Once() else _ending_at_rows(plan, mode)
    return plan if memory == HIGH else replace(plan, segments=segmented(graph, {var.name for var in plan.inputs}))


def _planned(
    graph: Graph, mode: Mode, output: Var, carrying: Collection[str], quantities: Collection[str] = ()
) -> Plan:
    planning = _Planning(graph, mode, carrying, quantities)
    steps, needed = planning.steps([output])
    reached = tuple(var for var in graph.inputs if var.name in needed and var.name in carrying)
    return Plan(graph, (output,), steps, reached, mode.paired, mode.conserving, slopes=frozenset(planning.slopes))


def _quantities(plan: Plan, carrying: Collection[str], wrt: Collection[str] | None) -> set[str]:
    """Inputs of integers and truths to be taken for quantities: those asked for, all where nothing else can bear."""
    reached = {var.name for var in plan.inputs}
    if wrt is None and (reached or has_unfollowed_index(plan.graph, carrying)):
        return set()
    return {v.name for v in plan.graph.inputs if not v.is_float and (wrt is None or v.name in wrt)} - reached


def _ending_at_rows(plan: Plan, mode: Mode) -> Plan:
    """The same walk, ending where values can vary smoothly: at float inputs, and at the floats that integer inputs
    become, as rows they look up or as the quantities they stand for."""
    integers = tuple(var for var in plan.inputs if not var.is_float)
    names = _looking_up(plan) | _made_of({var.name for var in integers}, plan)
    before = tuple(step for step in plan.steps if step.eqn.outvars[0].name in names)
    if not before:
        return plan
    if unsmooth := next((step.eqn for step in before if step.measured or step.kind not in PASSING_ON), None):
        raise UnsupportedError(
            f"mode {mode.name!r} follows numbers that vary smoothly, and {unsmooth.op!r} computes with integers "
            f"before they are cast to floats; take a relevance mode or 'gradient', in: {unsmooth}"
        )
    rows = tuple(step.eqn.outvars[0] for step in before if step.eqn.outvars[0].is_float)
    steps = tuple(step for step in plan.steps if step not in before)
    ends = (*(var for var in plan.inputs if var.is_float), *rows)
    entrywise = tuple(replace(step, rule=PASSING_ON[step.kind]) for step in before)  # attributions, not derivatives
    tokens = Plan(plan.graph, rows, entrywise, integers, plan.paired)  # shares: what is handed on is an attribution
    return replace(plan, steps=steps, inputs=ends, tokens=tokens)


def _looking_up(plan: Plan) -> set[str]:
    """Rows that are looked up, and the integers that lead to them."""
    found: set[str] = set()
    for step in plan.steps:
        result = step.eqn.outvars[0].name
        if step.kind == EMBEDDING or result in found:
            operands = zip(step.eqn.invars, step.bears, strict=True)
            found |= {result, *(var.name for var, bears in operands if bears and not var.is_float)}
    return found


def _made_of(integers: Collection[str], plan: Plan) -> set[str]:
    """What is made of these integers, up to the first floats."""
    found, reaching = set(), set(integers)
    for step in reversed(plan.steps):
        result = step.eqn.outvars[0]
        if any(bears and var.name in reaching for var, bears in zip(step.eqn.invars, step.bears, strict=True)):
            found.add(result.name)
            reaching |= set() if result.is_float else {result.name}
    return found


@dataclass
class _Planning:
    """Walks a graph backwards and collects steps."""

    graph: Graph
    mode: Mode
    carrying: Collection[str]
    quantities: Collection[str] = ()
    recurrent: bool = False

    def __post_init__(self) -> None:
        self.saturation, self.nonnegative = saturation(self.graph), nonnegative_values(self.graph)
        self.gates, self.breaks = gates(self.graph, self.carrying), hidden_breaks(self.graph)
        self.first = set() if self.recurrent else self._first_linear()
        self.slopes: set[str] = set()  # values that have got slopes from all consumers so far

    def steps(self, outputs: Iterable[Var]) -> tuple[tuple[Step, ...], set[str]]:
        """Steps in the order of the walk, and names of the values that relevance reaches."""
        needed, found = {var.name for var in outputs}, []
        answers = set() if self.recurrent else set(needed)  # the explained output, however moved
        inner: set[str] = set()  # what anything but a move reads on the way to it
        behind: set[str] = set()  # values whose relevance has passed a linear map with weights
        for eqn in reversed(self.graph.eqns):
            bears = bearers(eqn, self.carrying)
            if not any(bears) or not any(var.name in needed for var in eqn.outvars):
                continue
            past = any(var.name in behind for var in eqn.outvars)
            answer = any(var.name in answers - inner for var in eqn.outvars)
            step = self._step(eqn, bears, last=not past, answer=answer)
            takers = {var.name for var, takes in zip(eqn.invars, step.taking, strict=True) if takes}
            answers |= takers if answer and _holds_entries(eqn) else set()
            inner |= set() if answer and _holds_entries(eqn) else takers
            self.slopes = self.slopes | (takers - needed) if step.slopes else self.slopes - takers
            needed |= takers
            behind |= takers if past or self._is_weighted(eqn, bears) else set()
            found.append(step)
        return tuple(found), needed

    def _step(self, eqn: Eqn, bears: tuple[bool, ...], *, last: bool, answer: bool) -> Step:
        name = eqn.outvars[0].name
        if "body" in eqn.params:
            return Step(eqn, CONTROL, None, bears, body=self._body(eqn))
        kind, gate = kind_of(eqn, bears, self.quantities), gate_position(eqn, self.gates)
        gating = self.gates[eqn.invars[gate].name] if gate is not None else ""
        last = last and not self.recurrent and self._is_weighted(eqn, bears)
        node = Node(eqn, kind, gating, self.recurrent, first=name in self.first, last=last, answer=answer)
        rule = self.mode.rule(node)
        if rule is None:
            raise UnsupportedError(_without_rule(self.mode, kind, eqn))
        signs = tuple(var.name in self.nonnegative for var in eqn.invars)
        breaks = any(var.name in self.breaks for var in (*eqn.outvars, *eqn.invars))
        saturation = None if kind == SUM else self.saturation.get(name)  # RULES 3: a sum has no gate
        measured = kind not in (MOVE, SELECT, EMBEDDING, INDEX) and measures(eqn, self.quantities)
        slopes = None if breaks else self._slopes(rule, eqn, bears)
        return Step(eqn, kind, rule, bears, saturation, signs, gate, breaks, measured=measured, slopes=slopes)

    def _slopes(self, rule: Rule, eqn: Eqn, bears: tuple[bool, ...]) -> Slopes | None:
        """How a rule hands on slopes of floats, if it does; one that does not divide relevance hands on what arrives.

        Where NaN or Inf may be hidden, relevance travels: what 0 times such a value would be is told by its rules.
        """
        bearing = [var for var, bears in zip(eqn.invars, bears, strict=True) if bears]
        smooth = all(var.is_float and var.dtype.itemsize > 1 for var in (*eqn.outvars, *bearing))
        if rule.slopes is None or not smooth or self.mode.paired or not self.mode.conserving:
            return None
        found = rule.slopes(eqn)
        return found if found and (found.divides or eqn.outvars[0].name in self.slopes) else None

    def _body(self, eqn: Eqn) -> Plan:
        body, (inside, quantities) = eqn.params["body"], bearing_in_body(eqn, self.carrying, self.quantities)
        outputs = tuple({var.name: var for var in body.outputs if var.name in inside}.values())
        planning = _Planning(body, self.mode, inside, quantities, recurrent=True)
        steps, needed = planning.steps(outputs)
        reached = tuple(var for var in body.inputs if var.name in needed & inside)
        slopes = frozenset(planning.slopes)
        return Plan(body, outputs, steps, reached, self.mode.paired, self.mode.conserving, slopes=slopes)

    def _is_weighted(self, eqn: Eqn, bears: tuple[bool, ...]) -> bool:
        return "body" in eqn.params or (eqn.op in WEIGHTED and any(bears) and kind_of(eqn, bears) == LINEAR)

    def _first_linear(self) -> set[str]:
        """Results of the linear maps with weights that no other one precedes."""
        past: set[str] = set()
        found: set[str] = set()
        for eqn in self.graph.eqns:
            bears = bearers(eqn, self.carrying)
            preceded = any(var.name in past for var, bearing in zip(eqn.invars, bears, strict=True) if bearing)
            weighted = self._is_weighted(eqn, bears)
            if weighted and not preceded:
                found.add(eqn.outvars[0].name)
            if weighted or preceded:
                past.update(var.name for var in eqn.outvars)
        return found


def _without_rule(mode: Mode, kind: str, eqn: Eqn) -> str:
    if kind != FUNCTION:
        return f"mode {mode.name!r} has no rule for {kind} operation {eqn.op!r} in: {eqn}"
    return (
        f"mode {mode.name!r} has no rule for {eqn.op!r} where it is no linear or one-input function of what follows "
        f"from the inputs; take 'gradient', or a composite with a rule for Selector(kind='function'), in: {eqn}"
    )


def _holds_entries(eqn: Eqn) -> bool:
    """Whether its result holds entries of its operand as they are."""
    return eqn.op == "cast" or OPS[eqn.op].kind in (MOVE, SELECT)


def _check_reached(graph: Graph, output: Var, reached: Iterable[Var], wrt: Collection[str] | None) -> None:
    names = {var.name for var in reached}
    unknown = sorted(set(wrt or ()) - {var.name for var in graph.inputs})
    if unknown:
        raise SettingError(f"wrt={unknown}: no such input; the model takes {[var.name for var in graph.inputs]}")
    if not names:
        kinds = ", ".join(f"{var.name} ({var.dtype.name})" for var in graph.inputs)
        raise SettingError(
            f"output {output.name!r} takes no relevance from the inputs: {kinds}. Float inputs carry it, integer "
            "inputs that look up a table (of several that do so together those named in wrt=), and integers that "
            "become floats"
        )
    lost = sorted(set(wrt or ()) - names)
    if lost:
        raise SettingError(
            f"wrt={lost}: no relevance can reach it from output {output.name!r}; reachable: {sorted(names)}"
        )
