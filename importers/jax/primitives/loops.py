"""A jaxpr run over time, as a scan of the graph.

What steps compute from known values alone (a counter, a clock, a mask) is a sequence that is known, and a carry that
never changes a constant. A loop over layers, whose weights are stacked, is written out, so that rules see each layer
with weights that are known.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax.extend import core

from backtrace_jax.ir import Eqn, Graph, Program, Var
from backtrace_jax.ops import OPS, SUM

from ..keys import Held, Key, is_key
from ..lowering import Lowering
from .steadiness import Course, Loop, Steady, course, find_steady, pruned

_CONTRACTIONS = ("matmul", "einsum", "conv", "conv_transpose")
_OWN_BATCHES = ("custom_vmap_call", "pure_callback", "io_callback", "ffi_call")
_STATE, _SEQUENCE, _CONSTANT = range(3)  # what an input of a body is, in the order in which a scan takes them


@dataclass(frozen=True)
class _Operand:
    """What an input of a body is.

    Attributes:
        kind: Whether it is a state, a sequence's entry, or a constant.
        value: The first state, the whole sequence, or the constant.
        behind: The values that it is computed from.
    """

    kind: int
    value: Any
    behind: Sequence[Any]

    @property
    def given(self) -> bool:
        """Whether it is a sequence that the loop is given, not one of carries."""
        return self.kind == _SEQUENCE and self.behind[0] is self.value

    def inside(self, lowering: Lowering) -> Any:
        """What the body knows of it: a known constant itself, else the type."""
        if self.kind == _CONSTANT and not isinstance(self.value, Var):
            return self.value
        shape = self.value.shape[1:] if self.kind == _SEQUENCE else self.value.shape
        if is_key(self.value):
            key = Key(shape, self.value.dtype)
            lowering.origins.follow((key,), lowering.origins.of(self.behind))
            return key
        return Var(("state", "entry", "constant")[self.kind], shape, np.dtype(self.value.dtype))

    def at(self, lowering: Lowering, step: int) -> Any:
        """What it is at a step, states aside."""
        if self.kind != _SEQUENCE:
            return self.value
        if isinstance(self.value, Var):
            return lowering.reshape(lowering.part(self.value, 0, step, step + 1), self.value.shape[1:])
        entry = self.value[step] if is_key(self.value) else np.asarray(self.value[step])
        name = lowering.label_of(self.value)
        if name:
            lowering.label(entry, f"{name}.{step}")
        return entry


def over_time(lowering: Lowering, loop: Loop) -> list[Held]:
    """The last carry, and the results of all steps."""
    if not loop.length:
        return [*loop.carry, *_nothing(loop)]
    steady = find_steady(loop)
    known = course(loop, steady)
    found: dict[int, Held] = {i: loop.carry[i] for i, idle in enumerate(steady.idle) if idle}
    found.update(known.outputs)
    places = [i for i in range(len(steady.outputs)) if i not in found]
    if places:
        found.update(zip(places, _unknown(lowering, loop, steady, known, places), strict=True))
    return [found[i] for i in range(len(steady.outputs))]


def _nothing(loop: Loop) -> list[np.ndarray]:
    """The stacked results of no step at all."""
    types = loop.jaxpr.out_avals[len(loop.carry) :]
    return [np.zeros((0, *each.shape), each.dtype) for each in types]


def _unknown(lowering: Lowering, loop: Loop, steady: Steady, known: Course, places: Sequence[int]) -> list[Held]:
    """The results at these places: last carries first, then stacked ones."""
    moving = [k for i, k in enumerate(loop.carried) if i in places]
    wanted, kept = (
        [i in some for i in range(count)]
        for some, count in ((places, len(steady.outputs)), (moving, len(loop.operands)))
    )
    jaxpr, used = pruned(loop.jaxpr, wanted, kept)
    operands = [_operand(loop, steady, known, k) for k in used]
    if not any(each.kind == _STATE for each in operands) and not _batched_by_steps(jaxpr.jaxpr):
        return lowering.inline(_side_by_side(jaxpr, operands), [each.value for each in operands])
    inside = [each.inside(lowering) for each in operands]
    nodes = lowering.places.nodes.copy()
    program = lowering.body(jaxpr, inside, [each.behind for each in operands])
    taken = [each for each, inner in zip(operands, inside, strict=True) if isinstance(inner, Var)]
    if _is_over_layers(program.graph, taken):
        lowering.places.nodes = nodes
        return _written_out(lowering, loop, jaxpr, operands)
    return _scanned(lowering, loop, program, taken)


def _batched_by_steps(jaxpr: Any) -> bool:
    """Whether `jax.vmap` of a jaxpr may be a loop again: what has a batching of its own can ask for that."""
    inner = (body for eqn in jaxpr.eqns for body in core.jaxprs_in_params(eqn.params))
    return any(eqn.primitive.name in _OWN_BATCHES for eqn in jaxpr.eqns) or any(map(_batched_by_steps, inner))


def _side_by_side(jaxpr: core.ClosedJaxpr, operands: Sequence[_Operand]) -> core.ClosedJaxpr:
    """All steps of a loop at once, where none hands anything on to the next."""
    steps = jax.vmap(
        core.jaxpr_as_fun(jaxpr), in_axes=tuple(0 if each.kind == _SEQUENCE else None for each in operands)
    )
    types = [jax.ShapeDtypeStruct(each.value.shape, each.value.dtype) for each in operands]
    with jax.enable_x64(True):
        return jax.make_jaxpr(steps)(*types)


def _operand(loop: Loop, steady: Steady, known: Course, position: int) -> _Operand:
    value, first = loop.operands[position], loop.carried.start
    if position < first or (position in loop.carried and steady.idle[position - first]):
        return _Operand(_CONSTANT, value, (value,))
    if position in known.before:
        return _Operand(_SEQUENCE, known.before[position], (value,))
    return _Operand(_STATE, value, loop.operands) if position in loop.carried else _Operand(_SEQUENCE, value, (value,))


def _scanned(lowering: Lowering, loop: Loop, program: Program, taken: Sequence[_Operand]) -> list[Held]:
    pairs = sorted(zip(taken, program.graph.inputs, strict=True), key=lambda pair: pair[0].kind)
    body = replace(program, graph=replace(program.graph, inputs=tuple(var for _, var in pairs)))
    first, sequences, constants = ([each.value for each, _ in pairs if each.kind == kind] for kind in range(3))
    settings = {"constants": constants, "reverse": loop.reverse}
    last, stacked = lowering.scan(body, first, sequences, loop.length, **settings)
    return [*last, *stacked]


def _is_over_layers(body: Graph, taken: Sequence[_Operand]) -> bool:
    """Whether known sequences are weights: factors of contractions, or terms of sums where no other sequence is read.

    A bias that is known joins the map before it; one that is an entry of a sequence could not.
    """
    pairs = list(zip(body.inputs, taken, strict=True))
    known = {var.name for var, each in pairs if each.given and not isinstance(each.value, Var)}
    alone = not any(each.given and isinstance(each.value, Var) for each in taken)
    return _reads_weights(body, known, alone)


def _reads_weights(body: Graph, known: set[str], alone: bool) -> bool:
    params = {var.name for var in body.params}
    for eqn in body.eqns:
        own = [var for var in eqn.invars if var.name in known]
        if own and all(var.name in known or var.name in params for var in eqn.invars):
            known.update(var.name for var in eqn.outvars)
        elif any(var.is_float for var in own) and _weighs(eqn, known, alone):
            return True
    return False


def _weighs(eqn: Eqn, known: set[str], alone: bool) -> bool:
    """Whether an equation takes known values for weights."""
    if eqn.bodies:
        return _reads_weights(eqn.params["body"], _inside(eqn, known), alone)
    return eqn.op in _CONTRACTIONS or (alone and OPS[eqn.op].kind == SUM)


def _inside(scan: Eqn, names: Collection[str]) -> set[str]:
    """Names inside a scan's body of the operands of these names."""
    return {
        inner.name for inner, outer in zip(scan.params["body"].inputs, scan.invars, strict=True) if outer.name in names
    }


def _written_out(lowering: Lowering, loop: Loop, jaxpr: core.ClosedJaxpr, operands: Sequence[_Operand]) -> list[Held]:
    """The loop step by step."""
    carry = [each.value for each in operands if each.kind == _STATE]
    results: list[list[Held]] = []
    order = range(loop.length)
    for step in reversed(order) if loop.reverse else order:
        now = iter(carry)
        given = [next(now) if each.kind == _STATE else each.at(lowering, step) for each in operands]
        with lowering.places.turn(jaxpr.jaxpr, step):
            found = lowering.inline(jaxpr, given)
        results.append(found[len(carry) :])
        carry = found[: len(carry)]
    ordered = results[::-1] if loop.reverse else results
    return [*carry, *(lowering.stack(each, 0) for each in zip(*ordered, strict=True))]
