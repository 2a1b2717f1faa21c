"""Random keys while a model is lowered: where each comes from, so that an error can say whose numbers are drawn.

A key that is known is split and folded by JAX itself; numbers that are drawn from it would be part of the model, and
are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from backtrace_jax.errors import UnsupportedError

_DRAWING = ("random_bits", "random_gamma", "threefry2x32", "rng_bit_generator", "rng_uniform")
_KEYED = ("random_seed", "random_wrap", "random_unwrap", "random_split", "random_fold_in", "random_clone")


@dataclass(frozen=True)
class Key:
    """Keys that differ from step to step of a loop."""

    shape: tuple[int, ...]
    dtype: Any


Held: TypeAlias = Any
"""A value while a jaxpr is lowered: a known array, a variable of the graph, or random keys, known or not."""


class Origins:
    """Where keys, and the integers that they are made of, come from, as errors say it."""

    def __init__(self, label_of: Callable[[Any], str]) -> None:
        """Begin; `label_of` gives the name of a weight or an input, or nothing."""
        self._label_of = label_of
        self._found: dict[int, tuple[str, Any]] = {}

    def of(self, operands: Iterable[Any]) -> str:
        """Where the first of these values that is known to come from somewhere comes from; nothing if none is."""
        return next(filter(None, map(self._of, operands)), "")

    def _of(self, value: Any) -> str:
        label = "" if is_key(value) else self._label_of(value)
        return f"the key {label!r}" if label else self._found.get(id(value), ("", None))[0]

    def follow(self, results: Iterable[Any], origin: str) -> None:
        """Say of those results that are keys, or may be integers of keys, where they come from."""
        for value in results if origin else ():
            if is_key(value) or value.dtype == np.uint32:
                self._found.setdefault(id(value), (origin, value))


def is_key(value: Any) -> bool:
    """Whether a value holds random keys, not numbers."""
    return isinstance(value, Key) or jnp.issubdtype(value.dtype, jax.dtypes.extended)


def draws(eqn: Any) -> bool:
    """Whether an equation, or one inside it, draws random numbers."""
    inner = (each for jaxpr in core.jaxprs_in_params(eqn.params) for each in jaxpr.eqns)
    return eqn.primitive.name in _DRAWING or any(map(draws, inner))


def is_random(eqn: Any) -> bool:
    """Whether an equation makes keys, or draws from them."""
    return eqn.primitive.name in (*_DRAWING, *_KEYED)


def handles_keys(eqn: Any, operands: Iterable[Any]) -> bool:
    """Whether an equation makes, moves or draws from keys itself, and not what it calls."""
    return is_random(eqn) or (any(map(is_key, operands)) and not any(True for _ in core.jaxprs_in_params(eqn.params)))


def refusal(origin: str) -> UnsupportedError:
    """The error of numbers drawn from a key that comes from there."""
    return UnsupportedError(
        f"random numbers drawn from {origin} reach an output; use evaluation mode, or draw them outside and pass them "
        "or close over them"
    )
