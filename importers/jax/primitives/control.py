"""Loops and branches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jax.extend import core

from backtrace_jax.errors import BacktraceError, DataDependentError, UnsupportedError

from ..keys import Held
from ..lowering import Lowering
from .loops import over_time
from .pointwise import select_n
from .registry import primitive
from .steadiness import MOST, Loop, count, deciding, find_steady


@primitive("scan")
def scan(
    lowering: Lowering,
    *operands: Held,
    jaxpr: core.ClosedJaxpr,
    num_consts: int,
    num_carry: int,
    length: int,
    reverse: bool,
    **_: Any,
) -> list[Held]:
    """A function run over the entries of arrays, which hands a carry on from step to step."""
    carry, sequences = operands[num_consts : num_consts + num_carry], operands[num_consts + num_carry :]
    return over_time(lowering, Loop(jaxpr, operands[:num_consts], carry, sequences, length, reverse))


@primitive("while")
def while_(
    lowering: Lowering,
    *operands: Held,
    cond_jaxpr: core.ClosedJaxpr,
    cond_nconsts: int,
    body_jaxpr: core.ClosedJaxpr,
    body_nconsts: int,
) -> list[Held]:
    """A function run as long as a test holds, where it is known beforehand how often that is."""
    tested, others = operands[:cond_nconsts], operands[cond_nconsts:]
    loop = Loop(body_jaxpr, others[:body_nconsts], others[body_nconsts:], (), 0)
    length = count(loop, find_steady(loop), cond_jaxpr, tested)
    if length is None:
        inputs = lowering.inputs_behind(deciding(loop, cond_jaxpr, tested))
        raise DataDependentError(
            f"how many steps a loop takes depends on the values of the inputs ({', '.join(sorted(inputs))}); take a "
            "number of steps that is known (lax.scan, or fori_loop with Python numbers), and mask what lies beyond",
            inputs,
        )
    if length > MOST:
        raise UnsupportedError(f"a loop of more than {MOST} steps")
    return over_time(lowering, replace(loop, length=length))


@primitive("cond")
def cond(lowering: Lowering, index: Held, *operands: Held, branches: Sequence[core.ClosedJaxpr], **_: Any) -> Any:
    """One of several functions; where the inputs decide which, all are computed and one's results are chosen."""
    if isinstance(index, np.ndarray):
        return lowering.inline(branches[int(np.clip(index, 0, len(branches) - 1))], operands)
    found = [_branch(lowering, index, branch, operands) for branch in branches]
    return [_chosen(lowering, index, cases) for cases in zip(*found, strict=True)]


def _branch(lowering: Lowering, index: Held, branch: core.ClosedJaxpr, operands: Sequence[Held]) -> list[Held]:
    try:
        return lowering.inline(branch, operands)
    except DataDependentError:
        raise
    except BacktraceError as error:
        inputs = lowering.inputs_behind([index])
        raise DataDependentError(
            f"{error}; whether this branch is taken depends on the values of the inputs ({', '.join(sorted(inputs))})",
            inputs,
        ) from error


def _chosen(lowering: Lowering, index: Held, cases: Sequence[Held]) -> Any:
    return cases[0] if all(each is cases[0] for each in cases) else select_n(lowering, index, *cases)
