"""What a loop computes from known values alone, at every step, whatever else it computes besides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, TypeAlias

import jax
import numpy as np
from jax import lax
from jax.extend import core
from jax.interpreters import partial_eval

from backtrace_jax.ops import compile_on_host, run_on_host

from ..keys import Held, draws, is_key

_CALLS = ("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint")  # JAX prunes what is inside these
MOST = 1_000_000
"""How many steps a loop may take."""

ByPlace: TypeAlias = Mapping[int, Any]
"""Values by position among the inputs, or the outputs, of a jaxpr."""


@dataclass(frozen=True)
class Loop:
    """A jaxpr that is run once per step.

    Attributes:
        jaxpr: From constants, the carry, and one entry of each sequence to the next carry and one entry of each result.
        constants: What every step reads.
        carry: What the first step is handed.
        sequences: What the steps read, each [length, ...].
        length: Number of steps.
        reverse: Whether time runs backwards; results keep the positions of the sequences.
    """

    jaxpr: core.ClosedJaxpr
    constants: Sequence[Held]
    carry: Sequence[Held]
    sequences: Sequence[Held]
    length: int
    reverse: bool = False

    @property
    def operands(self) -> list[Held]:
        """What the jaxpr's inputs are at first; sequences are whole."""
        return [*self.constants, *self.carry, *self.sequences]

    @property
    def carried(self) -> range:
        """Positions of the carry among the jaxpr's inputs."""
        return range(len(self.constants), len(self.constants) + len(self.carry))


def pruned(
    jaxpr: core.ClosedJaxpr, wanted: Sequence[bool] | bool = True, kept: Sequence[bool] | bool = False
) -> tuple[core.ClosedJaxpr, list[int]]:
    """A jaxpr with these results only, and positions of the inputs it still has; some may have to be kept."""
    found, used = partial_eval.dce_jaxpr(jaxpr.jaxpr, wanted, kept)
    return core.ClosedJaxpr(found, jaxpr.consts), [k for k, each in enumerate(used) if each]


@dataclass(frozen=True)
class Steady:
    """Which values of a loop do not depend on what is unknown.

    Attributes:
        idle: Of each carry, whether it never changes.
        inputs: Of each input of the jaxpr, whether it is known at every step.
        outputs: Of each result of the jaxpr, whether it is known after every step; of a carry, also before the first.
    """

    idle: list[bool]
    inputs: list[bool]
    outputs: list[bool]

    def computed(self) -> list[bool]:
        """Of each result, whether it is known and no carry that never changes."""
        unchanged = (*self.idle, *(False for _ in self.outputs[len(self.idle) :]))
        return [known and not idle for known, idle in zip(self.outputs, unchanged, strict=True)]


def find_steady(loop: Loop) -> Steady:
    """Which values of a loop are known at every step: a carry is if its next value is, which may depend on others."""
    body, first, end = loop.jaxpr.jaxpr, loop.carried.start, loop.carried.stop
    idle = [result is before for result, before in zip(body.outvars, body.invars[first:end], strict=False)]
    inputs = [isinstance(operand, np.ndarray) for operand in loop.operands]
    while True:
        outputs = _known_results(body, inputs)
        carry = [before and after for before, after in zip(inputs[first:end], outputs, strict=False)]
        if carry == inputs[first:end]:
            return Steady(idle, inputs, [*carry, *outputs[len(carry) :]])
        inputs[first:end] = carry


def _known_results(jaxpr: Any, inputs: Sequence[bool]) -> list[bool]:
    """Of each result, whether it is computed from these inputs, and without random numbers."""
    known = {*jaxpr.constvars, *compress(jaxpr.invars, inputs)}

    def is_known(atom: Any) -> bool:
        return isinstance(atom, core.Literal) or atom in known

    for eqn in jaxpr.eqns:
        given = [is_known(atom) for atom in eqn.invars]
        if all(given):
            computed = not draws(eqn) and not eqn.effects and not any(is_key(var.aval) for var in eqn.outvars)
            known.update(eqn.outvars if computed else ())
        elif eqn.primitive.name in _CALLS:
            (inner,) = core.jaxprs_in_params(eqn.params)
            known.update(compress(eqn.outvars, _known_results(inner, given)))
    return [is_known(atom) for atom in jaxpr.outvars]


class _Part:
    """The part of a loop that is computed from known values alone.

    Attributes:
        start: Its carries before the first step.
        arrays: The known values that it reads, those among them.
        entries: Positions of the sequences that it reads.
    """

    def __init__(self, loop: Loop, steady: Steady) -> None:
        wanted = steady.computed()
        jaxpr, self._used = pruned(loop.jaxpr, wanted)
        self._compute = core.jaxpr_as_fun(jaxpr)
        self._places = [i for i, each in enumerate(wanted) if each]
        self._first = loop.carried.start
        carries = [k for k, each in zip(loop.carried, wanted, strict=False) if each]
        self.arrays = {k: np.asarray(loop.operands[k]) for k in {*self._used, *carries}}
        self.start = {k: self.arrays[k] for k in carries}
        self.entries = [k for k in self._used if k >= loop.carried.stop]

    def step(self, given: ByPlace) -> tuple[dict[int, Any], dict[int, Any]]:
        """The next carries, by position among the inputs, and the results, by position among the outputs."""
        found = dict(zip(self._places, self._compute(*(given[k] for k in self._used)), strict=True))
        return {k: found.pop(k - self._first) for k in self.start}, found


def _on_host(function: Any, arrays: ByPlace) -> Any:
    types = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays.values()]
    compiled = compile_on_host(lambda *given: function(dict(zip(arrays, given, strict=True))), *types)
    return run_on_host(compiled, *arrays.values())


@dataclass(frozen=True)
class Course:
    """What steady values are.

    Attributes:
        before: Each carry before every step, [length, ...], by position among the jaxpr's inputs.
        outputs: Each last carry, and each stacked result, by position among the jaxpr's outputs.
    """

    before: ByPlace
    outputs: ByPlace


def course(loop: Loop, steady: Steady) -> Course:
    """What the steady values of a loop are, carries that never change aside."""
    if not any(steady.computed()):
        return Course({}, {})
    part = _Part(loop, steady)

    def run(given: ByPlace) -> Any:
        def step(carry: ByPlace, now: ByPlace) -> Any:
            after, found = part.step({**given, **carry, **now})
            return after, (found, carry)

        series = {k: given[k] for k in part.entries}
        return lax.scan(step, {k: given[k] for k in part.start}, series, length=loop.length, reverse=loop.reverse)

    last, (stacked, before) = _on_host(run, part.arrays)
    return Course(before, {**{k - loop.carried.start: array for k, array in last.items()}, **stacked})


def count(loop: Loop, steady: Steady, test: core.ClosedJaxpr, tested: Sequence[Held]) -> int | None:
    """How many steps a loop takes while a test of constants and of its carry holds; None where that is not known.

    Beyond a million it says a million and one.
    """
    part, (jaxpr, used) = _Part(loop, steady), pruned(test)
    places = [k - len(tested) if k < len(tested) else k - len(tested) + loop.carried.start for k in used]
    read = {k: tested[k] if k < 0 else loop.operands[k] for k in places}
    if not all(isinstance(value, np.ndarray) and (k < 0 or steady.inputs[k]) for k, value in read.items()):
        return None
    holds = core.jaxpr_as_fun(jaxpr)

    def run(given: ByPlace) -> Any:
        def going(state: Any) -> Any:
            now = {**given, **state[1]}
            return holds(*(now[k] for k in places))[0] & (state[0] <= MOST)

        def step(state: Any) -> Any:
            return state[0] + 1, part.step({**given, **state[1]})[0]

        return lax.while_loop(going, step, (0, {k: given[k] for k in part.start}))[0]

    return int(_on_host(run, {**part.arrays, **read}))


def deciding(loop: Loop, test: core.ClosedJaxpr, tested: Sequence[Held]) -> list[Held]:
    """The values that the number of steps depends on while a test holds."""
    used, first = pruned(test)[1], loop.carried.start
    carries = {k - len(tested) for k in used if k >= len(tested)}
    while True:
        _, behind = pruned(loop.jaxpr, [i in carries for i in range(len(loop.carry))])
        found = carries | {k - first for k in behind if k in loop.carried}
        if found == carries:
            places = (*(first + i for i in carries), *(k for k in behind if k < first))
            return [*(tested[k] for k in used if k < len(tested)), *(loop.operands[k] for k in places)]
        carries = found
