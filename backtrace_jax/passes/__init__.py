"""Passes: pure functions Program -> Program that bring a lowered graph into the form the rules speak about."""

from backtrace_jax.ir import Program

from .activations import recognise_activations
from .affine import fold_affine
from .attention import scale_queries
from .channels_last import channels_last
from .check import check
from .dead_code import drop_dead_code
from .entering import map_in_front
from .gates import settle_biases
from .grouped import group_statistics
from .indices import recognise_indices
from .kept_axes import keep_axes
from .lookups import recognise_lookups
from .normal_forms import bounds, normal_forms
from .norms import recognise_norms
from .padding import fuse_padding
from .precision import with_float_type
from .softmax import recognise_division, recognise_softmax
from .sums import flatten_sums
from .tidy import tidy

__all__ = [
    "channels_last",
    "drop_dead_code",
    "fold_affine",
    "fuse_padding",
    "group_statistics",
    "map_in_front",
    "recognise_activations",
    "recognise_division",
    "recognise_indices",
    "recognise_lookups",
    "recognise_norms",
    "recognise_softmax",
    "scale_queries",
    "settle_biases",
    "simplify",
    "with_float_type",
]

_PASSES = (
    drop_dead_code,
    tidy,
    group_statistics,
    keep_axes,
    bounds,
    recognise_indices,
    recognise_lookups,
    recognise_norms,  # before scales and shifts are folded into what comes before them
    recognise_softmax,
    recognise_activations,
    recognise_division,  # what no formula above has claimed
    normal_forms,
    scale_queries,
    fuse_padding,
    fold_affine,
    tidy,
    flatten_sums,
    settle_biases,
    map_in_front,
    drop_dead_code,
)


def simplify(program: Program) -> Program:
    """All passes, in order; the forward result stays the same up to rounding."""
    for simplification in _PASSES:
        program = simplification(program)
    check(program.graph)
    return program
