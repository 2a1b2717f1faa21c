"""The proportional rule of linear maps equals RULES 1.1 computed unit by unit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backtrace_jax.ir import Program
from backtrace_jax.ops import LINEAR, result_types
from backtrace_jax.passes.build import Builder
from backtrace_jax.rules import BIAS, CONSTANT, DEAD, mode
from tests.rules import cases
from tests.rules.cases import Case
from tests.rules.oracles import RANGES, Shared, default_rule
from tests.rules.running import DOUBLE, SINGLE, Walked, assert_books_close, close, walk_back

REACH = {None: 1.0, "tanh": 3.0, "sigmoid": 6.0, "softmax": 3.0, "silu": 9.0}
"""How far z should reach for an activation to saturate here and there."""

FIXED = cases.fixed()


def operands_of(case: Case, x):
    return [x] if case.K is None else [case.K, x] if case.left else [x, case.K]


def result_shape(case: Case) -> tuple[int, ...]:
    ((shape, _),) = result_types(case.op, operands_of(case, np.zeros(case.shape)), case.params)
    return shape


def bias_of(case: Case, generator: np.random.Generator) -> np.ndarray:
    shape = result_shape(case)
    varying = case.features % len(shape)
    return cases.entries(generator, [size if axis == varying else 1 for axis, size in enumerate(shape)])


def network(case: Case, b: np.ndarray | None, activation: str | None, rectified: bool) -> Program:
    """x [-> relu] -> z = Kx [+ b] [-> activation]."""
    builder = Builder()
    x = builder.input("x", case.shape, DOUBLE)
    x = builder.emit("relu", x) if rectified else x
    z = builder.emit(case.op, *operands_of(case, x), *([] if b is None else [b]), **case.params)
    builder.rename(z, "z")
    return builder.finish({"y": builder.emit(activation, z) if activation else z})


def compare(
    case: Case,
    generator: np.random.Generator,
    activation: str | None,
    *,
    rectified: bool,
    biased: bool,
    ignored: bool = False,
) -> tuple[Shared, np.ndarray]:
    """Hold the engine against the oracle; gives the oracle's shares and z."""
    x = cases.entries(generator, case.shape)
    seen = np.maximum(x, 0) if rectified else x
    scale = REACH[activation] / max(np.std(case.matrix @ seen.reshape(-1)), 1e-3)
    b = bias_of(case, generator) if biased else None
    R = generator.normal(size=result_shape(case))
    chosen = mode("default", bias="ignore") if ignored else "default"
    walked = walk_back(network(case, b, activation, rectified), {"x": x * scale}, R, mode=chosen)
    expected = default_rule(case.matrix, seen * scale, b, R, RANGES.get(activation), ignored=ignored)
    z = (case.matrix @ (seen * scale).reshape(-1)).reshape(R.shape) + (0 if b is None else b)
    close(walked.values["z"], z)
    agree(walked, expected)
    return expected, z


def agree(walked: Walked, expected: Shared) -> None:
    close(walked.relevance["x"], expected.share)
    for cause, kept in ((BIAS, expected.bias), (DEAD, expected.dead), (CONSTANT, np.zeros(1))):
        np.testing.assert_allclose(walked.kept(cause), [kept.sum(), np.abs(kept).sum()], rtol=1e-12, atol=1e-12)
    assert LINEAR in [step.kind for step in walked.plan.steps]
    assert_books_close(walked.books)


activations = st.sampled_from([*RANGES, None])
FAMILIES = {
    "matmul": (cases.matmuls(), 18),
    "conv 1-D": (cases.convs(1), 8),
    "conv 2-D": (cases.convs(2), 12),
    "conv 3-D": (cases.convs(3), 6),
    "conv_transpose 1-D": (cases.transposed_convs(1), 6),
    "conv_transpose 2-D": (cases.transposed_convs(2), 10),
    "avg_pool": (cases.avg_pools(), 10),
    "reduction": (cases.reductions(), 10),
    "cumsum": (cases.running_sums(), 10),
    "scaling": (cases.scalings(), 12),
    "einsum": (cases.einsums(), 12),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_any_linear_map(family):
    strategy, count = FAMILIES[family]

    @settings(max_examples=count)
    @given(strategy, cases.seeds, activations, st.booleans(), st.booleans())
    def hold(case, generator, activation, rectified, biased):
        softmax_of_one_number = activation == "softmax" and not result_shape(case)
        compare(
            case,
            generator,
            None if softmax_of_one_number else activation,
            rectified=rectified,
            biased=biased and case.features is not None and bool(result_shape(case)),
        )

    hold()


@pytest.mark.parametrize("family", ["matmul", "conv 1-D", "conv 2-D"])
def test_an_ignored_bias_takes_nothing(family):
    @settings(max_examples=8)
    @given(FAMILIES[family][0], cases.seeds, activations, st.booleans())
    def hold(case, generator, activation, rectified):
        reached = None if activation == "softmax" and not result_shape(case) else activation
        biased = case.features is not None and bool(result_shape(case))
        expected, _ = compare(case, generator, reached, rectified=rectified, biased=biased, ignored=True)
        assert not expected.bias.any()

    hold()


def test_a_unit_whose_only_evidence_is_an_ignored_bias_is_dead():
    builder = Builder()
    x = builder.input("x", (2,), DOUBLE)
    z = builder.emit("matmul", x, np.array([[1.0, 1.0], [0.0, -1.0]]), np.array([5.0, 7.0]))
    program, R = builder.finish({"y": z}), np.array([0.25, 0.75])
    walked = walk_back(program, {"x": np.array([0.0, 3.0])}, R, mode=mode("default", bias="ignore"))
    assert walked.relevance["x"].tolist() == [0, 0.75]
    assert walked.kept(DEAD).tolist() == [0.25, 0.25]
    assert walked.kept(BIAS).tolist() == [0, 0]


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("activation", RANGES)
@pytest.mark.parametrize(("reach", "bias"), [(1.0, 1e4), (1e4, 1.0), (1e-4, 10.0)])
def test_open_sides_are_exact_in_single_precision(activation, reach, bias, ignored):
    """Where a bias outweighs the contributions, and where they all but cancel with it."""
    generator = np.random.default_rng(0)
    x, K, R = (generator.normal(size=shape).astype(SINGLE) for shape in ((200,), (200, 40), (40,)))
    x *= reach
    b = (generator.normal(size=40) * bias - (x @ K if reach > bias else 0)).astype(SINGLE)
    t = x.astype(DOUBLE) @ K + b
    undecided = np.abs(t[:, None] - RANGES[activation]).min(1) < 0.1  # rounding may open or close these gates
    R[undecided] = 0
    builder = Builder()
    z = builder.emit("matmul", builder.input("x", x.shape, SINGLE), K, b)
    chosen = mode("default", bias="ignore" if ignored else "keep")
    walked = walk_back(builder.finish({"y": builder.emit(activation, z)}), {"x": x}, R, mode=chosen)
    doubles = (each.astype(DOUBLE) for each in (K.T, x, b))
    expected = default_rule(*doubles, R, RANGES[activation], ignored=ignored)
    close(walked.relevance["x"], expected.share.astype(SINGLE), 1e-5)
    assert_books_close(walked.books, 1e-5)


@pytest.mark.parametrize("activation", RANGES)
@pytest.mark.parametrize("name", FIXED)
def test_gates_open_and_close(name, activation):
    case = FIXED[name]
    biased = case.features is not None
    expected, z = compare(case, np.random.default_rng(1), activation, rectified=False, biased=biased)
    lower, upper = RANGES[activation]
    shut = ((z < lower) | (z > upper)).mean()
    assert 0.02 < shut < 0.98
    assert np.abs(expected.share).sum() > 0


@pytest.mark.parametrize("name", [name for name in FIXED if name != "mul"])
def test_a_gate_changes_what_is_handed_on(name):
    """Guards the tests above: on these very maps the ungated rule gives something else."""
    case, generator = FIXED[name], np.random.default_rng(1)
    x = 5 * cases.entries(generator, case.shape)
    R = generator.normal(size=result_shape(case))
    b = np.full((1,) * R.ndim, 0.5) if case.K is not None else None
    gated, open_ = (default_rule(case.matrix, x, b, R, limits) for limits in (RANGES["tanh"], None))
    assert np.abs(gated.share - open_.share).max() > 1e-3 * np.abs(open_.share).max()


@pytest.mark.parametrize("name", FIXED)
def test_operands_known_not_to_be_negative(name):
    case = FIXED[name]
    _, z = compare(case, np.random.default_rng(2), "tanh", rectified=True, biased=case.features is not None)
    assert (np.abs(z) > 2).any()
    assert (np.abs(z) < 2).any()


def test_a_unit_without_evidence_is_dead_and_a_bias_alone_takes_all():
    K = np.array([[1.0, -2.0], [0.0, 0.0], [0.0, 0.0]])
    case = cases.with_operand("matmul", np.matmul, (2,), K, left=True)
    R, x = np.array([0.3, 0.5, -0.25]), np.array([1.0, 1.0])
    walked = walk_back(network(case, np.array([0.0, 0.0, -1.0]), None, False), {"x": x}, R)
    close(walked.relevance["x"], np.array([0.1, 0.2]))
    np.testing.assert_allclose([walked.kept(DEAD)[0], walked.kept(BIAS)[0]], [0.5, -0.25], rtol=1e-12)


def test_a_bias_can_shut_the_only_evidence_out():
    case = cases.with_operand("mul", np.multiply, (3,), np.ones(3), features=-1)
    x, b = np.array([1.0, 1.0, 1.0]), np.array([-2.5, -3.5, 1.0])
    walked = walk_back(network(case, b, "tanh", False), {"x": x}, np.ones(3))
    close(walked.relevance["x"], np.array([1 / 3.5, 0, 1 / 2]))
    np.testing.assert_allclose(walked.kept(BIAS)[0], 2.5 / 3.5 + 1 + 1 / 2, rtol=1e-12)


@pytest.mark.parametrize(
    ("activation", "x", "expected"),
    [
        ("tanh", [3.0, 0.5], [1.0, 0.0]),
        ("tanh", [2.0, 0.5], [0.8, 0.2]),
        ("tanh", [0.5, 3.0], [0.0, 1.0]),
        ("tanh", [2.5, 0.5], [5 / 6, 1 / 6]),
        ("tanh", [0.5, 2.5], [1 / 6, 5 / 6]),
        ("sigmoid", [3.0, 0.5], [6 / 7, 1 / 7]),
        ("sigmoid", [5.0, 0.5], [1.0, 0.0]),
        ("softmax", [3.0, 0.5], [1.0, 0.0]),
        ("softmax", [0.5, 2.0], [0.0, 1.0]),
        ("softmax", [0.5, 1.25], [2 / 7, 5 / 7]),
        ("silu", [3.0, 0.5], [6 / 7, 1 / 7]),
        ("silu", [0.5, 6.0], [1 / 13, 12 / 13]),
        ("silu", [0.5, 7.0], [0.0, 1.0]),
        ("relu", [3.0, 0.5], [6 / 7, 1 / 7]),
    ],
)
def test_worked_by_hand(activation, x, expected):
    """One unit z = x_0 - x_1: above u only positive evidence counts, below l only negative; at them, both."""
    case = cases.with_operand("matmul", np.matmul, (2,), np.array([[1.0], [-1.0]]), features=-1)
    walked = walk_back(network(case, None, activation, False), {"x": np.array(x)}, np.ones(1))
    close(walked.relevance["x"], np.array(expected))
