"""Passes: pure functions Program -> Program that bring a lowered graph into the form the rules speak about."""

from ..ir import Program, check
from .affine import fold_affine
from .dead_code import drop_dead_code
from .precision import with_float_type
from .recognise import recognise_silu

__all__ = ["drop_dead_code", "fold_affine", "recognise_silu", "simplify", "with_float_type"]


def simplify(program: Program) -> Program:
    """All passes, in order; the forward result stays the same up to rounding."""
    for simplification in (drop_dead_code, fold_affine, recognise_silu, drop_dead_code):
        program = simplification(program)
    check(program.graph)
    return program
