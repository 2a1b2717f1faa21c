"""Formulae as exporters write them out, node by node, with every choice an exporter has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from backtrace_jax.ir import Program
from backtrace_jax.passes.build import Builder, Value
from tests.passes.graphs import check_unchanged, operations, program

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


def check_pass(apply: Callable[[Program], Program], expression: Any, expected: Sequence[str] | None = None) -> None:
    """A pass computes the same with these operations; None: it leaves them as they were."""
    before = program(written(expression), (2, 3))
    after = apply(before)
    assert operations(after) == (operations(before) if expected is None else expected)
    check_unchanged(before, after)
