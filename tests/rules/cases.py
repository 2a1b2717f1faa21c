"""Linear maps to try the rules on: an operation of the library beside the matrix it stands for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.rules import matrices
from tests.rules.oracles import matrix


@dataclass(frozen=True)
class Case:
    """z = Kx of one operation.

    Attributes:
        op: The operation.
        shape: Shape of x.
        matrix: K as [out, in].
        K: The constant operand, where the operation has one.
        left: Whether the constant operand comes first.
        params: Static settings.
        features: Axis of z along which a bias varies; None: the operation takes no bias.
    """

    op: str
    shape: tuple[int, ...]
    matrix: np.ndarray = field(repr=False)
    K: np.ndarray | None = None
    left: bool = False
    params: Mapping[str, Any] = field(default_factory=dict)
    features: int | None = None


def entries(generator: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    """Numbers of both signs, a quarter of them exactly 0, so that some units meet no evidence."""
    return np.asarray(generator.normal(size=shape) * (generator.random(size=shape) > 0.25))


def nonzero(generator: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    """Numbers of both signs, none of them near 0."""
    return np.asarray(generator.choice([-1, 1], size=shape) * generator.uniform(0.5, 2, size=shape))


def with_operand(
    op: str,
    function: Callable[..., np.ndarray],
    shape: Sequence[int],
    K: np.ndarray,
    *,
    left: bool = False,
    features: int | None = None,
    **params: Any,
) -> Case:
    """A case of an operation of two operands, whose matrix is probed from the function in NumPy."""
    probe = (lambda x: function(K, x)) if left else (lambda x: function(x, K))
    return Case(op, tuple(shape), matrix(probe, shape), K, left, params, features)


def window_case(op: str, shape: Sequence[int], K: np.ndarray, **params: Any) -> Case:
    """A convolution or a transposed convolution."""
    return Case(op, tuple(shape), getattr(matrices, op)(shape, K, **params), K, params=params, features=1)


def pool_case(shape: Sequence[int], **params: Any) -> Case:
    """An average pooling."""
    return Case("avg_pool", tuple(shape), matrices.avg_pool(shape, **params), params=params)


def reduction_case(op: str, shape: Sequence[int], axes: Sequence[int], keepdims: bool) -> Case:
    """A sum or mean over axes."""
    function = {"reduce_sum": np.sum, "reduce_mean": np.mean}[op]
    probed = matrix(lambda x: function(x, axis=tuple(axes)), shape)
    return Case(op, tuple(shape), probed, params={"axes": tuple(axes), "keepdims": keepdims})


def cumsum_case(shape: Sequence[int], axis: int, exclusive: bool, reverse: bool) -> Case:
    """A running sum: entry i adds up the j before it (reversed: after it), and itself unless exclusive."""
    i, j = np.arange(shape[axis])[:, None], np.arange(shape[axis])
    i, j = (-i, -j) if reverse else (i, j)
    triangle = (j < i if exclusive else j <= i).astype(float)

    def running(x: np.ndarray) -> np.ndarray:
        return np.moveaxis(np.tensordot(triangle, x, (1, axis)), 0, axis)

    params = {"axis": axis, "exclusive": exclusive, "reverse": reverse}
    return Case("cumsum", tuple(shape), matrix(running, shape), params=params)


seeds = st.integers(0, 2**32 - 1).map(np.random.default_rng)
sizes = st.integers(1, 4)


@st.composite
def matmuls(draw: st.DrawFn) -> Case:
    """Vectors, matrices and batches of them, with the weights on either side."""
    generator, left = draw(seeds), draw(st.booleans())
    inner, rows, columns = draw(sizes), draw(sizes), draw(sizes)
    batches = draw(st.sampled_from([((), ()), ((2,), ()), ((), (2,)), ((2,), (2,)), ((3, 1), (2,)), ((1,), (3, 2))]))
    first, second = (*batches[0], rows, inner), (*batches[1], inner, columns)
    vector = draw(st.sampled_from(["none", "first", "second"]))
    first = (inner,) if vector == "first" else first
    second = (inner,) if vector == "second" else second
    shape, weights = (second, first) if left else (first, second)
    features = -1 if vector != "none" or not left else -2
    return with_operand("matmul", np.matmul, shape, entries(generator, weights), left=left, features=features)


@st.composite
def windows(draw: st.DrawFn, rank: int) -> dict[str, Any]:
    """Window, strides, padding and dilation, and the sizes of an input that the window fits into."""
    several = st.tuples(*[st.integers(1, 3)] * rank)
    window, strides = draw(several), draw(several)
    dilation = draw(st.tuples(*[st.integers(1, 2)] * rank))
    padding = draw(st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * rank))
    spare = draw(st.tuples(*[st.integers(0, 3 if rank < 3 else 1)] * rank))
    spatial = tuple(d * (k - 1) + 1 + more for k, d, more in zip(window, dilation, spare, strict=True))
    return {"window": window, "strides": strides, "padding": padding, "dilation": dilation, "spatial": spatial}


@st.composite
def convs(draw: st.DrawFn, rank: int) -> Case:
    """Convolutions of any stride, padding, dilation and number of groups."""
    generator, settings = draw(seeds), draw(windows(rank))
    groups, ins, outs = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    shape = (draw(st.integers(1, 2)), groups * ins, *settings.pop("spatial"))
    K = entries(generator, (groups * outs, ins, *settings.pop("window")))
    return window_case("conv", shape, K, groups=groups, **settings)


@st.composite
def transposed_convs(draw: st.DrawFn, rank: int) -> Case:
    """Transposed convolutions; padding cuts off, or adds where negative, but always leaves something."""
    generator, settings = draw(seeds), draw(windows(rank))
    groups, ins, outs = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    spatial = draw(st.tuples(*[st.integers(1, 3)] * rank))
    window, strides, dilation = settings["window"], settings["strides"], settings["dilation"]
    full = [(n - 1) * s + d * (k - 1) + 1 for n, s, d, k in zip(spatial, strides, dilation, window, strict=True)]
    padding = tuple((draw(st.integers(-1, 1)), draw(st.integers(-1, 1))) if size > 2 else (0, 0) for size in full)
    K = entries(generator, (groups * ins, outs, *window))
    settings = {"strides": strides, "padding": padding, "dilation": dilation, "groups": groups}
    return window_case("conv_transpose", (1, groups * ins, *spatial), K, **settings)


@st.composite
def avg_pools(draw: st.DrawFn) -> Case:
    """Average poolings that count none, some or all of their padding; every window holds an entry of x."""
    settings = draw(windows(draw(st.integers(1, 3))))
    reach = [d * (k - 1) for d, k in zip(settings["dilation"], settings["window"], strict=True)]
    pairs = zip(settings["padding"], reach, strict=True)
    settings["padding"] = tuple((min(low, most), min(high, most)) for (low, high), most in pairs)
    counted = tuple((draw(st.integers(0, low)), draw(st.integers(0, high))) for low, high in settings["padding"])
    return pool_case((1, draw(st.integers(1, 2)), *settings.pop("spatial")), counted=counted, **settings)


@st.composite
def reductions(draw: st.DrawFn) -> Case:
    """Sums and means over any axes."""
    shape = draw(st.lists(sizes, min_size=1, max_size=4))
    axes = draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))
    return reduction_case(
        draw(st.sampled_from(["reduce_sum", "reduce_mean"])), shape, sorted(axes), draw(st.booleans())
    )


@st.composite
def running_sums(draw: st.DrawFn) -> Case:
    """Running sums along any axis."""
    shape = draw(st.lists(sizes, min_size=1, max_size=3))
    return cumsum_case(shape, draw(st.integers(0, len(shape) - 1)), draw(st.booleans()), draw(st.booleans()))


BROADCASTS = [((3,), (3,)), ((2, 3), (3,)), ((2, 3), (2, 1)), ((3, 1), (2, 1, 4)), ((1,), (2, 3)), ((2, 3), ())]


@st.composite
def scalings(draw: st.DrawFn) -> Case:
    """Products with and quotients by constants that broadcast, or that x broadcasts against."""
    generator, (shape, constant) = draw(seeds), draw(st.sampled_from(BROADCASTS))
    if draw(st.booleans()):
        return with_operand("div", np.divide, shape, nonzero(generator, constant))
    return with_operand("mul", np.multiply, shape, entries(generator, constant), left=draw(st.booleans()), features=-1)


EQUATIONS = [
    ("bij,jk->bik", (2, 3, 2), (2, 4), False),
    ("ij,bjk->bik", (2, 2, 3), (4, 2), True),
    ("bhqd,hdk->bhqk", (1, 2, 2, 3), (2, 3, 2), False),
    ("bqhd,hdo->bqo", (1, 2, 2, 3), (2, 3, 4), False),
    ("bi,bj->bij", (2, 3), (2, 2), False),
    ("bi,i->b", (3, 4), (4,), False),
    ("bii,i->bi", (2, 3, 3), (3,), False),
    ("ij,kl->ik", (2, 3), (3, 2), True),
]


@st.composite
def einsums(draw: st.DrawFn) -> Case:
    """Einstein sums with a constant: contractions, outer products, diagonals, summed-out indices."""
    generator, (equation, shape, weights, left) = draw(seeds), draw(st.sampled_from(EQUATIONS))
    K = entries(generator, weights)
    return with_operand("einsum", _einsum(equation), shape, K, left=left, equation=equation, features=-1)


def _einsum(equation: str) -> Callable[..., np.ndarray]:
    return lambda a, b: np.einsum(equation, a, b)


def fixed() -> dict[str, Case]:
    """One case of every family, large enough that saturated and unsaturated units both occur."""
    generator = np.random.default_rng(0)
    square = {"strides": (2, 1), "padding": ((1, 0), (0, 2)), "dilation": (1, 2)}
    return {
        "matmul": with_operand("matmul", np.matmul, (4, 6), entries(generator, (6, 8)), features=-1),
        "matmul left": with_operand("matmul", np.matmul, (6, 4), entries(generator, (8, 6)), left=True, features=-2),
        "conv": window_case("conv", (1, 4, 5, 5), entries(generator, (6, 2, 3, 3)), groups=2, **square),
        "conv_transpose": window_case(
            "conv_transpose", (1, 4, 3, 3), entries(generator, (4, 3, 3, 2)), groups=2, **square
        ),
        "avg_pool": pool_case((1, 3, 6, 6), window=(3, 2), counted=((0, 0), (0, 1)), **square),
        "reduce_sum": reduction_case("reduce_sum", (5, 4, 6), (1,), True),
        "cumsum": cumsum_case((5, 8), 1, False, True),
        "mul": with_operand("mul", np.multiply, (5, 8), nonzero(generator, (8,)), features=-1),
        "einsum": with_operand(
            "einsum", _einsum("bij,jk->bki"), (2, 4, 6), entries(generator, (6, 5)), equation="bij,jk->bki", features=1
        ),
    }


def broadcasts(count: int) -> st.SearchStrategy[list[tuple[int, ...]]]:
    """Shapes of several operands that broadcast against each other."""
    ranks = st.lists(sizes, min_size=1, max_size=3)
    narrowings = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 7)), min_size=count, max_size=count)
    return st.builds(lambda shape, drawn: [_narrowed(shape, *each) for each in drawn], ranks, narrowings)


def _narrowed(shape: Sequence[int], dropped: int, ones: int) -> tuple[int, ...]:
    """Without some leading axes, and with size 1 along the axes whose bit is set."""
    return tuple(1 if ones >> i & 1 else size for i, size in enumerate(shape[dropped:]))
