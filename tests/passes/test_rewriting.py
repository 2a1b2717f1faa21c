"""How passes rewrite programs: bodies too, new values under new names, with work that grows as the graph does."""

from __future__ import annotations

import numpy as np
import pytest

from backtrace_jax.ir import Program
from backtrace_jax.passes import recognise_activations, recognise_norms, simplify
from backtrace_jax.passes.build import Builder
from backtrace_jax.passes.check import check
from backtrace_jax.passes.matching import Matcher
from backtrace_jax.passes.patterns import Either, Hole, Number, Sum, call, functions, negated, roots
from tests.passes.graphs import DOUBLE, check_unchanged, operations, program
from tests.passes.spelled import Writer, written
from tests.passes.test_norms import affine, layer_norm

GAMMA = np.array([0.5, -2.0, 1.5, 0.3])


def body_of(step) -> Program:
    """A body with one state and one entry of a sequence."""
    builder = Builder()
    state, entry = (builder.input(name, (3, 4), DOUBLE) for name in ("state", "entry"))
    new = step(Writer(builder), state, entry)
    return builder.finish({"new": new, "result": new})


def looped(step, outer=lambda w, x: x) -> Program:
    body = body_of(step)

    def build(w, x, xs):
        _, (results,) = w.builder.scan(body, [outer(w, x)], [xs], 5)
        return results

    return program(written(build), (3, 4), (5, 3, 4))


def gelu(w, x, half=0.5):
    return w.mul(w.mul(x, half), w.add(1, w.erf(w.div(x, np.sqrt(2)))))


BODIES = {
    "gelu": (lambda w, h, x: gelu(w, w.add(h, x)), ["add", "gelu"]),
    "silu": (lambda w, h, x: w.add(h, w.mul(x, w.sigmoid(x))), ["silu", "add"]),
    "layer norm": (lambda w, h, x: affine(w, layer_norm(w, w.add(h, x), axis=1)), ["add", "layer_norm"]),
    "a new scale": (lambda w, h, x: w.add(layer_norm(w, w.add(h, x), axis=1), GAMMA), ["add", "layer_norm"]),
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies_are_rewritten(name):
    step, expected = BODIES[name]
    before = looped(step)
    after = recognise_activations(recognise_norms(before))
    check_unchanged(before, after, 1e-11)
    (scan,) = after.graph.eqns
    assert [eqn.op for eqn in scan.params["body"].eqns] == expected
    assert len(scan.invars) == len(scan.params["body"].inputs)
    read = {var.name for eqn in scan.params["body"].eqns for var in eqn.invars}
    assert all(var.name in read for var in scan.params["body"].inputs), "what is read no more is handed in no more"


def test_what_a_body_reads_step_by_step_is_not_known():
    """A known sequence or first state is another number in every step."""

    def build(w, x):
        body = Builder()
        state, half = body.input("state", (3, 4), DOUBLE), body.input("half", (), DOUBLE)
        inner = body.finish({"new": gelu(Writer(body), state, half)})
        (last,), _ = w.builder.scan(inner, [x], [np.full(5, 0.5)], 5)
        return last

    before = program(written(build), (3, 4))
    after = recognise_activations(before)
    assert after.graph.eqns == before.graph.eqns


def test_nested_bodies_are_rewritten():
    inner = body_of(lambda w, h, x: gelu(w, w.add(h, x)))

    def step(w, h, x):
        (last,), _ = w.builder.scan(inner, [h], [w.reshape(x, shape=(1, 3, 4))], 1)
        return last

    before = looped(step)
    after = recognise_activations(before)
    check_unchanged(before, after)
    (nested,) = (eqn for eqn in after.graph.eqns[0].params["body"].eqns if eqn.op == "scan")
    assert [eqn.op for eqn in nested.params["body"].eqns] == ["add", "gelu"]


def test_names_stay_unique():
    """A model may use any name, those that a pass would give included."""

    def build(w, x):
        taken = w.builder.emit("abs", x)
        w.builder.rename(taken, "y.scale")
        y = w.add(layer_norm(w, taken, axis=1), GAMMA)
        w.builder.rename(y, "y")
        return {"a": y, "b": w.sub(layer_norm(w, taken, axis=1), GAMMA)}

    before = program(written(build), (3, 4))
    after = recognise_norms(before)
    check(after.graph)
    assert sorted(operations(after)) == ["abs", "layer_norm", "layer_norm"]
    check_unchanged(before, after, 1e-11)


def test_nothing_of_the_program_is_changed_in_place():
    before = looped(lambda w, h, x: w.add(layer_norm(w, gelu(w, w.add(h, x)), axis=1), GAMMA), gelu)
    text, weights = str(before.graph), {name: array.copy() for name, array in before.weights.items()}
    simplify(before)
    assert str(before.graph) == text
    assert before.weights.keys() == weights.keys()
    assert all(np.array_equal(before.weights[name], array) for name, array in weights.items())


CHAINS = {
    "numbers": lambda w, y, x: w.mul(y, 1.01),
    "squares": lambda w, y, x: w.mul(y, y),
    "sums": lambda w, y, x: w.add(y, x),
    "gates": lambda w, y, x: w.mul(w.sigmoid(y), w.tanh(x)),
    "roots": lambda w, y, x: w.mul(w.rsqrt(y), y),
    "casts": lambda w, y, x: w.cast(w.cast(y, dtype="float32"), dtype="float64"),
    "quotients": lambda w, y, x: w.div(w.mul(w.exp(x), y), w.add(y, w.sqrt(x))),
}


@pytest.mark.parametrize("name", CHAINS)
def test_the_work_grows_with_the_number_of_equations(name, monkeypatch):
    """Counted in looks at equations, since times are not to be relied on."""
    looks = [0]
    look = Matcher.origin

    def counted(self, var):
        looks[0] += 1
        return look(self, var)

    monkeypatch.setattr(Matcher, "origin", counted)
    found = []
    for length in (20, 150):

        def build(w, x, length=length):
            y = x
            for _ in range(length):
                y = CHAINS[name](w, y, x)
            return y

        looks[0] = 0
        simplify(program(written(build), (3, 4)))
        found.append(looks[0])
    assert found[1] <= 10 * found[0] + 200


@pytest.mark.parametrize("name", ["numbers", "sums", "casts"])
def test_graphs_may_be_deeper_than_the_stack(name):
    def build(w, x):
        for _ in range(1200):
            x = CHAINS[name](w, x, x)
        return x

    before = program(written(build), (3, 4))
    assert len(simplify(before).graph.eqns) <= len(before.graph.eqns)


x, y = Hole("x"), Hole("y")


def test_patterns_say_what_they_need():
    erf, tanh = call("erf", x), call("tanh", x)
    assert functions(0.5 * x * (1 + erf)) == {"erf"}
    assert functions(x * (erf | tanh)) == frozenset()
    assert functions(call("exp", erf) | erf) == {"erf"}
    assert roots(x * y) == {"mul", "div"}
    assert roots(1 / x) >= {"div", "reciprocal", "integer_pow"}
    assert roots(x - y) == {"add", "sub"}
    assert roots(erf | x + 1) == {"erf", "add", "sub"}


def test_patterns_are_sums_and_products_of_their_parts():
    assert (x + 1) - (y - 2) == Sum((x, -y), 3.0)
    assert negated(-x) == x
    assert (2 * x) * (3 / y) == 6 * (x / y)
    assert (x | y) | (x * y) == Either((x, y, x * y))
    with pytest.raises(ValueError, match="cannot be told apart"):
        (x + Number("a")) + 1
    with pytest.raises(ValueError, match="cannot be told apart"):
        (x * Number("a")) * (y * Number("b"))
