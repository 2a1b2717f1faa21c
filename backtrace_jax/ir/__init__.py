"""The intermediate representation: a frozen, jaxpr-like graph that every importer produces and every rule reads."""

from .graph import Eqn, Graph, Program, Source, Var

__all__ = ["Eqn", "Graph", "Program", "Source", "Var"]
