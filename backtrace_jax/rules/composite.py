'''Composites: ordered lists of (selector, rule); the first selector that matches an equation gives its rule.

A rule is a pure function and its settings; a selector says where it applies. A user's own mode is made of the same
parts as the library's:

    def largest_takes_all(site, R):
        """Of what a sum adds up, the largest operand takes everything; equal ones share."""
        sizes = jnp.stack([jnp.abs(jnp.broadcast_to(x, R.shape)) for x in site.operands])
        won = sizes == jnp.max(sizes, axis=0, keepdims=True)
        each = R / jnp.sum(won, axis=0, dtype=R.dtype)
        return {i: fit(jnp.where(won[i], each, 0), x) for i, x in enumerate(site.operands)}, {}


    mine = composite("mine", [(Selector(kind="sum"), Rule("largest", largest_takes_all))], base="lrp-epsilon")
    explain(model, inputs, mode=mine)

It returns a share in each operand's shape (`rules.site.fit` adds up what was broadcast), and what it kept back, by
column of the ledger.
'''

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

from jax import Array

from backtrace_jax.errors import SettingError
from backtrace_jax.errors.texts import shown
from backtrace_jax.ir import Eqn
from backtrace_jax.ops import CONTROL, KINDS, NONE, OPS

from .site import EMBEDDING, INDEX, Kept, Shares, Site

RuleFunction: TypeAlias = Callable[..., tuple[Shares, Kept]]
Takers: TypeAlias = Callable[[tuple[bool, ...], int | None], tuple[bool, ...]]

FIRST, LAST = "first", "last"
_LISTED = 20  # names that an error lists


def every(bears: tuple[bool, ...], gate: int | None) -> tuple[bool, ...]:
    """All operands that bear relevance take a share."""
    return bears


def first(bears: tuple[bool, ...], gate: int | None) -> tuple[bool, ...]:
    """Only the first operand that bears relevance takes a share."""
    return tuple(i == bears.index(True) for i in range(len(bears)))


def ungated(bears: tuple[bool, ...], gate: int | None) -> tuple[bool, ...]:
    """The gate of a product takes none."""
    return tuple(bears and i != gate for i, bears in enumerate(bears))


@dataclass(frozen=True)
class Rule:
    """A relevance rule.

    Attributes:
        name: Name for reports.
        function: Pure function (site, relevance of the result, **settings) -> (shares, kept).
        settings: (name, value) pairs passed on by keyword; hashable.
        keeps_sign: Whether relevance that is not negative anywhere gives shares that are not negative anywhere.
        paired: Whether it takes pairs [2, ...] as they are; otherwise each channel goes through it on its own.
        takers: Which of the operands that bear relevance get a share, given the position of the gate.
        bounded: Of a rule that takes operands to lie between bounds, how they do: (site, **settings) -> [smallest and
            largest entry, how far one lies beyond its bound].
        slopes: Of a rule whose shares are multiples of the operands, how it carries slopes R/x at an equation; None
            there, or at all: it takes and hands relevance.
    """

    name: str
    function: Any  # RuleFunction, which may be the user's
    settings: tuple[tuple[str, Any], ...] = ()
    keeps_sign: bool = False
    paired: bool = False
    takers: Takers = every
    bounded: Callable[..., Array] | None = None
    slopes: Any = None  # Callable[[Eqn], Slopes | None], which may be the user's

    def __post_init__(self) -> None:
        """Refuse what could not be applied.

        Raises:
            SettingError: When what should be a function is none.
        """
        for name, arguments, given in (("function", "(site, R)", self.function), ("slopes", "(eqn)", self.slopes)):
            if not (callable(given) or (name == "slopes" and given is None)):
                raise SettingError(f"rule {self.name!r}: {name} must be callable as {arguments}, found {shown(given)}")

    def apply(self, site: Site, R: Array) -> Any:
        """Shares of the operands, and what was kept back."""
        return self.function(site, R, **dict(self.settings))

    def bounds(self, site: Site) -> Array | None:
        """How the operand lies between bounds that the rule takes for granted; None where it takes none."""
        return None if self.bounded is None else self.bounded(site, **dict(self.settings))

    def __str__(self) -> str:
        shown = ", ".join(f"{name}={value}" for name, value in self.settings if not callable(value))
        return f"{self.name}({shown})" if shown else self.name


@dataclass(frozen=True)
class Node:
    """An equation as selectors see it.

    Attributes:
        eqn: The equation.
        kind: Its kind where it stands.
        gate: What gates the other factor of a product ("softmax", "sigmoid", "silu", ...); empty: nothing does.
        recurrent: Whether it stands in a body that runs over time.
        first: Whether it is a linear map with weights and no other one stands between it and the inputs.
        last: Whether it is a linear map with weights and no other one stands between it and the output.
        answer: Whether what it gives is the explained output itself, however moved.
    """

    eqn: Eqn
    kind: str
    gate: str = ""
    recurrent: bool = False
    first: bool = False
    last: bool = False
    answer: bool = False


@dataclass(frozen=True)
class Selector:
    """Chooses equations; all conditions given must hold, None matches anything.

    Attributes:
        kind: Kind where it stands: "linear", "sum", "product", "pointwise", ...
        op: Name of the operation, or several.
        node: Glob over the name of the ONNX node or of the result.
        module: Glob over the module path that the exporter left.
        position: "first" or "last": the linear maps with weights next to the inputs, or to the output.
        gate: What gates a product, or several: "softmax", "sigmoid", "silu", ..., or "*" for any gate.
        recurrent: Whether it stands in a body that runs over time.
        answer: Whether what it gives is the explained output itself, however moved.
    """

    kind: str | None = None
    op: Any = None
    node: str | None = None
    module: str | None = None
    position: str | None = None
    gate: str | tuple[str, ...] | None = None
    recurrent: bool | None = None
    answer: bool | None = None

    def __post_init__(self) -> None:
        """Refuse what could never match.

        Raises:
            SettingError: Naming what there is.
        """
        for each in fields(self):
            value, several = getattr(self, each.name), each.name in ("op", "gate")
            parts = value if several and isinstance(value, tuple | list) else (value,)
            kind = bool if each.name in ("recurrent", "answer") else str
            if not all(part is None or isinstance(part, kind) for part in parts):
                raise SettingError(f"a selector's {each.name} must be {kind.__name__}, found {shown(value)}")
        ops = (self.op,) if isinstance(self.op, str) else self.op or ()
        kinds = tuple(kind for kind in (*KINDS, EMBEDDING, INDEX) if kind not in (NONE, CONTROL))
        choices = [
            ("kind", (self.kind,), kinds),
            ("op", ops, tuple(OPS)),
            ("position", (self.position,), (FIRST, LAST)),
        ]
        for name, given, known in choices:
            unknown = [value for value in given if value is not None and value not in known]
            if unknown:
                there = f"there are: {', '.join(known)}"
                if len(known) > _LISTED:
                    close = get_close_matches(unknown[0].lower(), known, n=1)
                    there = f"did you mean {close[0]!r}?" if close else "`check` lists those of a model"
                raise SettingError(f"a selector's {name} {unknown[0]!r} does not exist; {there}")

    def __str__(self) -> str:
        given = ((each.name, getattr(self, each.name)) for each in fields(self))
        return ", ".join(f"{name}={value}" for name, value in given if value is not None) or "everything"

    def matches(self, node: Node) -> bool:
        """Whether an equation is chosen."""
        eqn = node.eqn
        ops, gates = ((each,) if isinstance(each, str) else each for each in (self.op, self.gate))
        names = (eqn.source.node, *(var.name for var in eqn.outvars))
        return (
            self.kind in (None, node.kind)
            and (ops is None or eqn.op in ops)
            and (self.node is None or any(fnmatchcase(name, self.node) for name in names))
            and (self.module is None or fnmatchcase(eqn.source.module, self.module))
            and (self.position is None or {FIRST: node.first, LAST: node.last}[self.position])
            and (gates is None or (bool(node.gate) and any(fnmatchcase(node.gate, gate) for gate in gates)))
            and self.recurrent in (None, node.recurrent)
            and self.answer in (None, node.answer)
        )


Rules: TypeAlias = tuple[tuple[Selector, Rule], ...]


@dataclass(frozen=True)
class Once:
    """One forward pass and one walk; `times_input` multiplies what arrives with the value it arrives at."""

    times_input: bool = False


@dataclass(frozen=True)
class AgainstReference:
    """One walk that compares every value with its value at the reference input (DeepLIFT)."""


@dataclass(frozen=True)
class AlongPath:
    """Walks averaged along the straight line from the reference input, by Gauss-Legendre nodes."""

    steps: int = 64


@dataclass(frozen=True)
class WithNoise:
    """Walks averaged over noisy inputs.

    Attributes:
        samples: Number of walks.
        noise: Standard deviation, as a fraction of the input's range (largest minus smallest entry).
        seed: Of the counter-based key; the noise is the same for every example, so it depends on no batch.
    """

    samples: int = 32
    noise: float = 0.1
    seed: int = 0


Procedure: TypeAlias = Once | AgainstReference | AlongPath | WithNoise


@dataclass(frozen=True)
class Mode:
    """A named composite, and how the walk is used.

    Attributes:
        name: What the user asks for.
        rules: (selector, rule) pairs, first match wins.
        summary: One line.
        reference: Where it is published.
        options: What the rules were made with, by name; part of the fingerprint.
        paired: Whether relevance for and against travel as a pair.
        conserving: Whether its books close; gradients are no relevance that could be kept.
        procedure: How often the graph is run and walked.
        own_rules: A user's own rules, as text for the fingerprint; empty for the catalogue's modes.
    """

    name: str
    rules: Rules
    summary: str = ""
    reference: str = ""
    options: tuple[tuple[str, Any], ...] = ()
    paired: bool = False
    conserving: bool = True
    procedure: Procedure = field(default=Once())
    own_rules: tuple[str, ...] = ()

    def rule(self, node: Node) -> Rule | None:
        """The rule of an equation; None where the mode has none."""
        return next((rule for selector, rule in self.rules if selector.matches(node)), None)

    @property
    def walks(self) -> int:
        """How often relevance is walked back."""
        each = self.procedure
        return each.steps if isinstance(each, AlongPath) else each.samples if isinstance(each, WithNoise) else 1

    @property
    def compares(self) -> bool:
        """Whether it needs a reference input (`baseline`)."""
        return isinstance(self.procedure, AgainstReference | AlongPath)
