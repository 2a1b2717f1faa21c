"""The books of an explanation, in total and per node, and its two channels in mode "contrastive".

The relevance that was started at the output equals what reached the inputs plus what was kept back on the way, by
cause:

    start = inputs + bias + constant + stabiliser + dead
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backtrace_jax.errors import InputError, MissingNameError
from backtrace_jax.errors.texts import shown

COLUMNS = ("start", "inputs", "bias", "constant", "stabiliser", "dead")
"""The columns of a ledger, in the order in which they are stored."""


class Named(dict[str, Any]):
    """What an explanation holds by name; a name that is not there is answered with those that are."""

    empty = "nothing"  # what to say where there are none

    def __missing__(self, name: object) -> Any:
        listed = ", ".join(map(str, [*self][:_NAMES_SHOWN])) + (", ..." if len(self) > _NAMES_SHOWN else "")
        raise MissingNameError(f"nothing here is called {shown(name, 60)}; there is: {listed or self.empty}")


_NAMES_SHOWN = 8


class Layers(Named):
    """Relevance of inner values, which is kept when asked for."""

    empty = "nothing, since none were asked for: pass layers=[...], names or globs, to explain or Explainer"


class Nodes(Named):
    """The books of nodes."""

    empty = (
        "nothing, since these books are of a whole graph, or of one node: pass ledger='nodes' to explain or Explainer"
    )


def _column(name: str) -> property:
    index = COLUMNS.index(name)
    return property(lambda ledger: ledger.signed[:, index], doc=f"Signed total of `{name}` per example, [batch].")


@dataclass(frozen=True, eq=False)
class Ledger:
    """The books of an explanation, or of one node of its graph.

    For a node, `start` is the relevance it received and `inputs` what it handed on to its operands.

    Attributes:
        signed: [batch, 6] float64, signed totals, columns in the order of `COLUMNS`.
        absolute: [batch, 6] float64, sums of magnitudes, so that errors which cancel in `signed` still show.
        by_node: the ledger of every graph node, by name; empty where the books were kept in total, and for the ledger
            of a node.

    Raises:
        InputError: an array is not [batch, 6] float64, or the two shapes differ.
    """

    signed: np.ndarray
    absolute: np.ndarray
    by_node: Mapping[str, Ledger] = field(default_factory=dict)

    start = _column("start")
    inputs = _column("inputs")
    bias = _column("bias")
    constant = _column("constant")
    stabiliser = _column("stabiliser")
    dead = _column("dead")

    def __post_init__(self) -> None:
        """Check the shapes here, so that a wrong column can never be read as another one later."""
        object.__setattr__(self, "by_node", Nodes(self.by_node))
        for name, array in (("signed", self.signed), ("absolute", self.absolute)):
            if array.ndim != 2 or array.shape[1] != len(COLUMNS) or array.dtype != np.float64:
                found = f"{array.dtype} {list(array.shape)}"
                raise InputError(f"Ledger.{name} must be float64 [batch, {len(COLUMNS)}], got {found}")
        if self.signed.shape != self.absolute.shape:
            shapes = f"{list(self.signed.shape)} and {list(self.absolute.shape)}"
            raise InputError(f"Ledger.signed and Ledger.absolute must have one shape, got {shapes}")

    @property
    def error(self) -> np.ndarray:
        """How far the books are from closing, [batch]: |start - the rest| relative to the largest magnitude."""
        gap = np.abs(self.signed[:, 0] - self.signed[:, 1:].sum(axis=1))
        size = self.absolute.max(axis=1)
        return np.divide(gap, size, out=np.where(gap == 0, 0.0, np.inf), where=size != 0)

    def __repr__(self) -> str:
        """Batch size, number of nodes and the largest closing error."""
        worst = f"{self.error.max():.1e}" if len(self.signed) else "none"
        return f"Ledger({len(self.signed)} examples, {len(self.by_node)} nodes, closing error {worst})"


@dataclass(frozen=True, eq=False)
class Channel:
    """One of the two channels of a contrastive explanation: what speaks for the answer, or what speaks against it.

    Attributes:
        relevance: input name -> relevance of this channel, shaped like that input.
        layers: name -> relevance of the intermediate values that were asked for.
        ledger: the books of this channel, or None where none were asked for.
    """

    relevance: dict[str, np.ndarray]
    layers: dict[str, np.ndarray]
    ledger: Ledger | None

    def __post_init__(self) -> None:
        """Let every name that is not there be answered with those that are."""
        object.__setattr__(self, "relevance", Named(self.relevance))
        object.__setattr__(self, "layers", Layers(self.layers))


POSITIVE, NEGATIVE = "positive", "negative"
CHANNELS = (POSITIVE, NEGATIVE)
"""The channels of a contrastive explanation, in the order in which they travel."""
