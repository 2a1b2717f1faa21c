"""ONNX operators, by family. Importing this package fills the table that `find_operator` reads."""

from . import (
    activations,
    arithmetic,
    attention,
    contractions,
    indexing,
    normalisation,
    pooling,
    recurrence,
    reductions,
    shaping,
)
from .registry import OPERATORS, find_operator, is_random

__all__ = [
    "OPERATORS",
    "activations",
    "arithmetic",
    "attention",
    "contractions",
    "find_operator",
    "indexing",
    "is_random",
    "normalisation",
    "pooling",
    "recurrence",
    "reductions",
    "shaping",
]
