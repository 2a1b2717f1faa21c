"""Products that contract axes: convolutions, matrix products, einsum. A bias is an addition of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from string import ascii_letters

import numpy as np

from backtrace_jax.errors import ModelError
from backtrace_jax.ir import Var
from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from .registry import operator
from .windows import Padding, Sizes, in_halves, pairs, per_axis, span, windows


def _biased(lowering: Lowering, result: Value, bias: Value | None) -> Value:
    if bias is None:
        return result
    return lowering.emit("add", result, lowering.along_channels(bias, len(result.shape)))


def _window(W: Value, kernel_shape: Sequence[int] | None) -> Sizes:
    if kernel_shape and tuple(kernel_shape) != W.shape[2:]:
        raise ModelError(f"kernel_shape {tuple(kernel_shape)} does not fit weights of shape {W.shape}")
    return W.shape[2:]


def _check_groups(X: Value, W: Value, group: int, each: int) -> None:
    """Refuse weights whose groups of channels are not those of X; `each` is how many of them a group of W reads."""
    if len(X.shape) != len(W.shape) or len(X.shape) < 3:
        raise ModelError(f"weights of shape {W.shape} do not fit a value of shape {X.shape}")
    if W.shape[0] % group or each * group != X.shape[1]:
        raise ModelError(f"group={group} does not fit {X.shape[1]} channels and weights of shape {W.shape}")


@operator("Conv")
def conv(
    lowering: Lowering,
    X: Value,
    W: Value,
    B: Value | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Value:
    """Convolution over any number of spatial axes."""
    _check_groups(X, W, group, W.shape[1] if len(W.shape) > 1 else 0)
    spatial = {"auto_pad": auto_pad, "dilations": dilations, "pads": pads, "strides": strides}
    window = windows(X.shape[2:], _window(W, kernel_shape), **spatial)
    geometry = {"strides": window.strides, "padding": window.padding, "dilation": window.dilation}
    return _biased(lowering, lowering.emit("conv", X, W, groups=group, **geometry), B)


@operator("ConvTranspose")
def conv_transpose(
    lowering: Lowering,
    X: Value,
    W: Value,
    B: Value | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Value:
    """Transposed convolution over any number of spatial axes."""
    _check_groups(X, W, group, W.shape[0] // group)
    sizes, rank = X.shape[2:], len(X.shape) - 2
    strides, dilation = per_axis(strides, rank), per_axis(dilations, rank)
    extra = per_axis(output_padding, rank, default=0)
    spans = list(map(span, _window(W, kernel_shape), dilation))
    full = [stride * (size - 1) + s + e for stride, size, s, e in zip(strides, sizes, spans, extra, strict=True)]
    wanted = _wanted_sizes(sizes, strides, auto_pad, tuple(output_shape or ())[-rank:])
    cut = _cut(full, wanted, auto_pad) if wanted else pairs(None if auto_pad == "VALID" else pads, rank)
    cut = tuple((low, high - e) for (low, high), e in zip(cut, extra, strict=True))
    geometry = {"strides": strides, "padding": cut, "dilation": dilation}
    return _biased(lowering, lowering.emit("conv_transpose", X, W, groups=group, **geometry), B)


def _wanted_sizes(sizes: Sizes, strides: Sizes, auto_pad: str, output_shape: Sizes) -> Sizes:
    """Spatial sizes of the result where the model fixes them rather than the padding; empty otherwise."""
    if output_shape or not auto_pad.startswith("SAME"):
        return output_shape
    return tuple(size * stride for size, stride in zip(sizes, strides, strict=True))


def _cut(full: Sequence[int], wanted: Sizes, auto_pad: str) -> Padding:
    """What to cut off the full result so that the wanted sizes remain."""
    return tuple(in_halves(size - goal, auto_pad) for size, goal in zip(full, wanted, strict=True))


@operator("Gemm")
def gemm(
    lowering: Lowering,
    A: Value,
    B: Value,
    C: Value | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    broadcast: int = 0,
    transA: int = 0,
    transB: int = 0,
) -> Value:
    """alpha A B + beta C, with A and B transposed on demand."""
    A = lowering.transpose(A, (1, 0)) if transA else A
    B = lowering.transpose(B, (1, 0)) if transB else B
    known_first = isinstance(A, np.ndarray)  # scaling a known factor costs nothing at run time
    A, B = (lowering.scale(A, alpha), B) if known_first else (A, lowering.scale(B, alpha))
    result = lowering.emit("matmul", A, B)
    if C is None or beta == 0:
        return result
    bias = lowering.reshape(C, (1,) * (2 - len(C.shape)) + C.shape)
    return lowering.emit("add", result, lowering.scale(bias, beta))


@operator("MatMul")
def matmul(lowering: Lowering, A: Value, B: Value) -> Value:
    """Matrix product as in NumPy."""
    return lowering.emit("matmul", A, B)


@operator("Einsum")
def einsum(lowering: Lowering, *Inputs: Value, equation: str) -> Value:
    """Einstein summation; of more than two operands one after the other, or the known ones first."""
    terms, result = _terms(equation)
    if len(terms) != len(Inputs):
        raise ModelError(f"equation {equation!r} names {len(terms)} operands, the node has {len(Inputs)}")
    if len(terms) == 1:
        return lowering.emit("einsum", Inputs[0], np.ones((), Inputs[0].dtype), equation=f"{terms[0]},->{result}")
    operands = list(Inputs)
    if len(terms) > 2 and "..." in equation:
        operands, terms, result = _written_out(lowering, operands, terms, result)
    if sum(isinstance(operand, Var) for operand in operands) == 1 and _summing(terms, result) > 1:
        operands, terms = _weights_folded(lowering, operands, terms, result)
    value = operands[0]
    for other, equation in zip(operands[1:], _steps(terms, result), strict=True):
        value = lowering.emit("einsum", value, other, equation=equation)
    return value


def _steps(terms: Sequence[str], result: str) -> list[str]:
    """Equations of two operands, from left to right: each sums over what nothing after it reads."""
    term, equations = terms[0], []
    for position, other in enumerate(terms[1:], 2):
        remaining = result + "".join(terms[position:])
        last = position == len(terms)
        merged = result if last else "".join(c for c in dict.fromkeys(term + other) if c in remaining)
        equations.append(f"{term},{other}->{merged}")
        term = merged
    return equations


def _summing(terms: Sequence[str], result: str) -> int:
    """How many of the steps sum over something."""
    sides = (equation.split("->") for equation in _steps(terms, result))
    return sum(bool(set(given) - {","} - set(found)) for given, found in sides)


def _weights_folded(
    lowering: Lowering, operands: Sequence[Value], terms: Sequence[str], result: str
) -> tuple[list[Value], list[str]]:
    """All known operands as one, so that the only other one goes through one linear map (RULES 1)."""
    (at,) = (i for i, operand in enumerate(operands) if isinstance(operand, Var))
    known = [(x, term) for i, (x, term) in enumerate(zip(operands, terms, strict=True)) if i != at]
    sizes = {letter: size for x, term in known for letter, size in zip(term, x.shape, strict=True)}
    letters = "".join(letter for letter in sizes if letter in terms[at] + result)
    lowering.limits.check_known([sizes[letter] for letter in letters], operands[at].dtype)
    equation = f"{','.join(term for _, term in known)}->{letters}"
    folded = np.einsum(equation, *(np.asarray(x) for x, _ in known), optimize=True)
    return [operands[at], folded], [terms[at], letters]


def _written_out(
    lowering: Lowering, operands: Sequence[Value], terms: Sequence[str], result: str
) -> tuple[list[Value], list[str], str]:
    """The equation with letters for its ellipses, which stand for the same last axes; stretched axes are dropped."""
    free = [letter for letter in ascii_letters if letter not in "".join(terms)]
    counts = [len(x.shape) - len(term.replace("...", "")) for x, term in zip(operands, terms, strict=True)]
    names = "".join(free[: max(counts)])
    written = [term.replace("...", names[len(names) - count :]) for term, count in zip(terms, counts, strict=True)]
    axes = [[*zip(term, x.shape, strict=True)] for term, x in zip(written, operands, strict=True)]
    long = {letter for own in axes for letter, size in own if size != 1} & set(names)
    kept = [[(letter, size) for letter, size in own if size != 1 or letter not in long] for own in axes]
    values = [lowering.reshape(x, [size for _, size in each]) for x, each in zip(operands, kept, strict=True)]
    return values, ["".join(letter for letter, _ in each) for each in kept], result.replace("...", names)


def _terms(equation: str) -> tuple[list[str], str]:
    """Subscripts of each operand and of the result; where none is given, it has the letters that occur once."""
    operands, arrow, result = equation.replace(" ", "").partition("->")
    if not arrow:
        counts = Counter(operands.replace(",", "").replace(".", ""))
        once = "".join(sorted(letter for letter, count in counts.items() if count == 1))
        result = ("..." if "..." in operands else "") + once
    return operands.split(","), result
