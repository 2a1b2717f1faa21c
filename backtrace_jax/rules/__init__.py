"""Relevance rules, one pure function per kind of operation, and the modes that combine them."""

from .modes import MODES, Mode, Rule, Selector, find_mode
from .site import BIAS, CONSTANT, DEAD, EMBEDDING, STABILISER, Kept, LinearMap, Shares, Site, linear_map

__all__ = [
    "BIAS",
    "CONSTANT",
    "DEAD",
    "EMBEDDING",
    "MODES",
    "STABILISER",
    "Kept",
    "LinearMap",
    "Mode",
    "Rule",
    "Selector",
    "Shares",
    "Site",
    "find_mode",
    "linear_map",
]
