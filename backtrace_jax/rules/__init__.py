"""Relevance rules, one pure function per way of sharing, and the modes that combine them."""

from . import modes, modes_gradient
from .catalogue import MODES, Entry, composite, find_mode, mode
from .composite import AgainstReference, AlongPath, Mode, Node, Once, Procedure, Rule, Selector, WithNoise
from .parts import ACTIVATIONS, FROM_ZERO, PASSING_ON, SHARES, WEIGHTED
from .site import (
    BIAS,
    CONSTANT,
    DEAD,
    EMBEDDING,
    INDEX,
    LOST,
    STABILISER,
    Kept,
    LinearMap,
    Shares,
    Site,
    Slopes,
    in_floats,
    linear_map,
)
from .slopes import divided

__all__ = [
    "ACTIVATIONS",
    "BIAS",
    "CONSTANT",
    "DEAD",
    "EMBEDDING",
    "FROM_ZERO",
    "INDEX",
    "LOST",
    "MODES",
    "PASSING_ON",
    "SHARES",
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
    "Slopes",
    "WithNoise",
    "composite",
    "divided",
    "find_mode",
    "in_floats",
    "linear_map",
    "mode",
    "modes",
    "modes_gradient",
]
