"""Formulae as exporters write them out, node by node, with every choice an exporter has."""

from __future__ import annotations

import numpy as np

from backtrace_jax.ir import Builder, Value

ROOT_TWO_OVER_PI = np.sqrt(2 / np.pi)


def number(value: float) -> np.ndarray:
    return np.array(value)


class Writer:
    """Short names for the operations, scalars being turned into constants."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder

    def __getattr__(self, op: str):
        def emit(*operands, **params):
            values = [number(float(v)) if isinstance(v, int | float) else v for v in operands]
            return self.builder.emit(op, *values, **params)

        return emit

    def mean(self, x: Value, *axes: int) -> Value:
        return self.reduce_mean(x, axes=axes, keepdims=True)


def written(expression):
    """`expression(w, x, ...)` as tests of passes build programs."""
    return lambda builder, *inputs: expression(Writer(builder), *inputs)
