"""ONNX operators, by family. Importing this package fills the table that `find_operator` reads."""

from . import arithmetic, contractions, normalisation, pooling, reductions, shaping
from .registry import OPERATORS, find_operator, is_random, missing_operators

__all__ = [
    "OPERATORS",
    "arithmetic",
    "contractions",
    "find_operator",
    "is_random",
    "missing_operators",
    "normalisation",
    "pooling",
    "reductions",
    "shaping",
]
