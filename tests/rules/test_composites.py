"""Modes of the catalogue and of one's own: options, selectors, first match first, and a rule written by a user."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import jax.numpy as jnp
import numpy as np
import pytest

from backtrace_jax import MODES, Mode, Rule, Selector, SettingError, UnsupportedError, composite, explain, mode
from backtrace_jax.engine.compiled import compile_model
from backtrace_jax.engine.plan import plan_walk
from backtrace_jax.engine.steps import Step
from backtrace_jax.explainer import stages
from backtrace_jax.ir import Program, Source
from backtrace_jax.passes.build import Builder
from backtrace_jax.rules import find_mode
from backtrace_jax.rules.site import fit
from tests.engine.graphs import DOUBLE, INDEX, program
from tests.rules.networks import Network, perceptron
from tests.rules.running import assert_books_close, close, walk_op
from tests.rules.uses import USES

NEEDED = {"lrp-epsilon-gamma-box": {"low": -1.0, "high": [1.0, 2.0, 3.0]}}


def catalogue(name: str, **options) -> Mode:
    return mode(name, **{**NEEDED.get(name, {}), **options})


# a rule of the user's own


def largest_takes_all(site, R):
    """Of what a sum adds up, the largest operand takes everything; equal ones share."""
    sizes = jnp.stack([jnp.abs(jnp.broadcast_to(x, R.shape)) for x in site.operands])
    won = sizes == jnp.max(sizes, axis=0, keepdims=True)
    each = R / jnp.sum(won, axis=0, dtype=R.dtype)
    return {i: fit(jnp.where(won[i], each, 0), x) for i, x in enumerate(site.operands)}, {}


MINE = composite("mine", [(Selector(kind="sum"), Rule("largest", largest_takes_all))], base="lrp-epsilon")


def test_a_rule_of_ones_own():
    x, other, R = np.array([[2.0, -3.0, 1.0]]), np.array([-1.0, 3.0, -4.0]), np.array([[1.0, 0.5, -2.0]])
    walked = walk_op("add", [x, other], R, mode=MINE)
    close(walked.relevance["x0"], np.array([[1.0, 0.25, 0.0]]))
    close(walked.relevance["x1"], np.array([0.0, 0.25, -2.0]))
    assert_books_close(walked.books)


def test_a_rule_of_ones_own_in_a_network():
    """A shortcut around a dense layer: all of a unit's relevance follows the larger of the two."""
    network = Network(x=(5,))
    W, V = network.normal(5, 5), network.normal(5, 3)
    both = network.node("Add", network.node("MatMul", "x", W), "x")
    model = network.model(network.node("MatMul", both, V))
    x = np.random.default_rng(0).normal(size=(4, 5))
    found = explain(model, x, mode=MINE, target=1, dtype="float64", scaler=None)
    inner = x @ W
    arriving = (inner + x) * V[:, 1]  # epsilon of 1e-6 apart
    follows = np.abs(inner) > np.abs(x)
    through = ((arriving * follows / inner)[:, None, :] * W * x[:, :, None]).sum(2)
    np.testing.assert_allclose(found.relevance["x"], through + arriving * ~follows, rtol=1e-3, atol=1e-4)
    assert found.ledger.error.max() < 1e-12
    assert found.fingerprint["mode"] == "mine"
    assert found.fingerprint["rules"] == ["kind=sum: largest"]


def test_a_mode_in_pairs_takes_a_rule_channel_by_channel():
    chosen = composite("mine", [(Selector(kind="sum"), Rule("largest", largest_takes_all))], base="contrastive")
    x, other = np.array([2.0, -3.0]), np.array([-1.0, 4.0])
    walked = walk_op("add", [x, other], np.array([[1.0, 2.0], [3.0, 4.0]]), mode=chosen)
    close(walked.relevance["x0"], np.array([[1.0, 0.0], [3.0, 0.0]]))
    close(walked.relevance["x1"], np.array([[0.0, 2.0], [0.0, 4.0]]))


@pytest.mark.parametrize("shares", [{}, {0: None}, {0: np.ones((1, 2))}], ids=["none", "one", "wrong shape"])
def test_a_rule_that_leaves_an_operand_out_is_told_so(shares):
    def forgetful(site, R):
        return {i: R if share is None else jnp.asarray(share) for i, share in shares.items()}, {}

    chosen = composite("mine", [(Selector(kind="sum"), Rule("forgetful", forgetful))])
    with pytest.raises(SettingError, match=r"forgetful.*add"):
        walk_op("add", [np.ones(3), np.ones(3)], np.ones(3), mode=chosen)


# selectors


def named(label: str) -> Rule:
    """A rule that is known by its name; what it does plays no part."""
    return Rule(label, largest_takes_all)


def steps(model: Program, pairs: Sequence[tuple[Selector, Rule]], base: str = "lrp-epsilon") -> dict[str, Step]:
    """Steps of the walk by the name of their result."""
    plan = plan_walk(model.graph, composite("mine", pairs, base=base), model.graph.outputs[0])
    return {step.eqn.outvars[0].name: step for step in plan.steps}


def chosen(model: Program, selector: Selector) -> set[str]:
    """The results of the equations that a selector chooses."""
    found = steps(model, [(selector, named("mine"))])
    return {name for name, step in found.items() if step.rule.name == "mine"}


generator = np.random.default_rng(0)
W, TABLE = generator.normal(size=(4, 4)), generator.normal(size=(9, 4))
MODULES = {"stem": "encoder.stem", "left": "encoder.left.conv", "right": "encoder.right.conv", "head": "head"}


def branching(builder: Builder, x, ids):
    """x through a stem and two branches, one of them gated; looked-up rows added; two dense heads."""

    def step(name: str, op: str, *operands, **params):
        builder.source = Source(node=f"/{MODULES.get(name, 'model')}/{name}", module=MODULES.get(name, ""))
        result = builder.emit(op, *operands, **params)
        builder.rename(result, name)
        return result

    stem = step("stem", "matmul", x, W)
    active = step("active", "relu", stem)
    left, right = step("left", "matmul", active, W), step("right", "matmul", active, W)
    gated = step("gated", "mul", left, step("gate", "sigmoid", right))
    mixed = step("mixed", "matmul", step("weights", "softmax", gated, axis=1), active)
    rows = step("rows", "gather", TABLE, ids, axis=0)
    both = step("both", "add", mixed, rows)
    scaled = step("scaled", "mul", both, np.full(4, 2.0))
    return step("sum", "add", step("head", "matmul", scaled, W), step("second", "matmul", rows, W))


def _in_order(value):
    """Names of sets in order, so that tests are called the same in every process."""
    return " ".join(sorted(value)) if isinstance(value, set | frozenset) else str(value)


BRANCHING = program(branching, x=((4, 4), DOUBLE), ids=((4,), INDEX))


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (Selector(kind="sum"), {"both", "sum"}),
        (Selector(kind="linear"), {"stem", "left", "right", "scaled", "head", "second"}),
        (Selector(kind="product"), {"gated", "mixed"}),
        (Selector(kind="embedding"), {"rows"}),
        (Selector(op="matmul"), {"stem", "left", "right", "mixed", "head", "second"}),
        (Selector(op=("mul", "softmax")), {"gated", "scaled", "weights"}),
        (Selector(op="mul", kind="linear"), {"scaled"}),
        (Selector(node="left"), {"left"}),
        (Selector(node="/encoder.*"), {"stem", "left", "right"}),
        (Selector(node="s*"), {"stem", "scaled", "second", "sum"}),
        (Selector(module="encoder.*.conv"), {"left", "right"}),
        (Selector(module="head"), {"head"}),
        (Selector(module="*"), {*steps(BRANCHING, [])}),
        (Selector(position="first"), {"stem", "second"}),
        (Selector(position="last"), {"head", "second"}),
        (Selector(position="first", op="conv"), set()),
        (Selector(gate="*"), {"gated", "mixed"}),
        (Selector(gate="sigmoid"), {"gated"}),
        (Selector(gate="soft*", kind="product"), {"mixed"}),
        (Selector(recurrent=True), set()),
        (Selector(recurrent=False, kind="sum"), {"both", "sum"}),
        (Selector(), {*steps(BRANCHING, [])}),
    ],
    ids=_in_order,
)
def test_selectors(selector, expected):
    assert chosen(BRANCHING, selector) == expected


def test_names_are_case_sensitive_and_whole():
    for selector in (Selector(node="LEFT"), Selector(node="lef"), Selector(module="encoder"), Selector(module="Head")):
        assert chosen(BRANCHING, selector) == set()


def test_the_first_match_wins():
    found = steps(
        BRANCHING,
        [
            (Selector(node="left"), named("by name")),
            (Selector(module="encoder.*"), named("by module")),
            (Selector(kind="linear"), named("by kind")),
            (Selector(op="matmul"), named("never: a linear map, or the one below")),
        ],
    )
    rules = {name: step.rule.name for name, step in found.items()}
    assert (rules["left"], rules["right"], rules["stem"], rules["head"]) == (
        "by name",
        "by module",
        "by module",
        "by kind",
    )
    assert rules["mixed"].startswith("never")
    assert rules["both"] == "epsilon", "what no selector chooses is left to the base"
    assert rules["active"] == "identity"


def test_composites_may_be_built_on_each_other():
    inner = composite("inner", [(Selector(op="relu"), named("inner")), (Selector(node="left"), named("inner"))])
    outer = composite("outer", [(Selector(node="left"), named("outer"))], base=inner)
    plan = plan_walk(BRANCHING.graph, outer, BRANCHING.graph.outputs[0])
    rules = {step.eqn.outvars[0].name: step.rule.name for step in plan.steps}
    assert (rules["left"], rules["active"], rules["stem"]) == ("outer", "inner", "proportional")
    assert outer.own_rules == ("node=left: outer", "op=relu: inner", "node=left: inner")


def recurrent() -> Program:
    """A dense layer, a gated cell over time that has a dense layer inside, and another dense layer."""
    body, builder = Builder(), Builder()
    h, x = body.input("h", (1, 4), DOUBLE), body.input("x", (1, 4), DOUBLE)
    inside = body.emit("matmul", x, W)
    body.rename(inside, "inside")
    gated = body.emit("mul", body.emit("sigmoid", h), body.emit("tanh", inside))
    body.rename(gated, "gated")
    series = builder.emit("reshape", builder.emit("matmul", builder.input("x", (3, 4), DOUBLE), W), shape=(3, 1, 4))
    (last,), _ = builder.scan(body.finish({"h": gated}), [np.zeros((1, 4))], [series], 3)
    return builder.finish({"y": builder.emit("matmul", last, W)})


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (Selector(recurrent=True), {"inside", "gated"} | {"tanh", "sigmoid"}),
        (Selector(recurrent=False, kind="linear"), {"matmul", "matmul.1"}),
        (Selector(recurrent=True, gate="sigmoid"), {"gated"}),
        (Selector(kind="linear"), {"matmul", "matmul.1", "inside"}),
        (Selector(position="first"), {"matmul"}),
        (Selector(position="last"), {"matmul.1"}),
    ],
    ids=_in_order,
)
def test_selectors_inside_what_runs_over_time(selector, expected):
    plan = plan_walk(
        (model := recurrent()).graph,
        composite("mine", [(selector, named("mine"))], base="gradient"),
        model.graph.outputs[0],
    )
    every = [*plan.steps, *(inner for step in plan.steps for inner in (step.body.steps if step.body else ()))]
    assert {step.eqn.outvars[0].name for step in every if step.rule and step.rule.name == "mine"} == expected


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ({"kind": "linaer"}, "linear, move"),
        ({"position": "frist"}, "first, last"),
        ({"op": "Conv"}, "did you mean 'conv'"),
    ],
)
def test_selectors_that_could_never_match_are_refused(wrong, hint):
    (value,) = wrong.values()
    with pytest.raises(SettingError, match=f"{value}.*{hint}"):
        Selector(**wrong)


# the catalogue


def quotient() -> Program:
    return program(lambda b, x, y: b.emit("div", x, y), x=((3,), DOUBLE), y=((3,), DOUBLE))


@pytest.mark.parametrize("name", MODES)
def test_every_mode_has_a_rule_for_every_kind(name):
    for use in USES:
        assert use.plan(catalogue(name)).steps
    for model in (recurrent(), quotient(), BRANCHING):
        assert plan_walk(model.graph, catalogue(name), model.graph.outputs[0]).steps


@pytest.mark.parametrize("name", MODES)
def test_modes_made_alike_are_equal(name):
    one, other = catalogue(name), catalogue(name)
    assert one == other
    assert hash(one) == hash(other)
    assert one.summary
    assert one.reference


def test_options_make_modes_apart():
    assert mode("lrp-gamma", gamma=0.1) == mode("lrp-gamma", gamma=0.1)
    assert hash(mode("lrp-gamma", gamma=0.1)) == hash(mode("lrp-gamma", gamma=0.1))
    assert mode("lrp-gamma", gamma=0.1) != mode("lrp-gamma", gamma=0.2)
    assert mode("lrp-gamma") == mode("lrp-gamma", gamma=0.25)
    assert mode("smoothgrad", seed=1) != mode("smoothgrad", seed=2)
    low = np.array([0.0, 1.0])
    assert mode("lrp-epsilon-gamma-box", low=low, high=2) == mode("lrp-epsilon-gamma-box", low=low.copy(), high=2)
    assert dict(mode("lrp-gamma", gamma=0.1).options) == {
        "gamma": 0.1,
        "epsilon": 1e-9,
        "bias": "keep",
        "norm": "linear",
    }


def test_a_second_call_with_an_equal_mode_compiles_nothing(monkeypatch):
    compiled = []
    monkeypatch.setattr(stages, "compile_model", lambda *given: compiled.append(given) or compile_model(*given))
    model, x = perceptron(), np.ones((1, 6))
    first, again = (explain(model, x, mode=mode("lrp-gamma", gamma=0.125)).fingerprint for _ in range(2))
    assert first == again
    assert len(compiled) == 1
    assert first["mode_options"] == {"gamma": 0.125, "epsilon": 1e-9, "bias": "keep", "norm": "linear"}
    explain(model, x, mode=mode("lrp-gamma", gamma=0.5))
    assert len(compiled) == 2


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lrp-gama", {}, "lrp-gama.*did you mean lrp-gamma"),
        ("lrp-gamma", {"gama": 1}, "no option gama.*gamma, epsilon, bias"),
        ("dlbacktrace-0.0.24", {"epsilon": 1}, "no option epsilon.*none"),
        ("gradient", {"steps": 1}, "no option steps.*none"),
        ("integrated-gradients", {"samples": 1}, "no option samples.*steps"),
        ("deeplift", {"steps": 1, "noise": 2}, "no option noise, steps.*none"),
        ("lrp-epsilon-gamma-box", {}, "needs low and high"),
        ("lrp-epsilon-gamma-box", {"low": 0.0}, "needs high"),
        ("lrp-epsilon-gamma-box", {"low": 0.0, "high": None}, "high"),
        ("lrp-epsilon-gamma-box", {"low": 0.0, "high": "1"}, "high"),
        ("lrp-epsilon-gamma-box", {"low": -np.inf, "high": 1.0}, "low"),
        ("lrp-epsilon-gamma-box", {"low": 1.0, "high": 0.0}, "low"),
        ("lrp-epsilon-gamma-box", {"low": [0.0, 2.0], "high": [1.0, 1.0]}, "low"),
        ("lrp-epsilon-gamma-box", {"low": [[0.0], [1.0, 2.0]], "high": 3.0}, "low"),
        ("lrp-epsilon", {"epsilon": -1e-6}, "epsilon"),
        ("lrp-epsilon", {"epsilon": np.nan}, "epsilon"),
        ("lrp-epsilon-plus", {"epsilon": np.inf}, "epsilon"),
        ("lrp-flat", {"epsilon": -1.0}, "epsilon"),
        ("lrp-gamma", {"gamma": -0.5}, "gamma"),
        ("lrp-gamma", {"bias": "drop"}, "bias.*keep.*ignore"),
        ("lrp-alpha2-beta1", {"alpha": 3.0}, "alpha - beta must be 1"),
        ("lrp-alpha2-beta1", {"alpha": 0.0, "beta": -1.0}, "beta"),
        ("attnlrp", {"epsilon": -1.0}, "epsilon"),
        ("attnlrp", {"norm": "layer"}, "norm.*linear.*identity"),
        ("integrated-gradients", {"steps": 0}, "steps"),
        ("integrated-gradients", {"steps": 2.5}, "steps"),
        ("integrated-gradients", {"steps": True}, "steps"),
        ("smoothgrad", {"samples": 0}, "samples"),
        ("smoothgrad", {"noise": -0.1}, "noise"),
        ("smoothgrad", {"seed": -1}, "seed"),
    ],
)
def test_wrong_options_are_refused(name, options, message):
    with pytest.raises(SettingError, match=message):
        mode(name, **options)


@pytest.mark.parametrize("wanted", ["lrp-epsilon-gamma-box", "no such mode", ""])
def test_wrong_modes_are_refused(wanted):
    with pytest.raises(SettingError, match="mode"):
        find_mode(wanted)


def test_bounds_that_do_not_fit_the_input_are_refused():
    chosen = mode("lrp-epsilon-gamma-box", low=np.zeros(5), high=np.ones(5))
    with pytest.raises(SettingError, match=r"5.*6"):
        explain(perceptron(), np.zeros((1, 6)), mode=chosen)


@pytest.mark.parametrize(
    ("low", "high", "refused"),
    [
        (-1, 1, ""),
        ([-1, 0, 0, 0, 0, 0.5], 1, ""),
        (0, 1, r"input 'x' lies beyond the bounds low=0, high=1 .*reads from -1 to 0.75 in examples 1;"),
        (-1, [1, 1, 1, 1, 1, 0.5], r"high=\(1.0, 1.0, 1.0, 1.0, 1.0, 0.5\).*in examples 0, 1;"),
        (-1, 1 - 1e-6, ""),
        (-1, 0.99, r"from 0 to 1 in examples 0;"),
    ],
)
def test_inputs_beyond_their_bounds_are_refused(low, high, refused):
    """Shares of z-box are of one sign only between the bounds (Montavon et al. 2017)."""
    x = np.array([[0, 0.25, 0.5, 1, 0, 0.75], [-1, 0.25, 0, 0, 0, 0.75]], np.float32)
    chosen = mode("lrp-epsilon-gamma-box", low=np.asarray(low), high=np.asarray(high))
    with pytest.raises(SettingError, match=refused) if refused else nullcontext():
        explain(perceptron(), x, mode=chosen)


def test_a_mode_without_the_rule_it_needs_is_refused_before_anything_runs():
    bare = Mode("bare", ((Selector(kind="linear"), named("linear")),))
    with pytest.raises(UnsupportedError, match=r"bare.*no rule for pointwise.*relu"):
        explain(perceptron(), np.zeros((1, 6)), mode=bare)
