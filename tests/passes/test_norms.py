"""Normalisations that are written out become one operation with its scale and shift; what is near does not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backtrace_jax.passes import recognise_division, recognise_norms, simplify
from tests.passes.graphs import check_unchanged, operations, program
from tests.passes.spelled import written

GAMMA, BETA = np.array([0.5, -2.0, 1.5, 0.3]), np.array([1.0, 0.0, -1.0, 0.2])
ROWS, IMAGE = (1, 3, 4), (1, 4, 3, 5)
EPSILON = 1e-5
ROOTS = {  # what is divided by the root of a value, in every spelling
    "div by sqrt": lambda w, d, v: w.div(d, w.sqrt(v)),
    "mul by rsqrt": lambda w, d, v: w.mul(d, w.rsqrt(v)),
    "mul by reciprocal": lambda w, d, v: w.mul(w.reciprocal(w.sqrt(v)), d),
    "mul by 1 / sqrt": lambda w, d, v: w.mul(d, w.div(1, w.sqrt(v))),
    "pow -0.5": lambda w, d, v: w.mul(d, w.pow(v, -0.5)),
    "div by pow 0.5": lambda w, d, v: w.div(d, w.pow(v, 0.5)),
}
SQUARES = {
    "power": lambda w, d: w.integer_pow(d, exponent=2),
    "product": lambda w, d: w.mul(d, d),
}
MEANS = {
    "mean": lambda w, x, axis: w.mean(x, axis),
    "no keepdims": lambda w, x, axis: w.reshape(
        w.reduce_mean(x, axes=(axis,), keepdims=False),
        shape=tuple(1 if i == axis else size for i, size in enumerate(x.shape)),
    ),
    "sum over count": lambda w, x, axis: w.div(w.reduce_sum(x, axes=(axis,), keepdims=True), x.shape[axis]),
    "sum times 1 / count": lambda w, x, axis: w.mul(w.reduce_sum(x, axes=(axis,), keepdims=True), 1 / x.shape[axis]),
}


def variance(w, x, mean=MEANS["mean"], square=SQUARES["power"], axis=2):
    return mean(w, square(w, w.sub(x, mean(w, x, axis))), axis)


def layer_norm(w, x, root="div by sqrt", square="power", mean="mean", axis=2, epsilon=EPSILON):
    average = MEANS[mean]
    spread = variance(w, x, average, SQUARES[square], axis)
    spread = w.add(spread, epsilon) if epsilon else spread
    return ROOTS[root](w, w.sub(x, average(w, x, axis)), spread)


def rms_norm(w, x, root="mul by rsqrt", square="power", mean="mean", axis=2):
    return ROOTS[root](w, x, w.add(MEANS[mean](w, SQUARES[square](w, x), axis), EPSILON))


def affine(w, y, gamma=GAMMA, beta=BETA):
    return w.add(w.mul(y, gamma), beta)


def of_moments(w, x):
    """E[x²] - E[x]², as Flax has it."""
    m = w.mean(x, 2)
    v = w.relu(w.sub(w.mean(w.mul(x, x), 2), w.mul(m, m)))
    return w.mul(w.sub(x, m), w.rsqrt(w.add(v, EPSILON)))


def as_batch_norm(w, x, gamma=GAMMA, beta=BETA):
    """x · inverse + (beta - mean · inverse), as Keras and TensorFlow have it."""
    m = w.mean(x, 2)
    inverse = w.reciprocal(w.sqrt(w.add(variance(w, x, square=SQUARES["product"]), EPSILON)))
    inverse = inverse if gamma is None else w.mul(inverse, gamma)
    shift = w.mul(w.neg(m), inverse) if beta is None else w.sub(beta, w.mul(m, inverse))
    return w.add(w.mul(x, inverse), shift)


def shared(w, x):
    """One difference, read twice."""
    d = w.sub(x, w.mean(x, 2))
    return w.div(d, w.sqrt(w.add(w.mean(w.mul(d, d), 2), EPSILON)))


def grouped(w, x, groups=2, per_group=(1, 0), **scales):
    y = w.reshape(x, shape=(1, groups, 60 // groups))
    ones = np.ones((1, groups, 1))
    y = w.layer_norm(y, per_group[0] * ones, per_group[1] * ones, axes=(2,), epsilon=EPSILON)
    return affine(
        w, w.reshape(y, shape=IMAGE), **{"gamma": GAMMA.reshape(4, 1, 1), "beta": BETA.reshape(4, 1, 1), **scales}
    )


def spelled_group(w, x):
    y = w.reshape(x, shape=(1, 2, 30))
    return affine(w, w.reshape(layer_norm(w, y), shape=IMAGE), GAMMA.reshape(1, 4, 1, 1), BETA.reshape(1, 4, 1, 1))


def instance(w, x):
    d = w.sub(x, w.mean(x, 2, 3))
    y = w.div(d, w.sqrt(w.add(w.mean(w.mul(d, d), 2, 3), EPSILON)))
    return affine(w, y, GAMMA.reshape(4, 1, 1), BETA.reshape(1, 4, 1, 1))


def channels_first(w, x):
    """ConvNeXt's own layer normalisation over the channels of an image."""
    return affine(w, layer_norm(w, x, axis=1), GAMMA[:, None, None], BETA[:, None, None])


FORMS = {
    **{f"layer norm, {root}": (lambda w, x, r=root: layer_norm(w, x, r), ROWS, "layer_norm", 1) for root in ROOTS},
    **{f"layer norm, {mean}": (lambda w, x, m=mean: layer_norm(w, x, mean=m), ROWS, "layer_norm", 1) for mean in MEANS},
    **{f"rms norm, {root}": (lambda w, x, r=root: rms_norm(w, x, r), ROWS, "rms_norm", 1) for root in ROOTS},
    "layer norm, no epsilon": (lambda w, x: layer_norm(w, x, epsilon=0), ROWS, "layer_norm", 1),
    "layer norm, one difference": (shared, ROWS, "layer_norm", 1),
    "layer norm by moments": (of_moments, ROWS, "layer_norm", 1),
    "layer norm with scale": (lambda w, x: w.mul(GAMMA, layer_norm(w, x)), ROWS, "layer_norm", 2),
    "layer norm with scale and shift": (lambda w, x: affine(w, layer_norm(w, x)), ROWS, "layer_norm", 3),
    "layer norm with shift alone": (lambda w, x: w.add(BETA, layer_norm(w, x)), ROWS, "layer_norm", 3),
    "layer norm, shift taken away": (lambda w, x: w.sub(layer_norm(w, x), BETA), ROWS, "layer_norm", 3),
    "layer norm as batch norm": (as_batch_norm, ROWS, "layer_norm", 3),
    "layer norm as batch norm, no shift": (lambda w, x: as_batch_norm(w, x, beta=None), ROWS, "layer_norm", 2),
    "layer norm as batch norm, bare": (lambda w, x: as_batch_norm(w, x, None, None), ROWS, "layer_norm", 1),
    "layer norm over the second axis": (lambda w, x: layer_norm(w, x, axis=1), ROWS, "layer_norm", 1),
    "layer norm over channels": (channels_first, IMAGE, "layer_norm", 3),
    "instance norm": (instance, IMAGE, "layer_norm", 3),
    "rms norm with scale": (lambda w, x: w.mul(GAMMA, rms_norm(w, x)), ROWS, "rms_norm", 2),
    "rms norm, scale first": (
        lambda w, x: w.mul(x, w.mul(w.rsqrt(w.add(w.mean(w.mul(x, x), 2), EPSILON)), GAMMA)),
        ROWS,
        "rms_norm",
        2,
    ),
    "rms norm with shift": (lambda w, x: affine(w, rms_norm(w, x)), ROWS, "rms_norm", 3),
    "group norm of a fused norm": (grouped, IMAGE, "group_norm", 3),
    "group norm": (spelled_group, IMAGE, "group_norm", 3),
}


@pytest.mark.parametrize("name", FORMS)
def test_recognised(name):
    expression, shape, op, operands = FORMS[name]
    before = program(written(expression), shape)
    after = recognise_norms(before)
    (eqn,) = after.graph.eqns
    assert (eqn.op, len(eqn.invars)) == (op, operands)
    assert eqn.outvars == before.graph.outputs
    check_unchanged(before, after, 1e-11)
    assert operations(simplify(before)) == [op]


NEAR = {
    "the mean over another axis": lambda w, x, g: w.div(w.sub(x, w.mean(x, 1)), w.sqrt(w.add(variance(w, x), EPSILON))),
    "the variance over another axis": lambda w, x, g: w.div(
        w.sub(x, w.mean(x, 2)), w.sqrt(w.add(variance(w, x, axis=1), EPSILON))
    ),
    "a mean over both axes": lambda w, x, g: w.div(w.sub(x, w.mean(x, 1, 2)), w.sqrt(w.add(variance(w, x), EPSILON))),
    "another value's variance": lambda w, x, g: w.div(w.sub(x, w.mean(x, 2)), w.sqrt(w.add(variance(w, g), EPSILON))),
    "another value's mean": lambda w, x, g: w.div(w.sub(x, w.mean(g, 2)), w.sqrt(w.add(variance(w, x), EPSILON))),
    "exponent 3": lambda w, x, g: w.div(
        w.sub(x, w.mean(x, 2)),
        w.sqrt(w.add(variance(w, x, square=lambda w, d: w.abs(w.integer_pow(d, exponent=3))), EPSILON)),
    ),
    "no root": lambda w, x, g: w.div(w.sub(x, w.mean(x, 2)), w.add(variance(w, x), EPSILON)),
    "epsilon outside the root": lambda w, x, g: w.div(w.sub(x, w.mean(x, 2)), w.add(w.sqrt(variance(w, x)), EPSILON)),
    "a negative epsilon": lambda w, x, g: w.div(w.sub(x, w.mean(x, 2)), w.sqrt(w.sub(variance(w, x), 1e-9))),
    "an unbiased variance": lambda w, x, g: w.div(w.sub(x, w.mean(x, 2)), w.sqrt(w.mul(variance(w, x), 4 / 3))),
    "a computed epsilon": lambda w, x, g: w.div(
        w.sub(x, w.mean(x, 2)), w.sqrt(w.add(variance(w, x), w.mean(w.abs(g), 2)))
    ),
    "something in between": lambda w, x, g: w.div(
        w.sub(x, w.mean(x, 2)), w.sqrt(w.add(w.abs(variance(w, x)), EPSILON))
    ),
    "a root mean square of another value": lambda w, x, g: w.div(x, w.sqrt(w.mean(w.mul(g, g), 2))),
    "a sum of squares": lambda w, x, g: w.div(x, w.sqrt(w.reduce_sum(w.mul(x, x), axes=(2,), keepdims=True))),
    "a mean of products": lambda w, x, g: w.div(x, w.sqrt(w.mean(w.mul(x, g), 2))),
}


@pytest.mark.parametrize("name", NEAR)
def test_what_is_near_is_left_alone(name):
    before = program(written(NEAR[name]), ROWS, ROWS)
    assert operations(recognise_norms(before)) == operations(before)


APART = {
    "a position table": (lambda w, x: w.add(w.mul(layer_norm(w, x), GAMMA), np.ones((3, 4))), ROWS, "add"),
    "a scale per place": (lambda w, x: w.mul(layer_norm(w, x), np.ones((3, 4)) + GAMMA), ROWS, "mul"),
    "a mask": (lambda w, x: w.add(layer_norm(w, x), np.where(GAMMA > 1, -np.inf, 0)), ROWS, "add"),
    "a wider shift": (lambda w, x: w.add(layer_norm(w, x), np.ones((2, 1, 4))), ROWS, "add"),
    "a shift minus a norm": (lambda w, x: w.sub(BETA, layer_norm(w, x)), ROWS, "sub"),
    "a scale per group": (lambda w, x: grouped(w, x, per_group=(2, 0)), IMAGE, "reshape"),
    "a shift per group": (lambda w, x: grouped(w, x, per_group=(1, 1)), IMAGE, "reshape"),
    "groups that split channels": (lambda w, x: grouped(w, x, groups=6), IMAGE, "reshape"),
    "a shift per pixel": (lambda w, x: grouped(w, x, beta=np.ones((3, 5))), IMAGE, "add"),
}


SECOND = {
    "shift": (lambda w, x: w.add(affine(w, layer_norm(w, x)), BETA), [GAMMA, 2 * BETA]),
    "scale": (lambda w, x: w.mul(w.mul(layer_norm(w, x), GAMMA), GAMMA), [GAMMA**2]),
    "both": (lambda w, x: affine(w, affine(w, layer_norm(w, x))), [GAMMA**2, GAMMA * BETA + BETA]),
}


@pytest.mark.parametrize("name", SECOND)
def test_a_second_scale_or_shift_joins_the_first(name):
    """A file may keep a scale of ones in the operator and the true one behind it."""
    expression, affine_parts = SECOND[name]
    before = program(written(expression), ROWS)
    after = recognise_norms(before)
    assert operations(after) == ["layer_norm"]
    check_unchanged(before, after)
    found = [after.weights[var.name] for var in after.graph.eqns[0].invars[1:]]
    np.testing.assert_allclose(found[: len(affine_parts)], affine_parts)


@pytest.mark.parametrize("name", APART)
def test_what_is_no_scale_or_shift_of_the_norm_stays(name):
    expression, shape, stays = APART[name]
    before = program(written(expression), shape)
    after = recognise_norms(before)
    assert stays in operations(after)
    check_unchanged(before, after, 1e-11)


def test_statistics_that_something_else_reads_stay():
    def build(w, x):
        m = w.mean(x, 2)
        return {"y": layer_norm(w, x), "m": m, "z": w.mul(layer_norm(w, x), GAMMA)}

    before = program(written(build), ROWS)
    after = recognise_norms(before)
    assert sorted(operations(after)) == ["layer_norm", "layer_norm", "reduce_mean"]
    check_unchanged(before, after, 1e-11)


HALF, SINGLE = np.dtype(np.float16), np.dtype(np.float32)


def wide(w, x, dtype="float32"):
    return w.cast(x, dtype=dtype)


def llama(w, x):
    """Statistics in float32, as the models of LLaMA's family have it."""
    v = w.mean(w.integer_pow(wide(w, x), exponent=2), 2)
    y = w.mul(wide(w, x), w.rsqrt(w.add(v, np.array(EPSILON, SINGLE))))
    return w.mul(wide(w, y, "float16"), GAMMA.astype(HALF))


def rooted_in_half(w, x):
    v = w.mean(w.integer_pow(wide(w, x), exponent=2), 2)
    root = wide(w, w.rsqrt(w.add(v, np.array(EPSILON, SINGLE))), "float16")
    return w.mul(GAMMA.astype(HALF), w.mul(x, root))


@pytest.mark.parametrize("expression", [llama, rooted_in_half])
def test_statistics_in_a_wider_type(expression):
    before = program(written(expression), ROWS, dtype=HALF)
    after = recognise_norms(before)
    assert operations(after) == ["cast", "rms_norm", "cast"]
    assert after.graph.eqns[1].outvars[0].dtype == SINGLE
    assert len(after.graph.eqns[1].invars) == 2
    check_unchanged(before, after, 3e-3)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(sorted(ROOTS)), st.sampled_from(sorted(SQUARES)), st.sampled_from(sorted(MEANS)), st.integers(0, 2)
)
def test_spellings_combine(root, square, mean, axis):
    shape = (2, 3, 4)
    for norm, op in ((layer_norm, "layer_norm"), (rms_norm, "rms_norm")):
        before = program(written(lambda w, x, norm=norm: norm(w, x, root, square, mean, axis)), shape)
        after = recognise_norms(before)
        (eqn,) = after.graph.eqns
        assert (eqn.op, dict(eqn.params)) == (op, {"axes": (axis,), "epsilon": EPSILON})
        check_unchanged(before, after, 1e-11)


def test_a_product_with_an_inverse_is_a_division():
    """So that the numerator takes all (RULES 4): here, a vector over its length."""

    def length(w, x):
        return w.add(w.reduce_sum(w.mul(x, x), axes=(2,), keepdims=True), EPSILON)

    for inverse, last in (
        (lambda w, v: w.rsqrt(v), ["sqrt", "div"]),
        (lambda w, v: w.pow(v, -0.5), ["sqrt", "div"]),
        (lambda w, v: w.reciprocal(w.sqrt(v)), ["sqrt", "div"]),
        (lambda w, v: w.integer_pow(w.sqrt(v), exponent=-1), ["sqrt", "div"]),
    ):
        before = program(written(lambda w, x, i=inverse: w.mul(i(w, length(w, x)), x)), ROWS)
        after = recognise_division(before)
        assert operations(after)[-2:] == last
        check_unchanged(before, after)
