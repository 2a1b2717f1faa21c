"""Element-by-element operators: arithmetic, activations, comparisons, casts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from backtrace_jax.errors import UnsupportedError
from backtrace_jax.ir import Value

from .registry import operator

if TYPE_CHECKING:
    from ..lower import Lowering

_UNARY = {
    "Abs": "abs",
    "Ceil": "ceil",
    "Cos": "cos",
    "Erf": "erf",
    "Exp": "exp",
    "Floor": "floor",
    "HardSwish": "hard_swish",
    "IsNaN": "is_nan",
    "Log": "log",
    "Mish": "mish",
    "Neg": "neg",
    "Not": "logical_not",
    "Reciprocal": "reciprocal",
    "Relu": "relu",
    "Round": "round",
    "Sigmoid": "sigmoid",
    "Sign": "sign",
    "Sin": "sin",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Sqrt": "sqrt",
    "Tan": "tan",
    "Tanh": "tanh",
}
_BINARY = {
    "Add": "add",
    "And": "logical_and",
    "BitwiseAnd": "bitwise_and",
    "BitwiseOr": "bitwise_or",
    "BitwiseXor": "bitwise_xor",
    "Div": "div",
    "Equal": "equal",
    "Greater": "greater",
    "GreaterOrEqual": "greater_equal",
    "Less": "less",
    "LessOrEqual": "less_equal",
    "Mul": "mul",
    "Or": "logical_or",
    "Pow": "pow",
    "Sub": "sub",
    "Xor": "logical_xor",
}


def _register_unary(name: str, op: str) -> None:
    @operator(name)
    def unary(lowering: Lowering, X: Value, *, consumed_inputs: Any = None) -> Value:
        return lowering.emit(op, X)


def _register_binary(name: str, op: str) -> None:
    @operator(name, since=7)
    def binary(lowering: Lowering, A: Value, B: Value) -> Value:
        return lowering.emit(op, A, B)

    @operator(name, since=1)
    def aligned(
        lowering: Lowering,
        A: Value,
        B: Value,
        *,
        axis: int | None = None,
        broadcast: int = 0,
        consumed_inputs: Any = None,
    ) -> Value:
        """Before opset 7 the second operand is aligned with the first at `axis` (default: the last axes)."""
        if broadcast and axis is not None:
            trailing = len(A.shape) - axis % len(A.shape) - len(B.shape)
            B = lowering.emit("reshape", B, shape=B.shape + (1,) * trailing)
        return lowering.emit(op, A, B)


for _name, _op in _UNARY.items():
    _register_unary(_name, _op)
for _name, _op in _BINARY.items():
    _register_binary(_name, _op)
