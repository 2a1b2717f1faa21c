"""Which values bear relevance, what kind each equation is there, and what cannot be explained."""

from __future__ import annotations

import numpy as np
import pytest

from backtrace_jax.errors import SettingError, UnsupportedError
from backtrace_jax.ops import FUNCTION, LINEAR, MOVE, POINTWISE, PRODUCT, QUOTIENT, SUM
from backtrace_jax.rules import EMBEDDING, Mode, Rule, Selector, find_mode
from backtrace_jax.rules.shared import identity
from tests.engine.graphs import BOOL, DOUBLE, INDEX, bears, plan_of, plan_walk, program, step_of

W = np.ones((4, 4))
TABLE = np.ones((9, 4))
X = ((2, 4), DOUBLE)
IDS = ((1, 3), INDEX)


def named(builder, name, value):
    builder.rename(value, name)
    return value


def masked_attention(builder, x, mask):
    """A 0/1 mask becomes a float, then an addend of the scores."""
    floats = named(builder, "floats", builder.emit("cast", mask, dtype="float64"))
    hidden = named(builder, "hidden", builder.emit("sub", np.array(1.0), floats))
    addend = named(builder, "addend", builder.emit("mul", hidden, np.array(-1e4)))
    return builder.emit("softmax", named(builder, "scores", builder.emit("add", x, addend)), axis=1)


@pytest.mark.parametrize("dtype", [INDEX, BOOL, np.dtype(np.int32)])
def test_a_mask_cast_from_integers_bears_nothing(dtype):
    model = program(masked_attention, x=X, mask=((4,), dtype))
    assert bears(model) & {"floats", "hidden", "addend"} == set()
    assert {"x", "scores", "softmax"} <= bears(model)
    assert [var.name for var in plan_of(model).inputs] == ["x"]
    assert step_of(model, "add").bears == (True, False)


@pytest.mark.parametrize("dtype", [INDEX, BOOL, np.dtype(np.uint8)])
def test_integers_turned_into_floats_are_quantities_as_the_only_input(dtype):
    model = program(lambda b, i: b.emit("matmul", b.emit("cast", i, dtype="float64"), W), i=((2, 4), dtype))
    assert [step.kind for step in plan_of(model).steps] == [LINEAR, POINTWISE]
    assert [var.name for var in plan_of(model).inputs] == ["i"]
    computed = program(
        lambda b, i: b.emit("cast", b.emit("add", i, np.array(1, dtype)), dtype="float64"), i=((2, 4), dtype)
    )
    assert [step.kind for step in plan_of(computed).steps] == [POINTWISE, SUM]
    ordered = program(
        lambda b, i: b.emit("cast", b.emit("argmax", i, axis=1, keepdims=False, last=False), dtype="float64"),
        i=((2, 4), dtype),
    )
    with pytest.raises(SettingError, match=rf"takes no relevance.*i \({dtype.name}\).*that become floats"):
        plan_of(ordered)


def test_floats_turned_into_integers_are_lost():
    def build(builder, x, y):
        steps = builder.emit("cast", builder.emit("cast", x, dtype="int64"), dtype="float64")
        return builder.emit("add", steps, y)

    assert [var.name for var in plan_of(program(build, x=X, y=X)).inputs] == ["y"]


def test_casts_between_floats_keep_relevance():
    model = program(lambda b, x: b.emit("cast", b.emit("cast", x, dtype="float32"), dtype="float64"), x=X)
    assert [step.kind for step in plan_of(model).steps] == [POINTWISE, POINTWISE]


def test_an_embedding_bears_relevance_and_its_table_does_not():
    model = program(lambda b, ids: named(b, "rows", b.emit("gather", TABLE, ids, axis=0)), ids=IDS)
    step = step_of(model, "gather")
    assert (step.kind, step.bears) == (EMBEDDING, (False, True))
    assert bears(model) == {"ids", "rows"}


def test_rows_looked_up_by_constants_bear_nothing():
    def build(builder, ids):
        rows = builder.emit("gather", TABLE, ids, axis=0)
        return builder.emit("add", rows, builder.emit("gather", TABLE, np.arange(3)[None], axis=0))

    assert step_of(program(build, ids=IDS), "add").bears == (True, False)


def test_a_computed_table_bears_relevance_and_its_index_does_not():
    model = program(lambda b, x, ids: b.emit("gather", b.emit("tanh", x), ids, axis=0), x=X, ids=IDS)
    step = step_of(model, "gather")
    assert (step.kind, step.bears) == (MOVE, (True, False))
    assert [var.name for var in plan_of(model).inputs] == ["x"]


def test_tokens_are_moved_and_offset_but_not_mixed():
    def moved(builder, ids):
        flat = builder.emit("reshape", builder.emit("cast", ids, dtype="int32"), shape=(3,))
        return builder.emit("gather", TABLE, builder.emit("concat", flat, np.zeros(2, np.int32), axis=0), axis=0)

    def computed(builder, ids):
        return builder.emit("gather", TABLE, builder.emit("add", ids, np.array(1)), axis=0)

    def mixed(builder, ids):
        total = builder.emit("reduce_sum", ids, axes=(0,), keepdims=True)
        return builder.emit("gather", TABLE, builder.emit("sub", total, ids), axis=0)

    assert [step.kind for step in plan_of(program(moved, ids=IDS)).steps] == [EMBEDDING, MOVE, MOVE, POINTWISE]
    assert [step.kind for step in plan_of(program(computed, ids=IDS)).steps] == [EMBEDDING, "index"]
    with pytest.raises(SettingError, match="takes no relevance"):
        plan_of(program(mixed, ids=IDS))


def test_comparisons_and_conditions_carry_nothing():
    def build(builder, x):
        positive = builder.emit("greater", x, np.array(0.0))
        best = builder.emit("argmax", x, axis=1, keepdims=True, last=False)
        chosen = builder.emit("gather", x, best, axis=1)
        return builder.emit("where", positive, x, builder.emit("reduce_sum", chosen, axes=(1, 2), keepdims=False))

    model = program(build, x=((1, 4), DOUBLE))
    assert step_of(model, "where").bears == (False, True, True)
    assert step_of(model, "gather").bears == (True, False)
    assert not {"greater", "argmax"} & {step.eqn.op for step in plan_of(model).steps}


def test_wrt_makes_the_other_inputs_weights():
    model = program(lambda b, x, y: b.emit("mul", b.emit("tanh", x), y), x=X, y=X)
    assert step_of(model, "mul").kind == PRODUCT
    for wrt, taken, ops in ((("x",), (True, False), ["mul", "tanh"]), (("y",), (False, True), ["mul"])):
        step = step_of(model, "mul", wrt)
        assert (step.kind, step.bears) == (LINEAR, taken)
        assert [var.name for var in plan_of(model, wrt=wrt).inputs] == list(wrt)
        assert [step.eqn.op for step in plan_of(model, wrt=wrt).steps] == ops
    assert bears(model, ("x",)) == {"x", "tanh", "mul"}


KINDS = {
    "mul by a constant": (lambda b, x, y: b.emit("mul", W[:2], x), LINEAR, (False, True)),
    "mul of two values": (lambda b, x, y: b.emit("mul", x, y), PRODUCT, (True, True)),
    "mul of a value by itself": (lambda b, x, y: b.emit("mul", x, x), PRODUCT, (True, True)),
    "matmul by a constant": (lambda b, x, y: b.emit("matmul", x, W), LINEAR, (True, False)),
    "matmul with a bias": (lambda b, x, y: b.emit("matmul", x, W, W[:1]), LINEAR, (True, False, False)),
    "matmul of two values": (
        lambda b, x, y: b.emit("matmul", x, b.emit("transpose", y, perm=(1, 0))),
        PRODUCT,
        (True, True),
    ),
    "einsum by a constant": (lambda b, x, y: b.emit("einsum", W, x, equation="ij,bj->bi"), LINEAR, (False, True)),
    "div by a constant": (lambda b, x, y: b.emit("div", x, W[:2]), LINEAR, (True, False)),
    "constant over a value": (lambda b, x, y: b.emit("div", W[:2], x), POINTWISE, (False, True)),
    "div of two values": (lambda b, x, y: b.emit("div", x, y), QUOTIENT, (True, True)),
    "add of a constant": (lambda b, x, y: b.emit("add", x, W[0]), SUM, (True, False)),
    "pow by a constant": (lambda b, x, y: b.emit("pow", x, W[0]), POINTWISE, (True, False)),
    "pow of a constant": (lambda b, x, y: b.emit("pow", W[0], x), POINTWISE, (False, True)),
}


ZERO = np.zeros((), np.int8)
FUNCTIONS = {
    "pow": lambda b, x, y: b.emit("pow", x, y),
    "remainder": lambda b, x, y: b.emit("remainder", x, y, truncate=True),
    "prelu": lambda b, x, y: b.emit("prelu", x, y),
    "prelu of a constant": lambda b, x, y: b.emit("prelu", W[:2], y),
    "layer_norm": lambda b, x, y: b.emit("layer_norm", x, y, axes=(1,), epsilon=1e-3),
    "matmul with a computed bias": lambda b, x, y: b.emit("matmul", x, W, y),
    "standardise": lambda b, x, y: b.emit("standardise", x, W[0], y),
    "dequantize": lambda b, x, y: b.emit(
        "dequantize", b.emit("quantize", x, np.ones(()), ZERO, dtype="int8"), y, ZERO, dtype="float64"
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_operand_that_bears_relevance_is_taken_for_a_constant(name):
    model = program(FUNCTIONS[name], x=X, y=X)
    output = model.graph.outputs[0]
    with pytest.raises(UnsupportedError, match=f"mode 'default' has no rule for '{output.name}'.* take 'gradient'"):
        plan_walk(model.graph, find_mode("default"), output)
    plan = plan_walk(model.graph, find_mode("gradient"), output)
    assert plan.steps[0].kind == FUNCTION
    assert "y" in {var.name for var in plan.inputs}


@pytest.mark.parametrize("name", KINDS)
def test_kinds_follow_from_what_bears_relevance(name):
    build, kind, taken = KINDS[name]
    step = plan_of(program(build, x=X, y=X)).steps[0]
    assert (step.kind, step.bears) == (kind, taken)


def test_steps_run_from_the_output_and_leave_out_what_leads_nowhere():
    def build(builder, x):
        first = builder.emit("tanh", x)
        second = builder.emit("exp", first)
        builder.emit("neg", second)
        return {"y": builder.emit("add", second, builder.emit("matmul", W[:2], W)), "z": builder.emit("relu", first)}

    model = program(build, x=X)
    assert [step.eqn.op for step in plan_of(model).steps] == ["add", "exp", "tanh"]
    assert [step.eqn.op for step in plan_of(model, output=1).steps] == ["relu", "tanh"]


def test_an_output_that_is_an_input_needs_no_step():
    plan = plan_of(program(lambda b, x: x, x=X))
    assert (plan.steps, [var.name for var in plan.inputs]) == ((), ["x"])


def test_an_equation_without_a_rule_is_named():
    mode = Mode("bare", ((Selector(kind=POINTWISE), Rule("identity", identity, keeps_sign=True)),))
    model = program(lambda b, x: b.emit("tanh", b.emit("matmul", x, W)), x=X)
    with pytest.raises(UnsupportedError, match=r"mode 'bare' has no rule for linear operation 'matmul' in: matmul:f64"):
        plan_walk(model.graph, mode, model.graph.outputs[0])


def test_the_first_rule_that_matches_is_taken():
    special, general = (Rule(name, identity, keeps_sign=True) for name in ("special", "general"))
    mode = Mode("m", ((Selector(POINTWISE, "tanh"), special), (Selector(POINTWISE), general)))
    model = program(lambda b, x: b.emit("tanh", b.emit("exp", x)), x=X)
    assert [step.rule.name for step in plan_walk(model.graph, mode, model.graph.outputs[0]).steps] == [
        "special",
        "general",
    ]


@pytest.mark.parametrize(
    ("wrt", "message"),
    [
        (("y",), r"output 'tanh' takes no relevance from the inputs: x \(float64\), y \(float64\)"),
        (("x", "y"), r"wrt=\['y'\]: no relevance can reach it from output 'tanh'; reachable: \['x'\]"),
        (("x", "nonsense"), r"wrt=\['nonsense'\]: no such input; the model takes \['x', 'y'\]"),
    ],
)
def test_an_input_that_cannot_be_reached_is_named(wrt, message):
    model = program(lambda b, x, y: b.emit("tanh", x), x=X, y=X)
    with pytest.raises(SettingError, match=message):
        plan_of(model, wrt=wrt)


def test_an_output_without_relevance_is_named():
    model = program(lambda b, x: {"y": b.emit("tanh", x), "c": np.ones(3)}, x=X)
    with pytest.raises(SettingError, match="output 'constant' takes no relevance"):
        plan_of(model, output=1)


def test_an_unknown_mode_is_refused_with_the_list():
    with pytest.raises(SettingError, match="mode 'no-such' does not exist; there are: default"):
        find_mode("no-such")
