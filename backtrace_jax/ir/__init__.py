"""The intermediate representation: a frozen, jaxpr-like graph that every importer produces and every rule reads."""

from .build import Builder, Known, Value
from .check import check
from .graph import Eqn, Graph, Program, Source, Var

__all__ = ["Builder", "Eqn", "Graph", "Known", "Program", "Source", "Value", "Var", "check"]
