"""Our forward pass alone, arrays staying on the device."""

from __future__ import annotations

from backtrace_jax.engine.forward import compile_batched_forward

from ..stored import Stored
from . import Prepared
from .jax_programs import compiled, lowered


def prepare(stored: Stored, batch: int, mode: str, device: str) -> Prepared:
    """The forward pass of a whole batch."""
    program, weights, inputs = lowered(stored, batch)
    return compiled(lambda: compile_batched_forward(program.graph, weights, inputs), weights, inputs)
