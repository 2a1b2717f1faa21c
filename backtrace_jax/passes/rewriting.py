"""Rewrites a program equation by equation, its bodies included, in one sweep from the inputs to the outputs."""

from __future__ import annotations

import functools
import operator
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from backtrace_jax.ir import Eqn, Program, Var
from backtrace_jax.ops import OPS, result_types

from .dead_code import drop_dead_code
from .fitting import Bound
from .matching import Matcher
from .patterns import Pattern, alternatives, functions, roots

Replacement: TypeAlias = Sequence[Eqn] | Var | None
"""Equations that compute what another one did, its result last; or a value that is its result already; None where there
is nothing to replace."""

_BITS = {name: 1 << position for position, name in enumerate(OPS)}
_DEPTH = 9  # equations from the result of a form to the first of its functions, numbers and casts on the way included


class Rewriting(Matcher):
    """A program while its equations are being replaced.

    Attributes:
        program: The program as it was.
        weights: Known arrays by name, those that replacements need among them.
        producers: The equation that computes each value of those seen so far.
    """

    def __init__(self, program: Program) -> None:
        super().__init__({}, dict(program.weights))
        self.program = program
        self._params = list(program.graph.params)
        self._taken: set[str] | None = None
        self._behind: dict[str, tuple[int, ...]] = {}
        self._outputs = Counter(var.name for var in program.graph.outputs)
        self._given: Counter[str] = Counter()
        self._same: dict[str, Var] = {}

    def param(self, name: str, array: np.ndarray) -> Var:
        """A new known array under a name like this one."""
        var = Var(self._unique(name), array.shape, array.dtype)
        self.weights[var.name] = array
        self._params.append(var)
        return var

    def equation(self, like: Eqn, op: str, *invars: Var, name: str = "", **params: Any) -> Eqn:
        """A new equation from the same source as another one; its result gets a name of its own if one is given."""
        ((shape, dtype),) = result_types(op, invars, params)
        result = Var(self._unique(name), shape, dtype) if name else like.outvars[0]
        return replace(like, op=op, invars=tuple(invars), outvars=(result,), params=params)

    def sweep(self, step: Step, within: Within) -> Program:
        """The program with every equation replaced that `step` has a replacement for, and every body by `within`."""
        eqns: list[Eqn] = []
        for eqn in self.program.graph.eqns:
            for new in self._replaced(self._with_same(eqn), step, within):
                eqns.append(new)
                self.producers.update((var.name, new) for var in new.outvars)
                self._behind.update(dict.fromkeys((var.name for var in new.outvars), self._levels(new)))
        outputs = tuple(self._same.get(var.name, var) for var in self.program.graph.outputs)
        graph = replace(self.program.graph, params=tuple(self._params), eqns=tuple(eqns), outputs=outputs)
        return drop_dead_code(Program(graph, self.weights))

    def _with_same(self, eqn: Eqn) -> Eqn:
        """The equation, with values in place of those that have been found to be the same."""
        if not any(var.name in self._same for var in eqn.invars):
            return eqn
        return replace(eqn, invars=tuple(self._same.get(var.name, var) for var in eqn.invars))

    @functools.cached_property
    def readers(self) -> dict[str, list[Eqn]]:
        """The equations that read each value of the program as it was, by the value's name."""
        return self.program.graph.consumers()

    def before(self, eqn: Eqn, var: Var) -> Eqn | None:
        """The equation of an operand that may be merged with the one that reads it.

        The result of another module, or of another call, is none: it keeps its name and layout, since users ask for it.
        """
        before = self.producers.get(var.name)
        own = (eqn.source.module, eqn.source.calls)
        inside = before is not None and (not before.source.module or (before.source.module, before.source.calls) == own)
        return before if inside else None

    def reads(self, var: Var) -> int:
        """How often a value is read, as an output among others; one that this sweep made, once."""
        return len(self.readers.get(var.name, (None,))) + self._outputs[var.name]

    def behind(self, eqn: Eqn) -> int:
        """Bits of the operations among the last few equations up to this one."""
        return self._levels(eqn)[-1]

    def _levels(self, eqn: Eqn) -> tuple[int, ...]:
        """Bits of the operations at most 0, 1, 2, ... equations before this one, itself included."""
        own = _BITS.get(eqn.op, 0)
        before = [self._behind[var.name] for var in eqn.invars if var.name in self._behind]
        merged = [functools.reduce(operator.or_, level, own) for level in zip(*before, strict=True)]
        return (own, *(merged or (own,) * _DEPTH))[:_DEPTH]

    def _replaced(self, eqn: Eqn, step: Step, within: Within) -> Sequence[Eqn]:
        eqn = self._with_body(eqn, within) if eqn.op == "scan" else eqn
        found = step(self, eqn)
        if isinstance(found, Var):
            self._same[eqn.outvars[0].name] = found
            return ()
        return found or (eqn,)

    def _with_body(self, eqn: Eqn, within: Within) -> Eqn:
        """A scan with its body rewritten; operands that every step reads and that are known are known in the body."""
        body, start = eqn.params["body"], eqn.params["states"] + eqn.params["sequences"]
        pairs = list(zip(body.inputs[start:], eqn.invars[start:], strict=True))
        outer = {inner.name: var for inner, var in pairs if var.name in self.weights}
        moving = (*body.inputs[:start], *(inner for inner, _ in pairs if inner.name not in outer))
        known = tuple(inner for inner, _ in pairs if inner.name in outer)
        weights = {inner.name: self.weights[outer[inner.name].name] for inner in known}
        before = Program(replace(body, inputs=moving, params=known), weights)
        after = within(eqn, before)
        if after.graph.eqns == before.graph.eqns:
            return eqn
        operands = (*eqn.invars[:start], *(var for inner, var in pairs if inner.name not in outer))
        more = (outer.get(var.name) or self.param(var.name, after.weights[var.name]) for var in after.graph.params)
        graph = replace(after.graph, inputs=(*moving, *after.graph.params), params=())
        return replace(eqn, invars=(*operands, *more), params={**eqn.params, "body": graph})

    def _unique(self, name: str) -> str:
        if self._taken is None:
            self._taken = {var.name for var in self.program.graph.variables()}
        found = name
        while found in self._taken:
            self._given[name] += 1  # where to go on: thousands may ask for the same name
            found = f"{name}'" if self._given[name] == 1 else f"{name}'{self._given[name]}"
        self._taken.add(found)
        return found


Step: TypeAlias = Callable[[Rewriting, Eqn], Replacement]
Within: TypeAlias = Callable[[Eqn, Program], Program]
"""From a scan, and its body with the known operands that every step reads as weights, to the body in a new form."""


def rewritten(program: Program, step: Step) -> Program:
    """The program, and the bodies in it, with every equation replaced that `step` has a replacement for.

    Equations are visited in order, so that a step sees what earlier ones have become. What nothing reads any more goes.
    """
    return Rewriting(program).sweep(step, lambda _, body: rewritten(body, step))


def rewritten_outside(program: Program, step: Step) -> Program:
    """The same, with the bodies in the program left as they are."""
    return Rewriting(program).sweep(step, lambda _, body: body)


def within_bodies(program: Program, within: Within) -> Program:
    """The program with the bodies of its scans in a new form; those inside bodies are left to `within`."""
    return Rewriting(program).sweep(lambda *_: None, within)


def same_result(new: Eqn, old: Eqn) -> bool:
    """Whether one equation computes a value of the type that another one did."""
    types = result_types(new.op, new.invars, new.params)
    return types == [(var.shape, var.dtype) for var in old.outvars]


@dataclass(frozen=True)
class Form:
    """One way to spell a function.

    Attributes:
        pattern: How it is spelled.
        build: Makes the equations for a match, given the one that computes the matched value.
    """

    pattern: Pattern
    build: Callable[[Rewriting, Eqn, Bound], Replacement]


def becomes(op: str, *operands: str, **settings: Any) -> Callable[[Rewriting, Eqn, Bound], Replacement]:
    """One operation on what stands in these holes (by default x); a setting may be computed from the bound."""

    def build(rewriting: Rewriting, eqn: Eqn, bound: Bound) -> Replacement:
        params = {name: value(bound) if callable(value) else value for name, value in settings.items()}
        invars = tuple(bound[name] for name in operands or ("x",))
        return (replace(eqn, op=op, invars=invars, params=params),)

    return build


class Recogniser:
    """A pass that replaces forms by what they spell; it tries one only where all its functions lie close behind."""

    def __init__(self, *forms: Form) -> None:
        self._forms: dict[str, list[tuple[int, Form]]] = {}
        for form in forms:
            for pattern in alternatives(form.pattern):
                needed = sum(_BITS[name] for name in functions(pattern))
                for root in roots(pattern):
                    self._forms.setdefault(root, []).append((needed, Form(pattern, form.build)))

    def __call__(self, program: Program) -> Program:
        """The program with every form replaced."""
        return rewritten(program, self._step)

    def _step(self, rewriting: Rewriting, eqn: Eqn) -> Replacement:
        forms = self._forms.get(eqn.op)
        if not forms or not eqn.outvars[0].is_float:  # the same formula in integers rounds along the way
            return None
        behind = rewriting.behind(eqn)
        rewriting.producers[eqn.outvars[0].name] = eqn
        likely = (form for needed, form in forms if needed & behind == needed)
        found = (
            form.build(rewriting, eqn, bound)
            for form in likely
            for bound in rewriting.match(form.pattern, eqn.outvars[0], {})
        )
        return next((new for new in found if new and not isinstance(new, Var) and same_result(new[-1], eqn)), None)
