"""Operations that carry no relevance: comparisons, logic, positions, integer arithmetic without a linear form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from .linear import same_rank
from .pointwise import remainder
from .registry import NONE, register


def _broadcast(function: Callable[..., Array]) -> Callable[..., Array]:
    return lambda *arrays: function(*same_rank(*arrays))


def _position(function: Callable[..., Array]) -> Callable[..., Array]:
    def apply(x: Array, *, axis: int, keepdims: bool, last: bool) -> Array:
        if not last:
            return function(x, axis=axis, keepdims=keepdims).astype(jnp.int64)
        return x.shape[axis] - 1 - function(lax.rev(x, (axis,)), axis=axis, keepdims=keepdims).astype(jnp.int64)

    return apply


def _mod(a: Array, b: Array, *, truncate: bool) -> Array:
    return remainder(a, b, truncate=truncate)


def order(x: Array, *, axis: int, descending: bool) -> Array:
    """Positions of the entries along an axis in sorted order; equal entries keep theirs."""
    return jnp.argsort(x, axis=axis, stable=True, descending=descending).astype(jnp.int64)


def _shift_right(a: Array, b: Array) -> Array:
    """Bits moved down; those of signed numbers keep the sign."""
    signed = jnp.issubdtype(a.dtype, jnp.signedinteger)
    return (lax.shift_right_arithmetic if signed else lax.shift_right_logical)(*jnp.broadcast_arrays(a, b))


_BINARY: dict[str, Any] = {
    "equal": jnp.equal,
    "less": jnp.less,
    "less_equal": jnp.less_equal,
    "greater": jnp.greater,
    "greater_equal": jnp.greater_equal,
    "logical_and": jnp.logical_and,
    "logical_or": jnp.logical_or,
    "logical_xor": jnp.logical_xor,
    "bitwise_and": jnp.bitwise_and,
    "bitwise_or": jnp.bitwise_or,
    "bitwise_xor": jnp.bitwise_xor,
    "shift_left": lambda a, b: lax.shift_left(*jnp.broadcast_arrays(a, b)),
    "shift_right": _shift_right,
}
register(NONE, {name: _broadcast(function) for name, function in _BINARY.items()})
register(
    NONE,
    {
        "logical_not": jnp.logical_not,
        "bitwise_not": jnp.bitwise_not,
        "is_nan": jnp.isnan,
        "is_inf": jnp.isinf,
    },
)
register(NONE, {"argmax": _position(jnp.argmax), "argmin": _position(jnp.argmin), "mod": _mod, "order": order})
