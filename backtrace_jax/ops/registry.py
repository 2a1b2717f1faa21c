"""The table of operations: what each one computes and what kind of thing it is.

The kind decides which relevance rules apply; an operation is a line in this table, and every mode explains it from
then on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from .host import compile_on_host, run_on_host

LINEAR = "linear"  # linear in its one operand, with fixed weights that are not negative
MOVE = "move"  # the result holds entries of the operands unchanged
SELECT = "select"  # the winners of a comparison
SUM = "sum"  # operands added, each with a sign
PRODUCT = "product"  # linear in each of two operands; an optional third operand is an additive bias
QUOTIENT = "quotient"  # one operand divided by another
POINTWISE = "pointwise"  # one-input function applied entry by entry
NORM = "norm"  # normalisation by statistics of the operand itself
SOFTMAX = "softmax"  # softmax and its logarithm
CONTROL = "control"  # a body graph run over time
FUNCTION = "function"  # any other function of its operands: it has derivatives, and no relevance rule
NONE = "none"  # piecewise constant, so that it carries nothing: comparisons, integer results, shapes

_EVALUATED = 128  # compiled operations on known arrays that are kept, some 300 kB each

KINDS = (LINEAR, MOVE, SELECT, SUM, PRODUCT, QUOTIENT, POINTWISE, NORM, SOFTMAX, CONTROL, FUNCTION, NONE)


@runtime_checkable
class Typed(Protocol):
    """Anything with a shape and a dtype."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Size along each axis."""
        ...

    @property
    def dtype(self) -> Any:
        """Type of the entries."""
        ...


@dataclass(frozen=True)
class Op:
    """One operation.

    Attributes:
        name: Name in the graph.
        kind: One of `KINDS`.
        apply: What it computes: arrays positional, static params as keywords.
        carriers: Operand positions through which the kind's rules hand relevance; None: every operand. Where another
            float operand bears relevance, the operation is a function, unless the result is constant in it.
        constant_in: Positions of float operands in which the result is piecewise constant.
        signs: For sums, the sign of each operand; None: all positive.
        many: Whether it returns a tuple of results.
        smooth: The same without rounding, in real numbers: what gradient modes differentiate (the straight-through
            estimator, Bengio et al. 2013). None: the operation itself.
        back: Linear transpose in the first of two factors, where there is a faster one than JAX's: takes what comes
            back, the other factor, the first one's shape, and the params.
    """

    name: str
    kind: str
    apply: Callable[..., Any]
    carriers: tuple[int, ...] | None = None
    constant_in: tuple[int, ...] = ()
    signs: tuple[int, ...] | None = None
    many: bool = False
    smooth: Callable[..., Any] | None = None
    back: Callable[..., Any] | None = None

    def __call__(self, *operands: Any, **params: Any) -> Any:
        """Compute the result; a product's third operand is added to it."""
        if self.kind == PRODUCT and len(operands) == 3:
            return self.apply(*operands[:2], **params) + operands[2]
        return self.apply(*operands, **params)

    def carries(self, position: int) -> bool:
        """Whether the kind's rules hand relevance to the operand at this position."""
        if self.kind == NONE or (self.kind == PRODUCT and position == 2):
            return False
        return self.carriers is None or position in self.carriers

    def varies_with(self, position: int) -> bool:
        """Whether the result follows a float operand at this position smoothly."""
        return self.kind != NONE and position not in self.constant_in


OPS: dict[str, Op] = {}


def register(kind: str, functions: Mapping[str, Callable[..., Any]], **settings: Any) -> None:
    """Add operations of one kind to the table."""
    for name, function in functions.items():
        OPS[name] = Op(name, kind, function, **settings)


def evaluate_by_xla(op: str, operands: Sequence[np.ndarray], params: Mapping[str, Any]) -> Any:
    """Compute an operation on known arrays as it is compiled for the host, with every dtype kept as it is."""
    return run_on_host(_on_host(op, _types(operands), tuple(params.items())), *operands)


@lru_cache(maxsize=_EVALUATED)
def _on_host(op: str, types: tuple, settings: tuple) -> Callable[..., Any]:
    return compile_on_host(partial(OPS[op], **dict(settings)), *(jax.ShapeDtypeStruct(*each) for each in types))


def _types(operands: Sequence[Typed]) -> tuple[tuple[tuple[int, ...], np.dtype], ...]:
    return tuple((tuple(operand.shape), np.dtype(operand.dtype)) for operand in operands)


def result_types(
    op: str, operands: Sequence[Typed], params: Mapping[str, Any]
) -> list[tuple[tuple[int, ...], np.dtype]]:
    """Shape and dtype of each result, found by abstract evaluation."""
    return list(_result_types(op, _types(operands), tuple(params.items())))


@lru_cache(maxsize=4096)  # networks repeat their layers
def _result_types(op: str, types: tuple, settings: tuple) -> list[tuple[tuple[int, ...], np.dtype]]:
    params = dict(settings)
    with jax.enable_x64(True):
        arguments = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in types]
        results = jax.eval_shape(lambda *arrays: OPS[op](*arrays, **params), *arguments)
    return [(result.shape, np.dtype(result.dtype)) for result in (results if OPS[op].many else (results,))]
