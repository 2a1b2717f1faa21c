"""Primitives that call a jaxpr: their equations are lowered where they are called."""

from __future__ import annotations

from typing import Any

from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from .registry import primitive

_BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr")


@primitive("jit", "pjit", "closed_call", "core_call", "remat", "checkpoint", "custom_jvp_call", "custom_vjp_call")
def call(lowering: Lowering, *operands: Value, **params: Any) -> list[Value]:
    """A function that JAX keeps together: compiled, computed again, or with a derivative of its own."""
    body = next(params[name] for name in _BODIES if name in params)
    return lowering.inline(body, operands)
