"""The body of a recurrent layer under construction: one time step, and the activations its gates may have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from backtrace_jax.errors import ModelError
from backtrace_jax.ir import Source, Var
from backtrace_jax.passes.build import Builder, Value

Activation: TypeAlias = Callable[[Builder, Value], Value]


def _times(builder: Builder, x: Value, factor: float) -> Value:
    return x if factor == 1 else builder.emit("mul", np.asarray(factor).astype(x.dtype), x)


def _affine(builder: Builder, x: Value, *, alpha: float, beta: float) -> Value:
    scaled = _times(builder, x, alpha)
    return scaled if beta == 0 else builder.emit("add", scaled, np.asarray(beta).astype(x.dtype))


def _scaled_tanh(builder: Builder, x: Value, *, alpha: float, beta: float) -> Value:
    return _times(builder, builder.emit("tanh", _times(builder, x, beta)), alpha)


def _operation(name: str) -> Callable[..., Value]:
    return lambda builder, x, **settings: builder.emit(name, x, **settings)


_ACTIVATIONS: dict[str, tuple[Callable[..., Value], dict[str, float]]] = {  # what it computes, its settings by default
    "Affine": (_affine, {"alpha": 1.0, "beta": 0.0}),
    "Elu": (_operation("elu"), {"alpha": 1.0}),
    "HardSigmoid": (_operation("hard_sigmoid"), {"alpha": 0.2, "beta": 0.5}),
    "LeakyRelu": (_operation("leaky_relu"), {"alpha": 0.01}),
    "Relu": (_operation("relu"), {}),
    "ScaledTanh": (_scaled_tanh, {"alpha": 1.0, "beta": 1.0}),
    "Sigmoid": (_operation("sigmoid"), {}),
    "Softplus": (_operation("softplus"), {}),
    "Softsign": (_operation("softsign"), {}),
    "Tanh": (_operation("tanh"), {}),
    "ThresholdedRelu": (_operation("thresholded_relu"), {"alpha": 1.0}),
}
_BY_LOWER_CASE = {name.lower(): entry for name, entry in _ACTIVATIONS.items()}  # runtimes ignore the case of names


def activation_functions(
    names: Sequence[str], alphas: Sequence[float], betas: Sequence[float], expected: int
) -> list[Activation]:
    """The activations of these ONNX names; alphas and betas are used up in order by the functions that have them.

    Raises:
        ModelError: When a name is unknown, or there are not as many as expected.
    """
    if len(names) != expected or any(name.lower() not in _BY_LOWER_CASE for name in names):
        wanted = f"expected {expected} activations out of {', '.join(_ACTIVATIONS)}"
        raise ModelError(f"{wanted}; found {len(names)}: {', '.join(names)}")
    given = {"alpha": iter(alphas), "beta": iter(betas)}
    return [_with_settings(*_BY_LOWER_CASE[name.lower()], given) for name in names]


def _with_settings(
    compute: Callable[..., Value], defaults: dict[str, float], given: dict[str, Iterator[float]]
) -> Activation:
    return partial(compute, **{name: next(given[name], default) for name, default in defaults.items()})


class Step(Builder):
    """One time step under construction.

    Attributes:
        constants: Variables from outside the loop that every step reads.
    """

    def __init__(self, source: Source, hidden: int, functions: Sequence[Activation], clip: float | None) -> None:
        super().__init__()
        self.source = source
        self.constants: list[Var] = []
        self._hidden = hidden
        self._functions = functions
        self._clip = clip

    def read(self, value: Value, name: str) -> Value:
        """A value from outside the loop, under a name; known arrays are read as they are."""
        if isinstance(value, np.ndarray):
            self.label(value, name)
            return value
        self.constants.append(value)
        return self.input(name, value.shape, value.dtype)

    def named(self, name: str, result: Any) -> Var:
        """The result of an operation, under a name."""
        self.rename(result, name)
        return result

    def product(self, h: Value, R: Value, bias: Value | None = None) -> Value:
        """What a state contributes to gates; a bias among the parameters makes one linear map with the weights."""
        if isinstance(R, np.ndarray) and isinstance(bias, np.ndarray):
            return self.emit("matmul", h, R, bias)
        result = self.emit("matmul", h, R)
        return result if bias is None else self.emit("add", result, bias)

    def gates_of(self, value: Value, first: int, count: int = 1) -> Value:
        """The entries of some gates in a row."""
        return self.part(value, 1, first * self._hidden, (first + count) * self._hidden)

    def gate(self, position: int, total: Value, name: str) -> Value:
        """The activation at a position of the ONNX list, of what a gate sums up, kept within the clip."""
        if self._clip is not None:
            total = self.emit("clip", total, low=-self._clip, high=self._clip)
        return self.named(name, self.activate(position, total))

    def activate(self, position: int, value: Value) -> Value:
        """The activation at a position of the ONNX list; runtimes clip what a gate sums up, but no memory."""
        return self._functions[position](self, value)

    def complement(self, gate: Value) -> Value:
        """One minus a gate."""
        return self.emit("sub", np.ones((), gate.dtype), gate)
