"""The contrastive rule equals RULES 1.2 computed unit by unit; relevance for and against travel as a pair, [2, ...]."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pytest

from backtrace_jax.ops import LINEAR, PRODUCT, SUM
from backtrace_jax.rules import BIAS, CONSTANT, DEAD, STABILISER, mode
from tests.rules import cases
from tests.rules.cases import Case
from tests.rules.lrp_oracles import Kept, Map, contrastive, of_product, of_sum
from tests.rules.running import Walked, assert_books_close, close, walk_back, walk_op
from tests.rules.test_linear import bias_of, network, result_shape
from tests.rules.test_lrp import SUMS, WEIGHTED, WEIGHTLESS, draw_map
from tests.rules.test_products import PRODUCTS
from tests.rules.uses import USES

FOR, AGAINST = 0, 1


def draw_pair(generator: np.random.Generator, shape: Collection[int], *, whole: bool) -> np.ndarray:
    """P and N, mostly positive; `whole` numbers tie often, with each other and with 0."""
    if whole:
        return generator.integers(-1, 3, size=(2, *shape)).astype(float)
    return generator.normal(0.5, 1, size=(2, *shape))


def check_kept(walked: Walked, kept: Kept, R: np.ndarray, constant: Collection[np.ndarray] = ()) -> None:
    """Nothing is kept but what is dead or goes to constants, and each channel is conserved on its own."""
    fixed = np.concatenate([np.zeros((2, 1)), *(share.reshape(2, -1) for share in constant)], axis=1)
    for cause, amounts in {BIAS: kept.bias, STABILISER: kept.stabiliser, DEAD: kept.dead, CONSTANT: fixed}.items():
        totals = [amounts.sum(1), np.abs(amounts).sum(1)]
        np.testing.assert_allclose(walked.kept(cause), totals, rtol=1e-12, atol=1e-12, err_msg=cause)
    assert walked.kept(BIAS).tolist() == walked.kept(STABILISER).tolist() == [[0, 0], [0, 0]]
    assert_books_close(walked.books)
    handed = sum(walked.relevance[var.name].reshape(2, -1).sum(1) for var in walked.plan.inputs)
    np.testing.assert_allclose(handed + fixed.sum(1) + kept.dead.sum(1), R.reshape(2, -1).sum(1), rtol=0, atol=1e-11)


def check_map(case: Case, x: np.ndarray, b: np.ndarray | None, R: np.ndarray, *, rectified: bool = False) -> Kept:
    walked = walk_back(network(case, b, None, rectified), {"x": x}, R, mode="contrastive")
    seen = np.maximum(x, 0) if rectified else x
    expected = contrastive(Map(case.matrix, case.matrix != 0, seen, b), R)
    close(walked.relevance["x"], expected.share)
    check_kept(walked, expected, R)
    return expected


def test_a_bias_takes_nothing_whether_kept_or_ignored():
    assert mode("contrastive", bias="ignore").rules == mode("contrastive").rules


@pytest.mark.parametrize("name", [*WEIGHTED, *WEIGHTLESS])
@pytest.mark.parametrize("rectified", [False, True])
def test_linear_maps(name, rectified):
    for seed in range(4):
        generator = np.random.default_rng(seed)
        case, _ = draw_map(name, generator)
        b = None if case.features is None else bias_of(case, generator)
        R = draw_pair(generator, result_shape(case), whole=False)
        check_map(case, cases.entries(generator, case.shape), b, R, rectified=rectified)


@pytest.mark.parametrize("biased", [False, True])
def test_ties_of_all_kinds(biased):
    """Whole numbers: P = N, t = 0, evidence of one sign only, and none at all are all common."""
    make, shape = WEIGHTED["matmul"]
    for seed in range(30):
        generator = np.random.default_rng(seed)
        case = make(generator.integers(-1, 2, size=shape).astype(float))
        x = generator.integers(-1, 2, size=case.shape).astype(float)
        b = generator.integers(-1, 2, size=(1, shape[1])).astype(float) if biased else None
        check_map(case, x, b, draw_pair(generator, result_shape(case), whole=True))


@pytest.mark.parametrize("which", range(len(SUMS)))
@pytest.mark.parametrize("whole", [False, True])
def test_sums(which, whole):
    op, shapes, constant = SUMS[which]
    for seed in range(6):
        generator = np.random.default_rng(seed)
        operands = [cases.entries(generator, shape) for shape in shapes]
        operands = [np.round(x) if whole else x for x in operands]
        R = draw_pair(generator, np.broadcast_shapes(*shapes), whole=whole)
        signs = (1, -1) if op == "sub" else (1,) * len(shapes)
        shares, kept = of_sum(lambda linear, R=R: contrastive(linear, R), operands, signs)
        walked = walk_op(op, operands, R, constant, mode="contrastive")
        for i in set(range(len(operands))) - set(constant):
            close(walked.relevance[f"x{i}"], shares[i])
        check_kept(walked, kept, R, [shares[i] for i in constant])


@pytest.mark.parametrize(("op", "which"), [("mul", 3), ("matmul", 0), ("matmul", 4), ("einsum", 0), ("conv", 0)])
@pytest.mark.parametrize("whole", [False, True])
def test_products_of_two_values(op, which, whole):
    function, shapes, params = PRODUCTS[op][which]
    for seed in range(4):
        generator = np.random.default_rng(seed)
        a, b = (cases.entries(generator, shape) for shape in shapes)
        a, b = (np.round(a), np.round(b)) if whole else (a, b)
        R = draw_pair(generator, function(a, b).shape, whole=whole)
        shares, kept = of_product(lambda linear, R=R: contrastive(linear, R / 2), function, a, b)
        walked = walk_op(op, [a, b], R, mode="contrastive", **params)
        close(walked.relevance["x0"], shares[0])
        close(walked.relevance["x1"], shares[1])
        check_kept(walked, kept, R)


ROUTES = {  # x_0 + x_1 + b, P, N -> what each channel hands to x_0 and x_1
    "t > 0, P > N: P to the positive": ([3, -1], 0, (1, 0.5), ([1, 0], [0, 0.5])),
    "t > 0, P < N: P to the negative": ([3, -1], 0, (0.5, 1), ([0, 0.5], [1, 0])),
    "t < 0, P > N: P to the negative": ([1, -3], 0, (1, 0.5), ([0, 1], [0.5, 0])),
    "t < 0, P < N: P to the positive": ([1, -3], 0, (0.5, 1), ([0.5, 0], [0, 1])),
    "t > 0, a tie counts as P > N": ([3, -1], 0, (1, 1), ([1, 0], [0, 1])),
    "t < 0, a tie counts as P > N": ([1, -3], 0, (1, 1), ([0, 1], [1, 0])),
    "t = 0: over magnitudes": ([1, -1], 0, (1, 0.5), ([0.5, 0.5], [0.25, 0.25])),
    "the bias turns t over": ([3, -1], -3, (1, 0.5), ([0, 1], [0.5, 0])),
    "the bias makes t = 0": ([3, -1], -2, (1, 0.5), ([0.75, 0.25], [0.375, 0.125])),
    "only positive evidence": ([3, 1], -9, (1, 0.5), ([0.75, 0.25], [0.375, 0.125])),
    "only negative evidence": ([-3, -1], 9, (1, 0.5), ([0.75, 0.25], [0.375, 0.125])),
    "only positive evidence, P < N": ([3, 1], 0, (0, 1), ([0, 0], [0.75, 0.25])),
    "t = 0 with evidence of one sign": ([3, 1], -4, (1, 0), ([0.75, 0.25], [0, 0])),
    "no evidence": ([0, 0], 5, (1, 0.5), ([0, 0], [0, 0])),
}


@pytest.mark.parametrize("name", ROUTES)
def test_worked_by_hand(name):
    x, b, pair, expected = ROUTES[name]
    case = cases.with_operand("matmul", np.matmul, (2,), np.ones((2, 1)), features=-1)
    R = np.array(pair, float)[:, None]
    walked = walk_back(
        network(case, np.array([float(b)]), None, False), {"x": np.array(x, float)}, R, mode="contrastive"
    )
    close(walked.relevance["x"], np.array(expected, float))
    dead = np.array(pair) if name == "no evidence" else np.zeros(2)
    np.testing.assert_array_equal(walked.kept(DEAD), [dead, dead])


SINGLE_FILE = [use for use in USES if not {step.kind for step in use.plan().steps} & {LINEAR, SUM, PRODUCT}]
CHOSEN = [use for use in SINGLE_FILE if use.name not in ("reshape", "transpose", "expand", "slice", "reverse", "pow")]


@pytest.mark.parametrize("use", CHOSEN, ids=str)
def test_what_shares_nothing_out_treats_the_channels_alike(use):
    """Moves, selections, one-input functions, norms, look-ups: each channel as mode "default" would, bit by bit."""
    generator = np.random.default_rng(0)
    inputs, start = use.draw(generator)
    R = np.stack([start, generator.normal(size=start.shape)])
    paired = use.walk(inputs, R, mode="contrastive")
    for channel in (FOR, AGAINST):
        alone = use.walk(inputs, R[channel])
        for key in use.wrt:
            np.testing.assert_array_equal(paired.relevance[key][channel], alone.relevance[key])
        np.testing.assert_array_equal(paired.books.signed[..., channel], alone.books.signed)


def test_a_network_conserves_each_channel():
    """Two layers with bias, a rectifier, max pooling, a shortcut, and a product with a gate."""
    from tests.engine.graphs import DOUBLE, program

    generator = np.random.default_rng(0)
    W, V, b = (generator.normal(size=shape) for shape in ((6, 6), (6, 4), (1, 6)))

    def build(builder, x):
        hidden = builder.emit("relu", builder.emit("matmul", x, W, b))
        both = builder.emit("add", hidden, x)
        gated = builder.emit("mul", both, builder.emit("sigmoid", builder.emit("matmul", both, W)))
        return builder.emit("matmul", builder.emit("reduce_max", gated, axes=(0,), keepdims=True), V, b[:, :4])

    model = program(build, x=((5, 6), DOUBLE))
    for seed in range(3):
        generator = np.random.default_rng(seed)
        R = np.abs(generator.normal(size=(2, 1, 4)))
        walked = walk_back(model, {"x": generator.normal(size=(5, 6))}, R, mode="contrastive")
        assert_books_close(walked.books)
        assert walked.kept(BIAS).tolist() == [[0, 0], [0, 0]]
        handed = walked.relevance["x"].sum((1, 2)) + walked.kept(DEAD)[0] + walked.kept(CONSTANT)[0]
        np.testing.assert_allclose(handed, R.sum((1, 2)), rtol=1e-12)
        assert (walked.relevance["x"] >= 0).all()
