"""Relevance rules, one pure function per way of sharing, and the modes that combine them."""

from . import modes
from .catalogue import MODES, Entry, composite, find_mode, mode
from .composite import AgainstReference, AlongPath, Mode, Node, Once, Procedure, Rule, Selector, WithNoise
from .modes import WEIGHTED
from .site import BIAS, CONSTANT, DEAD, EMBEDDING, STABILISER, Kept, LinearMap, Shares, Site, linear_map

__all__ = [
    "BIAS",
    "CONSTANT",
    "DEAD",
    "EMBEDDING",
    "MODES",
    "STABILISER",
    "WEIGHTED",
    "AgainstReference",
    "AlongPath",
    "Entry",
    "Kept",
    "LinearMap",
    "Mode",
    "Node",
    "Once",
    "Procedure",
    "Rule",
    "Selector",
    "Shares",
    "Site",
    "WithNoise",
    "composite",
    "find_mode",
    "linear_map",
    "mode",
    "modes",
]
