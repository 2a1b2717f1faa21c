"""Activations that are written out become one operation, whatever the order of their parts; what is near does not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backtrace_jax.passes import recognise_activations, simplify
from tests.passes.graphs import check_unchanged, operations, program
from tests.passes.spelled import ROOT_TWO_OVER_PI, written

SLOPE = np.array([0.25, -0.5, 2.0])


def erf_part(w, x):
    return w.add(w.erf(w.div(x, np.sqrt(2))), 1)


def cube(w, x):
    return w.mul(w.mul(x, x), x)


def tanh_part(w, x, cubed=cube, c=0.044715):
    return w.add(1, w.tanh(w.mul(w.add(x, w.mul(cubed(w, x), c)), ROOT_TWO_OVER_PI)))


def power(w, x):
    return w.integer_pow(x, exponent=3)


def fast(w, x):
    inner = w.mul(w.mul(x, ROOT_TWO_OVER_PI), w.add(1, w.mul(w.mul(0.044715, x), x)))
    return w.mul(w.mul(0.5, x), w.add(1, w.tanh(inner)))


def relu6(w, x):
    return w.clip(w.add(x, 3), low=0, high=6)


def growth(w, x):
    return w.mul(0.7, w.sub(w.exp(x), 1))


GELU, TANH_GELU = ("gelu", {"approximate": False}), ("gelu", {"approximate": True})
HALF = ("hard_sigmoid", {"alpha": 1 / 6, "beta": 0.5})
FORMS = {
    "gelu: (x e) / 2": (lambda w, x: w.mul(w.mul(x, erf_part(w, x)), 0.5), *GELU),
    "gelu: (x / 2) e": (lambda w, x: w.mul(w.mul(x, 0.5), erf_part(w, x)), *GELU),
    "gelu: e (x / 2)": (lambda w, x: w.mul(erf_part(w, x), w.div(x, 2)), *GELU),
    "gelu: x (e / 2)": (lambda w, x: w.mul(x, w.div(erf_part(w, x), 2)), *GELU),
    "gelu: (x e) divided by 2": (lambda w, x: w.div(w.mul(erf_part(w, x), x), 2), *GELU),
    "gelu: multiplied by the root": (
        lambda w, x: w.mul(0.5, w.mul(x, w.add(1, w.erf(w.mul(x, np.sqrt(0.5)))))),
        *GELU,
    ),
    "gelu: minus erf of minus": (lambda w, x: w.mul(w.mul(x, 0.5), w.sub(1, w.erf(w.mul(x, -np.sqrt(0.5))))), *GELU),
    "gelu: multiplied out": (
        lambda w, x: w.add(w.mul(0.5, x), w.mul(w.mul(x, 0.5), w.erf(w.div(x, np.sqrt(2))))),
        *GELU,
    ),
    "gelu of a scaled value": (lambda w, x: (lambda y: w.mul(w.mul(y, 0.5), erf_part(w, y)))(w.mul(x, 3)), None, {}),
    "tanh gelu: cube by products": (lambda w, x: w.mul(w.mul(0.5, x), tanh_part(w, x)), *TANH_GELU),
    "tanh gelu: cube as power": (lambda w, x: w.mul(x, w.mul(0.5, tanh_part(w, x, power))), *TANH_GELU),
    "tanh gelu: x times square": (
        lambda w, x: w.mul(0.5, w.mul(tanh_part(w, x, lambda w, x: w.mul(x, w.integer_pow(x, exponent=2))), x)),
        *TANH_GELU,
    ),
    "tanh gelu: factored": (fast, *TANH_GELU),
    "tanh gelu by sigmoid": (
        lambda w, x: w.mul(x, w.sigmoid(w.mul(w.add(x, w.mul(0.044715, cube(w, x))), 2 * ROOT_TWO_OVER_PI))),
        *TANH_GELU,
    ),
    "quick gelu": (lambda w, x: w.mul(x, w.sigmoid(w.mul(1.702, x))), "swish", {"alpha": 1.702}),
    "silu": (lambda w, x: w.mul(x, w.sigmoid(x)), "silu", {}),
    "silu by exp": (lambda w, x: w.div(x, w.add(1, w.exp(w.neg(x)))), "silu", {}),
    "sigmoid": (lambda w, x: w.div(1, w.add(w.exp(w.neg(x)), 1)), "sigmoid", {}),
    "sigmoid by reciprocal": (lambda w, x: w.reciprocal(w.add(w.exp(w.mul(x, -1)), 1)), "sigmoid", {}),
    "sigmoid by power": (lambda w, x: w.integer_pow(w.add(w.exp(w.neg(x)), 1), exponent=-1), "sigmoid", {}),
    "sigmoid by tanh": (lambda w, x: w.mul(0.5, w.add(1, w.tanh(w.mul(x, 0.5)))), "sigmoid", {}),
    "softplus": (lambda w, x: w.log(w.add(1, w.exp(x))), "softplus", {}),
    "stable softplus": (
        lambda w, x: w.add(w.relu(x), w.log(w.add(1, w.exp(w.neg(w.abs(x)))))),
        "softplus",
        {},
    ),
    "mish": (lambda w, x: w.mul(w.tanh(w.softplus(x)), x), "mish", {}),
    "mish, softplus too": (lambda w, x: w.mul(x, w.tanh(w.log(w.add(w.exp(x), 1)))), "mish", {}),
    "softsign": (lambda w, x: w.div(x, w.add(1, w.abs(x))), "softsign", {}),
    "hard swish: (x r) / 6": (lambda w, x: w.div(w.mul(x, relu6(w, x)), 6), "hard_swish", {}),
    "hard swish: x (r / 6)": (lambda w, x: w.mul(x, w.div(relu6(w, x), 6)), "hard_swish", {}),
    "hard swish by hard sigmoid": (
        lambda w, x: w.mul(x, w.hard_sigmoid(x, alpha=1 / 6, beta=0.5)),
        "hard_swish",
        {},
    ),
    "hard sigmoid: r / 6": (lambda w, x: w.div(relu6(w, x), 6), *HALF),
    "hard sigmoid of Keras": (
        lambda w, x: w.clip(w.add(w.mul(x, 0.2), 0.5), low=0, high=1),
        "hard_sigmoid",
        {"alpha": 0.2, "beta": 0.5},
    ),
    "relu": (lambda w, x: w.maximum(0, x), "relu", {}),
    "leaky relu": (lambda w, x: w.maximum(w.mul(0.1, x), x), "leaky_relu", {"alpha": 0.1}),
    "leaky relu by relu": (lambda w, x: w.sub(w.relu(x), w.mul(0.1, w.relu(w.neg(x)))), "leaky_relu", {"alpha": 0.1}),
    "prelu: minus a relu(-x)": (lambda w, x: w.sub(w.relu(x), w.mul(SLOPE, w.relu(w.neg(x)))), "prelu", {}),
    "prelu: plus -a relu(-x)": (lambda w, x: w.add(w.relu(x), w.mul(-SLOPE, w.relu(w.neg(x)))), "prelu", {}),
    "prelu by minimum": (lambda w, x: w.add(w.maximum(0, x), w.mul(SLOPE, w.minimum(x, 0))), "prelu", {}),
    "prelu by abs": (
        lambda w, x: w.add(w.relu(x), w.mul(w.mul(SLOPE, w.sub(x, w.abs(x))), 0.5)),
        "prelu",
        {},
    ),
    "elu": (lambda w, x: w.where(w.greater(x, 0), x, growth(w, x)), "elu", {"alpha": 0.7}),
    "elu turned round": (
        lambda w, x: w.where(w.less(x, 0), growth(w, w.minimum(x, 0)), x),
        "elu",
        {"alpha": 0.7},
    ),
    "elu by minimum": (lambda w, x: w.add(w.relu(x), w.minimum(0, growth(w, x))), "elu", {"alpha": 0.7}),
}


@pytest.mark.parametrize("name", FORMS)
def test_recognised(name):
    expression, op, params = FORMS[name]
    before = program(written(expression), (2, 3))
    after = recognise_activations(before)
    check_unchanged(before, after)
    if op is None:
        assert operations(after) == ["mul", "gelu"]
        return
    (eqn,) = after.graph.eqns
    assert eqn.op == op
    assert {key: pytest.approx(value) for key, value in eqn.params.items()} == params
    assert eqn.outvars == before.graph.outputs
    check_unchanged(before, simplify(before))


NEAR = {
    "gelu: another constant": lambda w, x, g: w.mul(w.mul(x, 0.5), w.add(1, w.erf(w.div(x, 1.01 * np.sqrt(2))))),
    "gelu: not halved": lambda w, x, g: w.mul(w.mul(x, 0.505), erf_part(w, x)),
    "gelu: of two values": lambda w, x, g: w.mul(w.mul(g, 0.5), erf_part(w, x)),
    "gelu: another one": lambda w, x, g: w.mul(w.mul(x, 0.5), w.add(1.01, w.erf(w.div(x, np.sqrt(2))))),
    "gelu: something in between": lambda w, x, g: w.mul(w.mul(x, 0.5), w.abs(erf_part(w, x))),
    "tanh gelu: exponent 2": lambda w, x, g: w.mul(
        w.mul(x, 0.5), tanh_part(w, x, lambda w, x: w.integer_pow(x, exponent=2))
    ),
    "tanh gelu: exponent 4": lambda w, x, g: w.mul(
        w.mul(x, 0.5), tanh_part(w, x, lambda w, x: w.integer_pow(x, exponent=4))
    ),
    "tanh gelu: another cubic": lambda w, x, g: w.mul(w.mul(x, 0.5), tanh_part(w, x, c=0.044715 * 1.01)),
    "tanh gelu: another value's cube": lambda w, x, g: w.mul(w.mul(x, 0.5), tanh_part(w, x, lambda w, x: cube(w, g))),
    "silu: another value's gate": lambda w, x, g: w.mul(x, w.sigmoid(g)),
    "silu: another gate": lambda w, x, g: w.mul(x, w.tanh(x)),
    "silu: a sum": lambda w, x, g: w.add(x, w.sigmoid(x)),
    "swish: minus": lambda w, x, g: w.mul(x, w.sigmoid(w.mul(x, -1))),
    "sigmoid: exp of plus": lambda w, x, g: w.div(1, w.add(1, w.exp(x))),
    "sigmoid: another one": lambda w, x, g: w.div(1, w.add(1.01, w.exp(w.neg(x)))),
    "softplus: two": lambda w, x, g: w.log(w.add(2, w.exp(x))),
    "softsign: two": lambda w, x, g: w.div(x, w.add(2, w.abs(x))),
    "hard swish: another offset": lambda w, x, g: w.div(w.mul(x, w.clip(w.add(x, 3.1), low=0, high=6)), 6),
    "hard swish: another bound": lambda w, x, g: w.div(w.mul(x, w.clip(w.add(x, 3), low=0, high=6.1)), 6),
    "hard sigmoid: from below 0": lambda w, x, g: w.div(w.clip(w.add(x, 3), low=-1, high=6), 6),
    "a picture's range": lambda w, x, g: w.clip(w.add(w.mul(x, 0.2), 0.4), low=0, high=1),
    "leaky relu: steep": lambda w, x, g: w.maximum(x, w.mul(2, x)),
    "leaky relu: two values": lambda w, x, g: w.maximum(x, w.mul(0.1, g)),
    "relu: of 1": lambda w, x, g: w.maximum(x, 1),
    "prelu: of two values": lambda w, x, g: w.sub(w.relu(x), w.mul(SLOPE, w.relu(w.neg(g)))),
    "prelu: a slope that is computed": lambda w, x, g: w.sub(w.relu(x), w.mul(g, w.relu(w.neg(x)))),
    "elu: sides exchanged": lambda w, x, g: w.where(w.less(x, 0), x, growth(w, x)),
    "elu: at 1": lambda w, x, g: w.where(w.greater(x, 1), x, growth(w, x)),
}


@pytest.mark.parametrize("name", NEAR)
def test_what_is_near_is_left_alone(name):
    before = program(written(NEAR[name]), (2, 3), (2, 3))
    after = recognise_activations(before)
    assert operations(after) == operations(before)


def test_what_something_else_reads_stays():
    """The activation reads x itself; the parts that are read elsewhere are still computed for that."""

    def build(w, x):
        gate = w.sigmoid(x)
        return {"y": w.mul(x, gate), "gate": gate}

    before = program(written(build), (2, 3))
    after = simplify(before)
    assert sorted(operations(after)) == ["sigmoid", "silu"]
    check_unchanged(before, after)


def test_integers_are_left_alone():
    """Whole numbers are cut off when divided, so that the formula is another function of them."""

    def build(builder, x):
        clipped = builder.emit("clip", builder.emit("add", x, np.array(3)), low=0, high=6)
        return builder.emit("div", builder.emit("mul", x, clipped), np.array(6))

    before = program(build, (2, 3), dtype=np.dtype(np.int64))
    assert operations(recognise_activations(before)) == ["add", "clip", "mul", "div"]


@pytest.mark.parametrize("factor", [0.0, 5e-324, 1e-200, 1e300, np.inf, np.nan])
def test_extreme_numbers_do_no_harm(factor):
    def build(w, x):
        y = w.div(w.mul(w.mul(x, factor), factor), w.integer_pow(w.mul(w.erf(x), factor), exponent=2))
        return w.mul(w.mul(y, 0.5), w.add(factor, w.erf(w.reciprocal(w.mul(factor, y)))))

    before = program(written(build), (2, 3))
    assert operations(recognise_activations(before)) == operations(before)


def test_constants_may_be_rounded():
    before = program(written(lambda w, x: w.mul(0.5, w.mul(x, w.add(1, w.erf(w.mul(x, 0.70711)))))), (2, 3))
    after = recognise_activations(before)
    assert operations(after) == ["gelu"]
    check_unchanged(before, after, 1e-5)


def test_a_number_may_have_any_shape_that_does_not_widen_the_value():
    one = np.ones((1, 1))
    before = program(written(lambda w, x: w.mul(w.mul(x, 0.5 * one), erf_part(w, x))), (2, 3))
    assert operations(recognise_activations(before)) == ["gelu"]
    wide = program(written(lambda w, x: w.mul(w.mul(x, 0.5 * one), erf_part(w, x))), (3,))
    assert "erf" in operations(recognise_activations(wide))


@settings(max_examples=40, deadline=None)
@given(st.randoms(use_true_random=False), st.booleans())
def test_factors_in_any_order(random, tanh):
    """Products of x, 1/2 and (1 + f), associated at random and with numbers multiplied or divided by."""

    def build(w, x):
        parts = [x, tanh_part(w, x) if tanh else erf_part(w, x), None]
        while len(parts) > 1:
            random.shuffle(parts)
            a, b = parts.pop(), parts.pop()
            if a is None or b is None:
                value = a if b is None else b
                parts.append(w.div(value, 2) if random.random() < 0.5 else w.mul(0.5, value))
            else:
                parts.append(w.mul(a, b))
        return parts[0]

    before = program(written(build), (2, 3))
    after = recognise_activations(before)
    assert operations(after) == ["gelu"]
    check_unchanged(before, after)
