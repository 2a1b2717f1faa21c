"""Constant shifts and scales join the linear map before them, and only where they belong to it."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backtrace_jax.passes import fold_affine, simplify
from tests.passes.graphs import check_unchanged, operations, program

WINDOW = {"strides": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1)}
generator = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _the_same_numbers_for_every_test():
    generator.bit_generator.state = np.random.default_rng(0).bit_generator.state


def array(*shape):
    return generator.normal(size=shape)


def conv(builder, x, K, groups=1):
    return builder.emit("conv", x, K, **WINDOW, groups=groups)


def batch_norm(builder, x, channels):
    """As it is exported where it is not folded: scale, then shift."""
    scaled = builder.emit("mul", x, array(channels, 1, 1))
    return builder.emit("add", scaled, array(channels, 1, 1))


def transposed(builder, x, groups):
    return builder.emit("conv_transpose", x, array(4, 3, 2, 2), **WINDOW, groups=groups)


def channels_last(builder, x):
    return builder.emit("transpose", x, perm=(0, 2, 3, 1))


def part(builder, whole, start, limit):
    return builder.emit("slice", whole, start=(0, 0, start), limit=(1, 3, limit), stride=(1, 1, 1))


def parts_with_constants(builder, x, overlap=0):
    """One projection cut in three: a bias, a bias behind a reshape and a scale, a constant less the part."""
    whole = builder.emit("matmul", x, array(4, 9))
    first = builder.emit("add", part(builder, whole, 0, 2 + overlap), array(2 + overlap))
    second = builder.emit("reshape", part(builder, whole, 2, 6), shape=(1, 3, 2, 2))
    second = builder.emit("mul", builder.emit("add", second, array(2, 2)), array(1))
    third = builder.emit("sub", part(builder, whole, 6, 9), array(3))
    return builder.emit("concat", first, builder.emit("reshape", second, shape=(1, 3, 4)), third, axis=2)


IMAGE, ROWS = (1, 4, 5, 5), (1, 3, 4)
FOLDED = {
    "constants of parts": (
        parts_with_constants,
        ROWS,
        ["matmul", "slice", "slice", "slice", "concat"],
    ),
    "constant minus x": (
        lambda b, x: b.emit("sub", array(5), b.emit("matmul", x, array(4, 5))),
        ROWS,
        ["matmul"],
    ),
    "bias behind moves": (
        lambda b, x: b.emit(
            "add",
            b.emit("reshape", b.emit("transpose", conv(b, x, array(6, 4, 3, 3)), perm=(0, 2, 3, 1)), shape=(25, 2, 3)),
            array(2, 3),
        ),
        IMAGE,
        ["conv", "transpose", "reshape"],
    ),
    "scale by -1 behind a reshape": (
        lambda b, x: b.emit("neg", b.emit("reshape", b.emit("matmul", x, array(4, 5)), shape=(15,))),
        ROWS,
        ["matmul", "reshape"],
    ),
    "scale of an einsum": (
        lambda b, x: b.emit("mul", b.emit("einsum", x, array(2, 4, 5), equation="btd,hde->bhte"), array(2, 1, 5)),
        ROWS,
        ["einsum"],
    ),
    "scale of rows": (lambda b, x: b.emit("mul", b.emit("matmul", array(6, 3), x), array(6, 1)), ROWS, ["matmul"]),
    "conv, channels last, batch norm": (
        lambda b, x: b.emit(
            "sub", b.emit("mul", channels_last(b, conv(b, x, array(6, 4, 3, 3))), array(6)), array(1, 1, 1, 6)
        ),
        IMAGE,
        ["conv", "transpose"],
    ),
    "conv, batch norm": (lambda b, x: batch_norm(b, conv(b, x, array(6, 4, 3, 3)), 6), IMAGE, ["conv"]),
    "grouped conv, bias, batch norm": (
        lambda b, x: batch_norm(b, b.emit("add", conv(b, x, array(6, 2, 3, 3), 2), array(1, 6, 1, 1)), 6),
        IMAGE,
        ["conv"],
    ),
    "shift, then scale": (
        lambda b, x: b.emit("mul", b.emit("sub", conv(b, x, array(6, 4, 3, 3)), array(6, 1, 1)), array(6, 1, 1)),
        IMAGE,
        ["conv"],
    ),
    "conv, scalar scale": (lambda b, x: b.emit("mul", np.array(0.3), conv(b, x, array(6, 4, 3, 3))), IMAGE, ["conv"]),
    "conv, scalar shift": (lambda b, x: b.emit("add", conv(b, x, array(6, 4, 3, 3)), np.array(0.3)), IMAGE, ["conv"]),
    "conv_transpose": (lambda b, x: batch_norm(b, transposed(b, x, 1), 3), IMAGE, ["conv_transpose"]),
    "grouped conv_transpose": (lambda b, x: batch_norm(b, transposed(b, x, 2), 6), IMAGE, ["conv_transpose"]),
    "matmul, bias": (lambda b, x: b.emit("add", array(5), b.emit("matmul", x, array(4, 5))), ROWS, ["matmul"]),
    "matmul, scale": (lambda b, x: b.emit("mul", b.emit("matmul", x, array(4, 5)), array(5)), ROWS, ["matmul"]),
    "matmul of batched weights, bias": (
        lambda b, x: b.emit("add", b.emit("matmul", x, array(2, 4, 5)), array(2, 1, 5)),
        (2, 3, 4),
        ["matmul"],
    ),
    "weights on the left, bias per row": (
        lambda b, x: b.emit("add", b.emit("matmul", array(5, 3), x), array(5, 1)),
        ROWS,
        ["matmul"],
    ),
    "scalar scale of the weights on the left": (
        lambda b, x: b.emit("mul", b.emit("matmul", array(5, 3), x), np.array([[0.3]])),
        ROWS,
        ["matmul"],
    ),
    "einsum, bias": (
        lambda b, x: b.emit("add", b.emit("einsum", x, array(4, 2, 5), equation="btd,dho->bhto"), array(2, 1, 5)),
        ROWS,
        ["einsum"],
    ),
    "einsum with an ellipsis, bias": (
        lambda b, x: b.emit("add", b.emit("einsum", x, array(4, 5), equation="...d,do->...o"), array(5)),
        ROWS,
        ["einsum"],
    ),
    "scale, shift": (lambda b, x: batch_norm(b, x, 4), IMAGE, ["mul"]),
    "scalar scale twice": (lambda b, x: b.emit("mul", b.emit("mul", x, np.array(0.5)), np.array(0.3)), ROWS, ["mul"]),
    "scalar scale twice of a number": (
        lambda b, x: b.emit("mul", b.emit("mul", x, np.array(0.5)), np.array(0.3)),
        (),
        ["mul"],
    ),
    "minus a constant": (lambda b, x: b.emit("sub", b.emit("matmul", x, array(4, 5)), array(5)), ROWS, ["matmul"]),
}


@pytest.mark.parametrize("name", FOLDED)
def test_folded(name):
    build, shape, expected = FOLDED[name]
    before = program(build, shape)
    after = simplify(before)
    assert operations(after) == expected
    assert len(after.graph.eqns[0].invars) == (2 if "scale" in name and "shift" not in name else 3)
    check_unchanged(before, after)


def test_a_bias_is_summed_not_replaced():
    def build(builder, x):
        y = builder.emit("matmul", x, array(4, 5))
        for shift in (array(5), array(1, 5), array(1, 1, 5)):
            y = builder.emit("add", y, shift)
        return y

    before = program(build, ROWS)
    assert operations(fold_affine(before)) == ["matmul"]
    check_unchanged(before, fold_affine(before))


KEPT = {
    "parts that share entries": (partial(parts_with_constants, overlap=1), ROWS),
    "position table behind a reshape": (
        lambda b, x: b.emit("add", b.emit("reshape", b.emit("matmul", x, array(4, 5)), shape=(3, 5)), array(3, 5)),
        ROWS,
    ),
    "position table": (lambda b, x: b.emit("add", b.emit("matmul", x, array(4, 5)), array(3, 5)), ROWS),
    "position table of one number per token": (
        lambda b, x: b.emit("add", b.emit("matmul", x, array(4, 5)), array(3, 1)),
        ROWS,
    ),
    "scale per token": (lambda b, x: b.emit("mul", b.emit("matmul", x, array(4, 5)), array(3, 1)), ROWS),
    "shift per pixel": (lambda b, x: b.emit("add", conv(b, x, array(6, 4, 3, 3)), array(5, 5)), IMAGE),
    "shift per column of weights on the left": (
        lambda b, x: b.emit("add", b.emit("matmul", array(5, 3), x), array(4)),
        ROWS,
    ),
    "mask": (
        lambda b, x: b.emit("add", b.emit("matmul", x, array(4, 5)), np.array([0, 0, -np.inf, 0, 0])),
        ROWS,
    ),
    "broadcasting shift": (lambda b, x: b.emit("add", b.emit("matmul", x, array(4, 5)), array(2, 1, 5)), ROWS),
    "two values": (lambda b, x: b.emit("add", b.emit("matmul", x, x), array(4)), (4, 4)),
    "shift per token after an ellipsis": (
        lambda b, x: b.emit("add", b.emit("einsum", x, array(2, 3, 5), equation="...d,...do->...o"), array(4, 1, 1)),
        (1, 4, 2, 3),
    ),
    "not linear": (lambda b, x: b.emit("add", b.emit("tanh", x), array(4)), ROWS),
    "position table after a scalar scale": (
        lambda b, x: b.emit("add", b.emit("mul", x, np.array(2.0)), array(3, 4)),
        ROWS,
    ),
    "position table after a contraction with a vector": (
        lambda b, x: b.emit("add", b.emit("matmul", x, array(4)), array(3)),
        ROWS,
    ),
    "shift per column of a vector on the left": (
        lambda b, x: b.emit("add", b.emit("matmul", array(3), x), array(4)),
        ROWS,
    ),
}


@pytest.mark.parametrize("name", KEPT)
def test_kept(name):
    """What varies along axes along which the weights do not is an operand of its own (RULES 1 and 3)."""
    build, shape = KEPT[name]
    before = program(build, shape)
    after = fold_affine(before)
    assert operations(after) == operations(before)
    check_unchanged(before, after)


def test_a_value_with_two_readers_is_kept():
    def build(builder, x):
        y = builder.emit("matmul", x, array(4, 5))
        return builder.emit("mul", builder.emit("add", y, array(5)), builder.emit("tanh", y))

    before = program(build, ROWS)
    assert operations(simplify(before)) == operations(before)


def test_a_value_that_is_an_output_is_kept():
    def build(builder, x):
        y = builder.emit("matmul", x, array(4, 5))
        return {"z": y, "y": builder.emit("add", y, array(5))}

    before = program(build, ROWS)
    assert operations(simplify(before)) == ["matmul", "add"]
    check_unchanged(before, simplify(before))


def test_shared_weights_are_not_changed_for_others():
    """A scale folds into a copy: the second map reads the weights as they were."""
    K = array(4, 4)

    def build(builder, x):
        y = builder.emit("mul", builder.emit("matmul", x, K), array(4))
        return builder.emit("matmul", builder.emit("tanh", y), K)

    before = program(build, ROWS)
    after = simplify(before)
    assert operations(after) == ["matmul", "tanh", "matmul"]
    check_unchanged(before, after)
    assert all(
        np.array_equal(before.weights[name], K) for name in before.weights if before.weights[name].shape == (4, 4)
    )


LAYERS = {
    "linear": lambda b, x, d: b.emit("matmul", x, d(6, 6)),
    "shift": lambda b, x, d: b.emit("add", x, d(6)),
    "scale": lambda b, x, d: b.emit("mul", d(1, 1, 6), x),
    "minus": lambda b, x, d: b.emit("sub", x, d(1, 6)),
    "from": lambda b, x, d: b.emit("sub", d(6), x),
    "places": lambda b, x, d: b.emit("add", x, d(3, 6)),
    "halve": lambda b, x, d: b.emit("mul", x, np.full(1, 0.5)),
    "mix": lambda b, x, d: b.emit("matmul", d(3, 3), x),
    "relu": lambda b, x, d: b.emit("relu", x),
    "silu": lambda b, x, d: b.emit("mul", x, b.emit("sigmoid", x)),
    "skip": lambda b, x, d: b.emit("add", x, b.emit("matmul", x, d(6, 6))),
    "einsum": lambda b, x, d: b.emit("einsum", x, d(6, 6), equation="btd,de->bte"),
}


@settings(max_examples=60)
@given(st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=8), st.integers(0, 2**32 - 1))
def test_any_network_computes_what_it_did(names, seed):
    draw = np.random.default_rng(seed).normal

    def build(builder, x):
        values = [x]
        for name in names:
            values.append(LAYERS[name](builder, values[-1], lambda *shape: draw(size=shape)))
        return {"y": values[-1], "z": values[len(values) // 2]}

    before = program(build, (1, 3, 6))
    check_unchanged(before, simplify(before), 1e-11)


@pytest.mark.parametrize(("rounded", "folded"), [(None, True), ("float16", False)])
def test_a_bias_behind_a_cast_that_rounds_stays_behind_it(rounded, folded):
    params = {"dtype": "float64", **({} if rounded is None else {"rounded": rounded})}

    def build(builder, x):
        whole = builder.emit("matmul", x, array(4, 5))
        return builder.emit("add", builder.emit("cast", whole, **params), array(5))

    before = program(build, ROWS)
    after = fold_affine(before)
    assert ("add" not in operations(after)) == folded
    check_unchanged(before, after)
