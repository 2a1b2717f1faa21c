"""Rewrites that leave a model's function unchanged."""

from . import activations, attention, linear, moves, norms, sums
from .registry import REWRITES, rewritten

__all__ = ["REWRITES", "activations", "attention", "linear", "moves", "norms", "rewritten", "sums"]
