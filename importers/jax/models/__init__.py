"""Who is a model: each kind becomes a function of its weights and its inputs; the model itself is never touched.

One file for each kind; each says whose a model is without importing a framework, since who has a model has loaded it.
"""

from __future__ import annotations

from typing import Any

from . import equinox, functions, haiku, linen, nnx
from .model import Model, is_key

__all__ = ["Model", "is_key", "is_model", "pure"]

_KINDS = (nnx, linen, equinox, haiku, functions)


def is_model(model: Any) -> bool:
    """Whether it is a module of Flax, Equinox or Haiku, or a function; imports nothing."""
    return any(kind.claims(model) for kind in _KINDS)


def pure(model: Any) -> Model:
    """The model as a pure function.

    Raises:
        ModelError: When its weights are not with it, with the way to pass them.
    """
    return next(kind for kind in _KINDS if kind.claims(model)).pure(model)
