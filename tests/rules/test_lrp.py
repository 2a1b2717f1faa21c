"""Every rule of the LRP family equals its definition, computed unit by unit (RULES 1.3, 3 and 4)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from backtrace_jax.engine.plan import plan_walk
from backtrace_jax.engine.steps import Step
from backtrace_jax.ops import LINEAR, PRODUCT, SUM
from backtrace_jax.passes.build import Builder
from backtrace_jax.rules import BIAS, CONSTANT, DEAD, STABILISER, Mode, Rule, Selector, composite, lrp, mode
from tests.rules import cases, lrp_oracles
from tests.rules.cases import Case, entries
from tests.rules.lrp_oracles import Kept, Map, of_product, of_sum
from tests.rules.running import DOUBLE, Walked, assert_books_close, close, walk_back, walk_op
from tests.rules.test_linear import bias_of, network, result_shape
from tests.rules.test_products import PRODUCTS


@dataclass(frozen=True)
class Tried:
    """A rule of the library beside its definition.

    Attributes:
        function: The rule.
        settings: Its settings.
        definition: What it should do to a unit.
        epsilon: Its stabiliser.
        two_sided: Whether it is defined by contributions, so that it applies to sums and to products of two values.
        knows_bias: Whether the bias takes part.
    """

    function: Callable[..., Any]
    settings: Mapping[str, Any]
    definition: lrp_oracles.Definition
    epsilon: float = 1e-9
    two_sided: bool = True
    knows_bias: bool = True

    @property
    def mode(self) -> Mode:
        """This rule wherever contributions are added up."""
        rule = Rule(self.function.__name__, self.function, tuple(self.settings.items()))
        return composite("tried", [(Selector(kind=kind), rule) for kind in (LINEAR, SUM, PRODUCT)], base="lrp-zero")

    def share(self, linear: Map, R: np.ndarray) -> Kept:
        """What the definition says."""
        return lrp_oracles.lrp(self.definition, linear, R, self.epsilon)


LOW, HIGH = -2.0, 3.0
BOX = partial(lrp_oracles.z_box, low=LOW, high=HIGH)
STRONG = partial(lrp_oracles.alpha_beta, alpha=1.5, beta=0.5)
RULES = {
    "epsilon": Tried(lrp.epsilon, {}, lrp_oracles.signed),
    "zero": Tried(lrp.epsilon, {"epsilon": 0.0}, lrp_oracles.signed, 0.0),
    "gamma": Tried(lrp.gamma, {}, lrp_oracles.gamma),
    "alpha-beta": Tried(lrp.alpha_beta, {}, lrp_oracles.alpha_beta),
    "z-plus": Tried(lrp.z_plus, {}, lrp_oracles.z_plus),
    "w-square": Tried(lrp.w_square, {}, lrp_oracles.w_square, two_sided=False),
    "flat": Tried(lrp.flat, {}, lrp_oracles.flat, two_sided=False, knows_bias=False),
    "z-box": Tried(lrp.z_box, {"low": LOW, "high": HIGH}, BOX, two_sided=False, knows_bias=False),
}
TWO_SIDED = [name for name, tried in RULES.items() if tried.two_sided]
WITH_BIAS = [name for name, tried in RULES.items() if tried.knows_bias]
OTHER_SETTINGS = {
    "large epsilon": Tried(lrp.epsilon, {"epsilon": 0.25}, lrp_oracles.signed, 0.25),
    "large gamma": Tried(lrp.gamma, {"gamma": 10.0, "epsilon": 0.1}, partial(lrp_oracles.gamma, gamma=10.0), 0.1),
    "alpha 1.5": Tried(lrp.alpha_beta, {"alpha": 1.5, "beta": 0.5, "epsilon": 0.1}, STRONG, 0.1),
}

STRIDED = {"strides": (2, 1), "padding": ((1, 0), (0, 1)), "dilation": (1, 2), "groups": 2}
WEIGHTED: dict[str, tuple[Callable[[np.ndarray], Case], tuple[int, ...]]] = {
    "matmul": (lambda K: cases.with_operand("matmul", np.matmul, (3, 4), K, features=-1), (4, 5)),
    "matmul left": (lambda K: cases.with_operand("matmul", np.matmul, (2, 4, 3), K, left=True, features=-2), (5, 4)),
    "conv": (lambda K: cases.window_case("conv", (1, 4, 4, 5), K, **STRIDED), (4, 2, 2, 3)),
    "conv_transpose": (lambda K: cases.window_case("conv_transpose", (1, 4, 2, 3), K, **STRIDED), (4, 2, 3, 2)),
    "einsum": (
        lambda K: cases.with_operand(
            "einsum", partial(np.einsum, "bij,jk->bki"), (2, 3, 4), K, equation="bij,jk->bki", features=1
        ),
        (4, 3),
    ),
    "mul": (lambda K: cases.with_operand("mul", np.multiply, (3, 4), K, features=-1), (4,)),
}
"""Linear maps by weights, and the shape of these."""

WEIGHTLESS = {name: case for name, case in cases.fixed().items() if case.K is None}
MIXING = [name for name in WEIGHTED if name != "mul"]


def draw_map(name: str, generator: np.random.Generator) -> tuple[Case, np.ndarray]:
    """A linear map, and where it has weights at all."""
    if name in WEIGHTLESS:
        return WEIGHTLESS[name], WEIGHTLESS[name].matrix != 0
    make, shape = WEIGHTED[name]
    return make(entries(generator, shape)), make(np.ones(shape)).matrix != 0


def check_map(
    tried: Tried, name: str, seed: int, *, biased: bool, rectified: bool = False, chosen: Mode | None = None
) -> Kept:
    """Hold a rule, or a mode said to apply it, against the definition on a linear map."""
    generator = np.random.default_rng(seed)
    case, connected = draw_map(name, generator)
    x, R = entries(generator, case.shape), generator.normal(size=result_shape(case))
    b = bias_of(case, generator) if biased else None
    walked = walk_back(network(case, b, None, rectified), {"x": x}, R, mode=chosen or tried.mode)
    seen = np.maximum(x, 0) if rectified else x
    expected = tried.share(Map(case.matrix, connected, seen, b if tried.knows_bias else None), R)
    close(walked.relevance["x"], expected.share)
    check_kept(walked, expected)
    return expected


def check_kept(walked: Walked, expected: Kept, constant: Collection[np.ndarray] = ()) -> None:
    """The ledger says what the definition says, in signed and in absolute totals, and it closes."""
    fixed = np.concatenate([np.zeros(1), *(share.reshape(-1) for share in constant)])
    wanted = {BIAS: expected.bias, STABILISER: expected.stabiliser, DEAD: expected.dead, CONSTANT: fixed}
    size = max(np.abs(walked.books.absolute).max(), 1)
    for cause, kept in wanted.items():
        totals = [kept.sum(), np.abs(kept).sum()]
        np.testing.assert_allclose(walked.kept(cause), totals, rtol=1e-12, atol=1e-12 * size, err_msg=cause)
    assert_books_close(walked.books)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("name_of_map", WEIGHTED)
def test_linear_maps(name, name_of_map):
    """With bias, on inputs of both signs."""
    for seed in range(4):
        check_map(RULES[name], name_of_map, seed, biased=True)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("biased", [False, True])
def test_rectified_inputs(name, biased):
    for seed in range(4):
        check_map(RULES[name], "matmul", seed, biased=biased, rectified=True)


@pytest.mark.parametrize("name", OTHER_SETTINGS)
def test_settings(name):
    for seed in range(4):
        check_map(OTHER_SETTINGS[name], "matmul", seed, biased=True)


@pytest.mark.parametrize("name", TWO_SIDED)
@pytest.mark.parametrize("name_of_map", WEIGHTLESS)
def test_fixed_weights(name, name_of_map):
    for seed in range(3):
        check_map(RULES[name], name_of_map, seed, biased=False)


@pytest.mark.parametrize("name", WITH_BIAS)
def test_a_bias_that_is_ignored_takes_nothing(name):
    known = RULES[name]
    ignoring = replace(known, settings={**known.settings, "bias": "ignore"}, knows_bias=False)
    changes = []
    for seed in range(4):
        kept, heeded = (check_map(each, "conv", seed, biased=True) for each in (ignoring, known))
        assert not kept.bias.any()
        changes.append(np.abs(heeded.share - kept.share).max())
    assert max(changes) > 1e-3, "on these very maps the bias makes a difference"


@pytest.mark.parametrize("shape", [(4, 4, 5), (4, 1, 1), (1, 4, 4, 5), ()])
def test_bounds_for_every_entry(shape):
    """z-box with bounds that differ from entry to entry, or from channel to channel."""
    generator = np.random.default_rng(len(shape))
    case, connected = draw_map("conv", generator)
    bounds = {key: sign * generator.uniform(3, 4, size=shape) for key, sign in (("low", -1), ("high", 1))}
    wide = {key: np.broadcast_to(bound, case.shape).reshape(-1) for key, bound in bounds.items()}
    x, R = entries(generator, case.shape), generator.normal(size=result_shape(case))
    walked = walk_back(network(case, None, None, False), {"x": x}, R, mode=mode("lrp-epsilon-gamma-box", **bounds))
    expected = lrp_oracles.lrp(partial(lrp_oracles.z_box, **wide), Map(case.matrix, connected, x), R)
    close(walked.relevance["x"], expected.share)
    check_kept(walked, expected)


SUMS = [
    ("add", ((2, 3), (3,), (2, 1)), ()),
    ("add", ((3,), (2, 3)), (0,)),
    ("sub", ((2, 3), (2, 1)), ()),
    ("sub", ((2, 1), (3,)), (1,)),
]


def check_sum(tried: Tried, which: int, seed: int, chosen: Mode | None = None) -> None:
    op, shapes, constant = SUMS[which]
    generator = np.random.default_rng(seed)
    operands = [entries(generator, shape) for shape in shapes]
    R, signs = generator.normal(size=np.broadcast_shapes(*shapes)), (1, -1) if op == "sub" else (1,) * len(shapes)
    shares, kept = of_sum(lambda linear: tried.share(linear, R), operands, signs)
    walked = walk_op(op, operands, R, constant, mode=chosen or tried.mode)
    for i in set(range(len(operands))) - set(constant):
        close(walked.relevance[f"x{i}"], shares[i])
    check_kept(walked, kept, [shares[i] for i in constant])


@pytest.mark.parametrize("name", TWO_SIDED)
@pytest.mark.parametrize("which", range(len(SUMS)))
def test_sums(name, which):
    for seed in range(4):
        check_sum(RULES[name], which, seed)


@pytest.mark.parametrize("name", TWO_SIDED)
def test_an_infinite_mask_takes_nothing(name):
    """Behind a mask of -inf lies a softmax, which lets no relevance through there (RULES 3 and 7)."""
    mask, x = np.array([0.0, -np.inf, 2.0, -np.inf]), np.array([2.0, 3.0, 6.0, 0.0])
    R = np.array([1.0, 0.0, -1.0, 0.0])
    walked = walk_op("add", [x, mask], R, constant=(1,), mode=RULES[name].mode)
    finite = [x, np.where(np.isfinite(mask), mask, 0)]
    (share, masked), kept = of_sum(lambda linear: RULES[name].share(linear, R), finite, (1, 1))
    close(walked.relevance["x0"], share)
    assert share[1] == share[3] == masked[1] == masked[3] == 0
    check_kept(walked, kept, [masked])


def check_product(tried: Tried, op: str, which: int, seed: int, chosen: Mode | None = None) -> None:
    function, shapes, params = PRODUCTS[op][which]
    generator = np.random.default_rng(seed)
    a, b = (entries(generator, shape) for shape in shapes)
    R = generator.normal(size=function(a, b).shape)
    shares, kept = of_product(lambda linear: tried.share(linear, R / 2), function, a, b)
    walked = walk_op(op, [a, b], R, mode=chosen or tried.mode, **params)
    close(walked.relevance["x0"], shares[0])
    close(walked.relevance["x1"], shares[1])
    check_kept(walked, kept)


@pytest.mark.parametrize("name", TWO_SIDED)
@pytest.mark.parametrize(("op", "which"), [("mul", 3), ("matmul", 4), ("einsum", 0), ("conv", 0)])
def test_products_of_two_values(name, op, which):
    for seed in range(3):
        check_product(RULES[name], op, which, seed)


# which rule the modes give to which operation

OF_MODES = {
    "lrp-epsilon": "zero",
    "lrp-zero": "zero",
    "lrp-gamma": "gamma",
    "lrp-alpha2-beta1": "alpha-beta",
    "lrp-alpha1-beta0": "z-plus",
    "lrp-zplus": "z-plus",
    "lrp-wsquare": "w-square",
    "lrp-flat": "flat",
}
every_mode = pytest.mark.parametrize("name", OF_MODES)


def elsewhere(name: str) -> Tried:
    """The rule that a mode has for all but linear maps by weights."""
    return RULES["zero" if OF_MODES[name] == "zero" else "epsilon"]


def check_rule(step: Step, tried: Tried) -> None:
    """This rule, with these settings or the library's defaults."""
    defaults = {key: each.default for key, each in inspect.signature(tried.function).parameters.items()}
    assert step.rule.function is tried.function
    assert {**defaults, **dict(step.rule.settings)} == {**defaults, **tried.settings}


@every_mode
@pytest.mark.parametrize("name_of_map", [*WEIGHTED, *WEIGHTLESS])
def test_modes_give_their_rule_to_maps_by_weights(name, name_of_map):
    """Matrix products, convolutions and einsum get the rule that gives the mode its name, all else epsilon or zero."""
    case, _ = draw_map(name_of_map, np.random.default_rng(0))
    graph = network(case, None, None, False).graph
    (step,) = plan_walk(graph, mode(name), graph.outputs[0]).steps
    check_rule(step, RULES[OF_MODES[name]] if name_of_map in MIXING else elsewhere(name))


@every_mode
@pytest.mark.parametrize(("op", "shapes"), [("add", ((3,), (3,))), ("mul", ((3,), (3,))), ("matmul", ((3,), (3,)))])
def test_modes_share_sums_and_products_by_epsilon(name, op, shapes):
    builder = Builder()
    operands = [builder.input(f"x{i}", shape, DOUBLE) for i, shape in enumerate(shapes)]
    graph = builder.finish({"y": builder.emit(op, *operands)}).graph
    (step,) = plan_walk(graph, mode(name), graph.outputs[0]).steps
    check_rule(step, elsewhere(name))


@pytest.mark.parametrize("name", ["lrp-gamma", "lrp-wsquare", "lrp-zero"])
def test_walks_of_modes(name):
    """A map by weights, one without, a sum and a product, walked by the mode itself."""
    for seed in range(3):
        check_map(RULES[OF_MODES[name]], "conv", seed, biased=True, chosen=mode(name))
        check_map(elsewhere(name), "avg_pool", seed, biased=False, chosen=mode(name))
        check_sum(elsewhere(name), 0, seed, mode(name))
        check_product(elsewhere(name), "matmul", 0, seed, mode(name))


@pytest.mark.parametrize("name_of_map", [*WEIGHTED, *WEIGHTLESS])
def test_linear_maps_by_slopes(name_of_map):
    """What the mode carries is R/x, and what it gives is LRP-0."""
    for seed in range(2):
        check_map(RULES["zero"], name_of_map, seed, biased=name_of_map in WEIGHTED, chosen=mode("lrp-epsilon"))


@pytest.mark.parametrize(
    ("name", "options", "definition"),
    [
        ("lrp-epsilon", {}, lrp_oracles.signed),
        ("lrp-gamma", {"gamma": 0.5}, partial(lrp_oracles.gamma, gamma=0.5)),
        ("lrp-alpha2-beta1", {"alpha": 1.5, "beta": 0.5}, STRONG),
        ("lrp-zplus", {}, lrp_oracles.z_plus),
        ("lrp-wsquare", {}, lrp_oracles.w_square),
    ],
)
def test_options_of_modes_reach_the_rules(name, options, definition):
    chosen = mode(name, **options, epsilon=0.1, bias="ignore")
    tried = replace(RULES["epsilon"], definition=definition, epsilon=0.1, knows_bias=False)
    check_map(tried, "matmul", 0, biased=True, chosen=chosen)
    check_map(replace(RULES["epsilon"], epsilon=0.1), "reduce_sum", 0, biased=False, chosen=chosen)


# worked by hand


def hand(x, b, R, chosen):
    """Relevance R of one unit z = Σ x_j + b, shared."""
    case = cases.with_operand("matmul", np.matmul, (len(x),), np.ones((len(x), 1)), features=-1)
    biases = None if b is None else np.array([float(b)])
    return walk_back(network(case, biases, None, False), {"x": np.array(x, float)}, np.array([float(R)]), mode=chosen)


@pytest.mark.parametrize(
    ("name", "options", "x", "b", "expected"),
    [
        ("lrp-zero", {}, [3, -1], None, [1.5, -0.5]),
        ("lrp-zero", {}, [3, -1], 2, [0.75, -0.25]),
        ("lrp-epsilon", {"epsilon": 1.0}, [3, -1], None, [1, -1 / 3]),
        ("lrp-epsilon", {"epsilon": 1.0}, [-3, 1], None, [1, -1 / 3]),
        ("lrp-gamma", {"gamma": 1.0, "epsilon": 0.0}, [3, -1], None, [6 / 5, -1 / 5]),
        ("lrp-gamma", {"gamma": 1.0, "epsilon": 0.0}, [-3, 1], None, [6 / 5, -1 / 5]),
        ("lrp-gamma", {"gamma": 1.0, "epsilon": 0.0}, [3, -1], -4, [-3 / 7, 2 / 7]),
        ("lrp-gamma", {"gamma": 1.0, "epsilon": 0.0}, [1, -1], None, [2, -1]),
        ("lrp-alpha2-beta1", {"epsilon": 0.0}, [3, -1], None, [2, -1]),
        ("lrp-alpha2-beta1", {"epsilon": 0.0}, [3, 1], None, [1.5, 0.5]),
        ("lrp-zplus", {"epsilon": 0.0}, [3, -1], None, [1, 0]),
        ("lrp-zplus", {"epsilon": 0.0}, [3, -1], 1, [0.75, 0]),
        ("lrp-wsquare", {"epsilon": 0.0}, [3, -1], 2, [1 / 6, 1 / 6]),
        ("lrp-flat", {"epsilon": 0.0}, [3, -1], 2, [0.5, 0.5]),
    ],
)
def test_worked_by_hand(name, options, x, b, expected):
    close(hand(x, b, 1, mode(name, **options)).relevance["x"], np.array(expected, float))


def test_a_unit_that_cancels_out_loses_all_to_the_stabiliser_or_is_dead():
    chosen = (mode("lrp-epsilon", epsilon=1e-9), "lrp-zero")
    stabilised, bare = (hand([1, -1], None, 0.5, each) for each in chosen)
    close(stabilised.relevance["x"], np.array([0.5e9, -0.5e9]))
    np.testing.assert_allclose(stabilised.kept(STABILISER), [0.5, 0.5], rtol=1e-12)
    close(bare.relevance["x"], np.zeros(2))
    assert bare.kept(DEAD).tolist() == [0.5, 0.5]
    assert bare.kept(STABILISER).tolist() == [0, 0]
