"""Primitives that call a jaxpr: their equations are lowered where they are called."""

from __future__ import annotations

from typing import Any

from ..keys import Held
from ..lowering import Lowering
from .registry import primitive

_BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr", "call")


@primitive("jit", "pjit", "closed_call", "call", "core_call", "remat", "remat2", "checkpoint")
@primitive("custom_jvp_call", "custom_vjp_call", "custom_vmap_call")
def call(lowering: Lowering, *operands: Held, **params: Any) -> list[Held]:
    """A function that JAX keeps together: compiled, computed again, or with a derivative or a batch of its own."""
    body = next(params[name] for name in _BODIES if name in params)
    return lowering.inline(body, operands)
