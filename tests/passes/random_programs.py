"""Random small programs of what passes look at: arithmetic with telling constants, moves, reductions, linear maps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from backtrace_jax.ir import Program, Source, Var
from backtrace_jax.passes.build import Builder

from .graphs import DOUBLE

SHAPES = [(1, 2, 3), (1, 2, 2, 3), (1, 3), (1, 4)]
NUMBERS = [0.0, 1.0, -1.0, 0.5, 2.0, 3.0, 6.0, -0.25, 1 / 6, 1 / 3, 0.25]
SMOOTH = ["tanh", "sigmoid", "relu", "abs", "neg", "erf", "softplus", "softsign", "sin"]
PAIRED = ["add", "sub", "mul", "maximum", "minimum"]
MODULES = ["", "", "a", "a.b", "c"]


class RandomProgram:
    """Equations one after the other, each on what is there already, the latest values most."""

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator, self.builder = generator, Builder()
        self.values: list[Var] = [self.builder.input(f"x{i}", self.any(SHAPES), DOUBLE) for i in range(2)]

    def any(self, choices: Sequence[Any]) -> Any:
        return choices[int(self.generator.integers(len(choices)))]

    def chance(self, probability: float) -> bool:
        return bool(self.generator.random() < probability)

    def value(self, rank: int | None = None) -> Var:
        fitting = [var for var in self.values if rank is None or len(var.shape) == rank] or self.values
        return fitting[-1] if self.chance(0.6) else self.any(fitting)

    def finish(self, length: int) -> Program:
        """A program of this many steps, with one to three outputs."""
        for _ in range(length):
            self.builder.source = Source(module=self.any(MODULES)) if self.chance(0.2) else Source()
            found = self.any(STEPS)(self)
            if isinstance(found, Var) and found.is_float and found.shape not in ((), (0,)):
                self.values.append(found)
        outputs = {"y": self.values[-1]}
        outputs |= {f"z{i}": self.any(self.values[2:] or self.values) for i in range(int(self.generator.integers(3)))}
        return self.builder.finish(outputs)

    def known(self, shape: tuple[int, ...]) -> np.ndarray:
        """A known array that broadcasts to a shape: a number, one that varies along some axes, or along all."""
        if self.chance(0.4):
            return np.array(self.any(NUMBERS))
        kept = tuple(size if self.chance(0.5) else 1 for size in shape)
        lead = int(self.generator.integers(len(kept) + 1)) if self.chance(0.5) else 0
        if self.chance(0.3):
            return np.broadcast_to(np.array(self.any(NUMBERS)), shape).copy()
        return self.generator.normal(size=kept[lead:] if set(kept[:lead]) <= {1} else kept)

    def emit(self, op: str, *operands: Any, **params: Any) -> Any:
        return self.builder.emit(op, *operands, **params)


def smooth(new: RandomProgram):
    return new.emit(new.any(SMOOTH), new.value())


def with_known(new: RandomProgram):
    x = new.value()
    operands = [x, new.known(x.shape)]
    return new.emit(new.any(PAIRED), *(operands if new.chance(0.5) else operands[::-1]))


def with_value(new: RandomProgram):
    x = new.value()
    alike = [var for var in new.values if var.shape == x.shape]
    return new.emit(new.any(PAIRED), x, new.any(alike))


def quotient(new: RandomProgram):
    x = new.value()
    if new.chance(0.5):
        known = new.known(x.shape)
        return new.emit("div", x, np.where(known == 0, 2.0, known))
    return new.emit("div", x, new.emit("add", new.emit("abs", x), np.array(new.any([1.0, 0.5]))))


def bounded(new: RandomProgram):
    low, high = new.any([None, 0.0, -1.0, 0.5]), new.any([None, 6.0, 1.0, 0.0, -0.5])
    return new.emit("clip", new.value(), low=low, high=high)


def chosen(new: RandomProgram):
    x = new.value()
    number = np.array(new.any([0.0, 0.0, 1.0]))
    test = new.emit(new.any(["greater", "less", "greater_equal", "less_equal"]), *new.any([(x, number), (number, x)]))
    other = new.any([np.array(0.0), np.array(new.any(NUMBERS)), new.emit("mul", x, np.array(0.25))])
    return new.emit("where", test, *new.any([(x, other), (other, x)]))


def power(new: RandomProgram):
    x = new.value()
    if new.chance(0.5):
        return new.emit("integer_pow", x, exponent=2)
    return new.emit("pow", new.emit("abs", x), np.array(new.any([0.5, 2.0, 1.0])))


def reshaped(new: RandomProgram):
    x = new.value()
    shape = list(x.shape)
    if new.chance(0.5):
        shape.insert(int(new.generator.integers(len(shape) + 1)), 1)
    elif new.chance(0.5):
        shape = [size for i, size in enumerate(shape) if size > 1 or new.chance(0.5)]
    else:
        shape = new.any([[1, -1], [1, math.prod(shape), 1], [-1]])
        shape = [math.prod(x.shape) if size == -1 else size for size in shape]
    return new.emit("reshape", x, shape=tuple(shape)) if len(shape) < 6 else None


def transposed(new: RandomProgram):
    x = new.value()
    return new.emit("transpose", x, perm=tuple(int(i) for i in new.generator.permutation(len(x.shape))))


def expanded(new: RandomProgram):
    x = new.value()
    shape = tuple(2 if size == 1 and i and new.chance(0.5) else size for i, size in enumerate(x.shape))
    return new.emit("expand", x, shape=shape) if math.prod(shape) < 200 else None


def cast(new: RandomProgram):
    narrow = new.emit("cast", new.value(), dtype=new.any(["float32", "float64", "int32"]))
    return new.emit("cast", narrow, dtype="float64")


def sliced(new: RandomProgram):
    x = new.value()
    start = tuple(int(new.chance(0.3) and size > 1) for size in x.shape)
    return new.emit("slice", x, start=start, limit=x.shape, stride=tuple(new.any([1, 1, 2]) for _ in x.shape))


def joined(new: RandomProgram):
    x = new.value()
    axis = int(new.generator.integers(len(x.shape)))
    return new.emit("concat", x, new.emit(new.any(["neg", "tanh"]), x), axis=axis) if math.prod(x.shape) < 100 else None


def padded(new: RandomProgram):
    x = new.value(4)
    low, high = (tuple(new.any([0, 0, 1]) if i > 1 else 0 for i in range(len(x.shape))) for _ in range(2))
    return new.emit("pad", x, np.array(new.any([0.0, 0.0, 1.0])), low=low, high=high)


def reduced(new: RandomProgram):
    x = new.value()
    axes = tuple(sorted({int(new.generator.integers(len(x.shape))) for _ in range(new.any([1, 1, 2]))}))
    keep = new.chance(0.6)
    y = new.emit(f"reduce_{new.any(['sum', 'mean', 'max'])}", x, axes=axes, keepdims=keep)
    if keep or new.chance(0.3):
        return new.emit("mul", y, np.array(1 / math.prod(x.shape[a] for a in axes))) if new.chance(0.3) else y
    kept = tuple(1 if axis in axes else size for axis, size in enumerate(x.shape))
    y = new.emit(new.any(["sin", "neg", "abs"]), y) if new.chance(0.5) else y
    return new.emit("reshape", y, shape=kept)


def centred(new: RandomProgram):
    """What a normalisation begins with, or ends with."""
    x = new.value()
    axis = len(x.shape) - 1
    d = new.emit("sub", x, new.emit("reduce_mean", x, axes=(axis,), keepdims=True))
    if new.chance(0.4):
        return d
    spread = new.emit("reduce_mean", new.emit("mul", d, d), axes=(axis,), keepdims=True)
    root = new.emit("sqrt", new.emit("add", spread, np.array(0.1)))
    return new.emit("div", new.any([d, d, x]), root)


def exponential(new: RandomProgram):
    x = new.emit("clip", new.value(), low=-5.0, high=5.0)
    top = new.emit("reduce_max", x, axes=(len(x.shape) - 1,), keepdims=True)
    powers = new.emit("exp", new.any([x, new.emit("sub", x, top), new.emit("neg", x)]))
    if new.chance(0.5):
        total = new.emit("reduce_sum", powers, axes=(new.any([0, len(x.shape) - 1]),), keepdims=True)
        return new.emit("div", powers, total)
    return new.any([powers, new.emit("log", new.emit("add", powers, np.array(1.0)))])


def dense(new: RandomProgram):
    x = new.value()
    if len(x.shape) < 2:
        return None
    if new.chance(0.3):
        K = new.generator.normal(size=(2, x.shape[-2]))
        return new.emit("matmul", K, x)
    K = new.generator.normal(size=(x.shape[-1], new.any([2, 3])))
    if new.chance(0.3) and len(x.shape) == 3:
        return new.emit("einsum", x, K, equation=new.any(["abi,io->abo", "abi,io->aob", "abi,io->oab"]))
    bias = [new.generator.normal(size=(*(1,) * (len(x.shape) - 1), K.shape[1]))] if new.chance(0.3) else []
    return new.emit("matmul", x, K, *bias)


def product(new: RandomProgram):
    x = new.value()
    if len(x.shape) < 2:
        return None
    rank = len(x.shape)
    y = new.emit("matmul", x, new.emit("transpose", x, perm=(*range(rank - 2), rank - 1, rank - 2)))
    y = new.emit("mul", y, np.array(new.any([0.5, 2.0, -1.0]))) if new.chance(0.5) else y
    return new.emit("softmax", y, axis=rank - 1) if new.chance(0.5) else y


def convolution(new: RandomProgram):
    x = new.value(4)
    if len(x.shape) != 4 or min(x.shape[2:]) < 2:
        return None
    groups = new.any([1, x.shape[1]])
    K = new.generator.normal(size=(2 * groups, x.shape[1] // groups, new.any([1, 2]), new.any([1, 2])))
    bias = [new.generator.normal(size=K.shape[0])] if new.chance(0.5) else []
    bias = [each.reshape(1, -1, 1, 1) for each in bias]
    edges = ((0, new.any([0, 1])), (new.any([0, 1]), 0))
    return new.emit("conv", x, K, *bias, strides=(1, new.any([1, 2])), padding=edges, dilation=(1, 1), groups=groups)


STEPS: list[Callable[[RandomProgram], Any]] = [
    smooth, with_known, with_known, with_known, with_value, with_value, quotient, bounded, chosen, power, reshaped,
    reshaped, transposed, expanded, cast, sliced, joined, padded, reduced, reduced, centred, exponential, dense, dense,
    product, convolution, convolution,
]  # fmt: skip


def random_program(seed: int, length: int = 14) -> Program:
    """The program of this number: the same one every time."""
    return RandomProgram(np.random.default_rng(seed)).finish(length)
