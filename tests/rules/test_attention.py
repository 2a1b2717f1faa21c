"""AttnLRP's softmax, CP-LRP's attention weights, and gates whose signal takes all (RULES 4 and 7)."""

from __future__ import annotations

import numpy as np
import pytest

from backtrace_jax.ir import Program
from backtrace_jax.ops import LINEAR, PRODUCT, SUM
from backtrace_jax.passes.build import Builder
from backtrace_jax.rules import BIAS, CONSTANT, DEAD, Rule, Selector, composite, lrp, mode, parts
from tests.rules.cases import entries
from tests.rules.lrp_oracles import Map, gamma, of_product, signed
from tests.rules.lrp_oracles import lrp as lrp_rule
from tests.rules.oracles import default_rule, matrix
from tests.rules.running import DOUBLE, Walked, assert_books_close, close, walk_back


def softmax(S: np.ndarray, axis: int) -> np.ndarray:
    powers = np.exp(S - S.max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)


def softmax_rule(S: np.ndarray, R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Taylor expansion of every A_j at S, unit by unit: shares of its terms and of the constant (arXiv 2402.05602)."""
    A = softmax(S, 0)
    share, constant = np.zeros(len(S)), np.zeros(len(S))
    for j in range(len(S)):
        slopes = np.array([A[j] * ((i == j) - A[i]) for i in range(len(S))])
        share += slopes * S * R[j] / A[j]
        constant[j] = (A[j] - (slopes * S).sum()) * R[j] / A[j]
    return share, constant


def inside(op: str, S: np.ndarray, R: np.ndarray, name: str = "attnlrp", *, axis: int) -> Walked:
    """A softmax whose result is not the answer: a function that hands relevance on as it is reads it."""
    builder = Builder()
    value = builder.emit(op, builder.input("x0", S.shape, DOUBLE), axis=axis)
    builder.rename(value, "softmax")
    return walk_back(builder.finish({"y": builder.emit("neg", value)}), {"x0": S}, R, mode=name)


INSIDE = ["attnlrp", "cp-lrp", "lrp-epsilon", "lrp-gamma", "lrp-zplus", "lrp-flat", "lrp-epsilon-plus"]


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax(axis):
    for seed in range(3):
        generator = np.random.default_rng(seed)
        S, R = generator.normal(size=(3, 4)), generator.normal(size=(3, 4))
        walked = inside("softmax", S, R, axis=axis)
        lines = zip(np.moveaxis(S, axis, -1), np.moveaxis(R, axis, -1), strict=True)
        shares, constants = (np.array(each) for each in zip(*(softmax_rule(*line) for line in lines), strict=True))
        close(walked.relevance["x0"], np.moveaxis(shares, -1, axis))
        np.testing.assert_allclose(walked.kept(BIAS), [constants.sum(), np.abs(constants).sum()], rtol=1e-12)
        assert_books_close(walked.books)
        published = S * (R - walked.values["softmax"] * R.sum(axis, keepdims=True))
        for name in INSIDE:
            close(inside("softmax", S, R, name, axis=axis).relevance["x0"], published)


def test_softmax_behind_a_mask():
    """What a mask has pushed to zero takes nothing, and changes nothing for the others."""
    S, R = np.array([[0.5, -np.inf, 1.0, -1e9]]), np.array([[0.3, 0.0, -0.2, 0.0]])
    walked = inside("softmax", S, R, axis=1)
    share, constant = softmax_rule(S[0, [0, 2]], R[0, [0, 2]])
    close(walked.relevance["x0"], np.array([[share[0], 0, share[1], 0]]))
    np.testing.assert_allclose(walked.kept(BIAS)[0], constant.sum(), rtol=1e-12)
    assert_books_close(walked.books)


@pytest.mark.parametrize("name", INSIDE)
def test_log_softmax(name):
    """Its expansion at S: slopes δ_ij − A_j, and what they leave of the value is a constant."""
    for seed in range(3):
        generator = np.random.default_rng(seed)
        S, R = generator.normal(size=(3, 4)), generator.normal(size=(3, 4))
        walked = inside("log_softmax", S, R, name, axis=1)
        y = np.log(softmax(S, 1))
        rate = R / (y - dict(mode(name).options)["epsilon"])
        slopes = np.eye(4) - softmax(S, 1)[:, None]
        close(walked.relevance["x0"], S * np.einsum("rj,rji->ri", rate, slopes), 1e-11)
        constant = rate * (y - np.einsum("rji,ri->rj", slopes, S))
        np.testing.assert_allclose(walked.kept(BIAS), [constant.sum(), np.abs(constant).sum()], rtol=1e-10)
        assert_books_close(walked.books)


@pytest.mark.parametrize("hidden", [-np.inf, -1e9])
def test_log_softmax_behind_a_mask(hidden):
    walked = inside("log_softmax", np.array([[0.5, hidden, 1.0]]), np.array([[0.3, 0.0, -0.2]]), axis=1)
    alone = inside("log_softmax", np.array([[0.5, 1.0]]), np.array([[0.3, -0.2]]), axis=1)
    close(walked.relevance["x0"], np.insert(alone.relevance["x0"], 1, 0, axis=1))
    assert_books_close(walked.books)


THE_ANSWER = {
    "itself": lambda b, A: A,
    "moved": lambda b, A: b.emit(
        "slice", b.emit("transpose", A, perm=(1, 0)), start=(1, 0), limit=(3, 3), stride=(1, 1)
    ),
    "in another type": lambda b, A: b.emit("cast", b.emit("cast", A, dtype="float32"), dtype="float64"),
    "its largest": lambda b, A: b.emit("reduce_max", A, axes=(1,), keepdims=False),
}


@pytest.mark.parametrize("form", THE_ANSWER)
@pytest.mark.parametrize("op", ["softmax", "log_softmax"])
@pytest.mark.parametrize("name", ["attnlrp", "lrp-gamma"])
def test_a_softmax_that_gives_the_answer_hands_on_what_it_is_given(form, op, name):
    builder, generator = Builder(), np.random.default_rng(0)
    result = THE_ANSWER[form](builder, builder.emit(op, builder.input("x", (3, 4), DOUBLE), axis=1))
    program, x = builder.finish({"y": result}), generator.normal(size=(3, 4))
    walked = walk_back(program, {"x": x}, np.ones(result.shape), mode=name)
    assert sorted(set(walked.relevance["x"].ravel().tolist())) in ([1], [0, 1])
    assert walked.relevance["x"].sum() == np.prod(result.shape)


def test_a_softmax_is_inside_as_soon_as_anything_reads_it():
    """Weights that are an answer and, by another way, part of it: they count as inside."""
    builder = Builder()
    A = builder.emit("softmax", builder.input("x", (3, 4), DOUBLE), axis=1)
    result = builder.emit("concat", A, builder.emit("neg", A), axis=0)
    walked = walk_back(builder.finish({"y": result}), {"x": np.eye(3, 4)}, np.ones(result.shape), mode="attnlrp")
    assert walked.kept(BIAS)[1] > 1


def attention(constant: str = "") -> Program:
    """softmax(q kᵀ + mask) v; `constant` names one of the three that is not an input."""
    builder, generator = Builder(), np.random.default_rng(9)
    q, k, v = (
        generator.normal(size=(4, 3)) if name == constant else builder.input(name, (4, 3), DOUBLE) for name in "qkv"
    )
    scores = builder.emit("matmul", q, builder.emit("transpose", k, perm=(1, 0)))
    mask = np.where(np.arange(4) == 2, -np.inf, 0.0)[None]
    weights = builder.emit("softmax", builder.emit("add", scores, mask), axis=1)
    builder.rename(weights, "weights")
    return builder.finish({"y": builder.emit("matmul", weights, v)})


def draw_attention(seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    generator = np.random.default_rng(seed)
    return {name: generator.normal(size=(4, 3)) for name in "qkv"}, generator.normal(size=(4, 3))


@pytest.mark.parametrize("seed", range(3))
def test_attnlrp_through_attention(seed):
    """Half to either factor by epsilon, Taylor's rule through the softmax, epsilon again, the mask left out."""
    inputs, R = draw_attention(seed)
    walked = walk_back(attention(), inputs, R, mode="attnlrp")
    q, k, v = inputs.values()
    seen = [0, 1, 3]
    scores = q @ k[seen].T
    A = softmax(scores, 1)
    (to_weights, to_values), _ = of_product(lambda linear: lrp_rule(signed, linear, R / 2, 0.0), np.matmul, A, v[seen])
    to_scores = np.array([softmax_rule(*row)[0] for row in zip(scores, to_weights, strict=True)])
    (to_q, to_k), _ = of_product(lambda linear: lrp_rule(signed, linear, to_scores / 2, 0.0), np.matmul, q, k[seen].T)
    close(walked.relevance["q"], to_q)
    close(walked.relevance["k"][seen], to_k.T)
    close(walked.relevance["v"][seen], to_values)
    assert not walked.relevance["k"][2].any()
    assert not walked.relevance["v"][2].any()
    assert walked.kept(CONSTANT).tolist() == [0, 0]
    assert_books_close(walked.books)


@pytest.mark.parametrize("seed", range(3))
def test_cp_lrp_lets_nothing_through_attention_weights(seed):
    inputs, R = draw_attention(seed)
    walked = walk_back(attention(), inputs, R, mode="cp-lrp")
    assert [var.name for var in walked.plan.inputs] == ["v"]
    assert [step.eqn.op for step in walked.plan.steps] == ["matmul"]
    assert not {"weights", "q", "k"} & set(walked.relevance)
    A = walked.values["weights"]
    linear = Map(matrix(lambda v: A @ v, (4, 3)), np.ones((12, 12), bool), inputs["v"])
    kept = lrp_rule(signed, linear, R, 0.0)
    close(walked.relevance["v"], kept.share)
    assert_books_close(walked.books)


def test_attention_over_known_values_still_explains_the_scores_in_attnlrp():
    """Of a product with one bearing factor the other is a weight, whatever it stands for (RULES 4)."""
    inputs, R = draw_attention(0)
    del inputs["v"]
    walked = walk_back(attention("v"), inputs, R, mode="attnlrp")
    assert walked.plan.steps[0].kind == LINEAR
    assert np.abs(walked.relevance["q"]).sum() > 0.01
    assert_books_close(walked.books)


# gates


def gated(function: str, *, turned: bool = False, first: bool = True) -> Program:
    """x · gate(g), or x · (1 - gate(g)); the gate first or last."""
    builder = Builder()
    x, g = builder.input("x", (3, 4), DOUBLE), builder.input("g", (3, 4), DOUBLE)
    settings = {"softmax": {"axis": 1}, "hard_sigmoid": {"alpha": 0.2, "beta": 0.5}}.get(function, {})
    gate = builder.emit(function, g, **settings)
    gate = builder.emit("sub", np.ones(()), gate) if turned else gate
    builder.rename(gate, "gate")
    return builder.finish({"y": builder.emit("mul", *((gate, x) if first else (x, gate)))})


EPSILON = Rule("epsilon", lrp.epsilon)
GAMMA = Rule("gamma", lrp.gamma, (("gamma", 0.5),))
PROPORTIONAL = next(rule for selector, rule in mode("default").rules if selector == Selector(kind=SUM))


@pytest.mark.parametrize("function", ["sigmoid", "hard_sigmoid", "softmax"])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_the_signal_takes_all(function, turned, first):
    chosen = composite("signal", [(Selector(kind=PRODUCT, gate="*"), parts.signal_takes_all(EPSILON))])
    generator = np.random.default_rng(0)
    x, g, R = entries(generator, (3, 4)), generator.normal(size=(3, 4)), generator.normal(size=(3, 4))
    walked = walk_back(gated(function, turned=turned, first=first), {"x": x, "g": g}, R, mode=chosen)
    y = x * walked.values["gate"]
    close(walked.relevance["x"], R * y / (y + np.where(y < 0, -1e-9, 1e-9)))
    assert [var.name for var in walked.plan.inputs] == ["x"]
    assert_books_close(walked.books)


@pytest.mark.parametrize(("rule", "definition"), [(EPSILON, signed), (GAMMA, lambda unit: gamma(unit, 0.5))])
def test_the_signal_takes_all_by_the_rule_given(rule, definition):
    """In a matrix product the gate's entries are the weights of the linear map."""
    chosen = composite("signal", [(Selector(gate="softmax"), parts.signal_takes_all(rule))])
    inputs, R = draw_attention(0)
    walked = walk_back(attention(), inputs, R, mode=chosen)
    A = walked.values["weights"]
    linear = Map(matrix(lambda v: A @ v, (4, 3)), np.ones((12, 12), bool), inputs["v"])
    close(walked.relevance["v"], lrp_rule(definition, linear, R).share)


def test_the_signal_takes_all_in_proportion():
    chosen = composite("signal", [(Selector(gate="softmax"), parts.signal_takes_all(PROPORTIONAL))])
    inputs, R = draw_attention(0)
    walked = walk_back(attention(), inputs, R, mode=chosen)
    A = walked.values["weights"]
    close(walked.relevance["v"], default_rule(matrix(lambda v: A @ v, (4, 3)), inputs["v"], None, R).share)
    assert_books_close(walked.books)


def test_a_closed_gate_is_dead():
    chosen = composite("signal", [(Selector(gate="*"), parts.signal_takes_all(PROPORTIONAL))])
    x, g = np.ones((3, 4)), np.full((3, 4), -9.0)
    walked = walk_back(gated("hard_sigmoid"), {"x": x, "g": g}, np.ones((3, 4)), mode=chosen)
    assert walked.kept(DEAD).tolist() == [12, 12]
    assert not walked.relevance["x"].any()


@pytest.mark.parametrize("name", ["default", "lrp-epsilon", "attnlrp", "lrp-gamma"])
def test_outside_recurrent_cells_gates_share_in_halves(name):
    generator = np.random.default_rng(0)
    x, g, R = generator.uniform(0.5, 2, (3, 4)), generator.normal(size=(3, 4)), generator.normal(size=(3, 4))
    walked = walk_back(gated("sigmoid"), {"x": x, "g": g}, R, mode=name)
    for key in "xg":
        close(walked.relevance[key], R / 2, 1e-4)
