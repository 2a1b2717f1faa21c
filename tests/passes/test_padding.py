"""A border of zeros in front of a convolution counts as the convolution's own padding: one network, one relevance."""

from __future__ import annotations

import numpy as np
import pytest

from backtrace_jax.passes import fuse_padding, simplify
from backtrace_jax.rules import mode
from tests.passes.graphs import check_unchanged, operations, program
from tests.rules.running import close, walk_back

SHAPE = (1, 2, 5, 6)
ZERO = np.zeros(())
SETTINGS = {"strides": (2, 1), "dilation": (1, 1), "groups": 1}
BOX = {"low": -3.0, "high": 3.0}
MODES = [
    *("default", "lrp-flat", "lrp-wsquare", "lrp-zplus", "lrp-gamma", "lrp-epsilon-plus-flat"),
    *("lrp-epsilon-alpha2-beta1-flat", "attnlrp", mode("lrp-epsilon-gamma-box", **BOX)),
]


def kernel(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(3, 2, 3, 3))


def own(builder, x):
    return builder.emit("conv", x, kernel(), np.ones((1, 3, 1, 1)), padding=((1, 2), (0, 3)), **SETTINGS)


def apart(builder, x):
    border = builder.emit("pad", x, ZERO, low=(0, 0, 1, 0), high=(0, 0, 1, 2))
    return builder.emit("conv", border, kernel(), np.ones((1, 3, 1, 1)), padding=((0, 1), (0, 1)), **SETTINGS)


def twice(builder, x):
    inner = builder.emit("pad", x, ZERO, low=(0, 0, 1, 0), high=(0, 0, 0, 2))
    outer = builder.emit("pad", inner, ZERO, low=(0, 0, 0, 0), high=(0, 0, 2, 1))
    return builder.emit("conv", outer, kernel(), np.ones((1, 3, 1, 1)), padding=((0, 0), (0, 0)), **SETTINGS)


def turned(builder, x):
    """As a file with channels last is converted: a border, then the axes in another order."""
    last = builder.emit("transpose", x, perm=(0, 2, 3, 1))
    border = builder.emit("pad", last, ZERO, low=(0, 1, 0, 0), high=(0, 2, 3, 0))
    first = builder.emit("transpose", border, perm=(0, 3, 1, 2))
    return builder.emit("conv", first, kernel(), np.ones((1, 3, 1, 1)), padding=((0, 0), (0, 0)), **SETTINGS)


def converted(builder, x):
    border = builder.emit("pad", x, ZERO, low=(0, 0, 1, 0), high=(0, 0, 2, 3))
    return builder.emit(
        "conv",
        builder.emit("cast", border, dtype="float64"),
        kernel(),
        np.ones((1, 3, 1, 1)),
        padding=((0, 0), (0, 0)),
        **SETTINGS,
    )


SPELLINGS = {"apart": apart, "twice": twice, "turned": turned, "converted": converted}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_border_becomes_the_convolution_s_own(spelling):
    before = program(SPELLINGS[spelling], SHAPE)
    after = simplify(before)
    assert "pad" not in operations(after)
    conv = next(eqn for eqn in after.graph.eqns if eqn.op == "conv")
    assert conv.params["padding"] == ((1, 2), (0, 3))
    check_unchanged(before, after)


@pytest.mark.parametrize("chosen", MODES, ids=lambda each: getattr(each, "name", each))
@pytest.mark.parametrize("spelling", ["apart", "turned"])
def test_relevance_does_not_depend_on_where_the_border_is_written(spelling, chosen):
    generator = np.random.default_rng(1)
    plain, spelled = (simplify(program(build, SHAPE)) for build in (own, SPELLINGS[spelling]))
    x, R = generator.uniform(-3, 3, SHAPE), generator.normal(size=plain.graph.outputs[0].shape)
    expected, found = (walk_back(each, {"x0": x}, R, mode=chosen) for each in (plain, spelled))
    close(found.relevance["x0"], expected.relevance["x0"], 1e-9)
    np.testing.assert_allclose(found.books.absolute[:, 2:].sum(0), expected.books.absolute[:, 2:].sum(0), rtol=1e-9)


def test_flat_hands_nothing_to_a_border():
    """But where a window lies in it altogether: the last column, which gets nothing here."""
    x, R = np.ones(SHAPE), np.ones((1, 3, 3, 7))
    R[..., -1] = 0
    walked = walk_back(simplify(program(apart, SHAPE)), {"x0": x}, R, mode=mode("lrp-flat", epsilon=0.0))
    np.testing.assert_allclose(walked.relevance["x0"].sum(), R.sum(), rtol=1e-12)


KEPT = {
    "another number": lambda b, x: b.emit("pad", x, np.ones(()), low=(0, 0, 1, 1), high=(0, 0, 1, 1)),
    "along the channels": lambda b, x: b.emit(
        "pad", b.emit("slice", x, start=(0, 0, 0, 0), limit=(1, 1, 5, 6), stride=(1, 1, 1, 1)), ZERO,
        low=(0, 1, 1, 1), high=(0, 0, 1, 1),
    ),
    "cut off": lambda b, x: b.emit("pad", x, ZERO, low=(0, 0, -1, 0), high=(0, 0, 1, 0)),
}  # fmt: skip


@pytest.mark.parametrize("name", KEPT)
def test_other_borders_stay(name):
    def build(builder, x):
        return builder.emit("conv", KEPT[name](builder, x), kernel(), padding=((0, 0), (0, 0)), **SETTINGS)

    before = program(build, SHAPE)
    after = fuse_padding(before)
    assert operations(after) == operations(before)


def test_a_border_that_others_read_stays_for_them():
    def build(builder, x):
        border = builder.emit("pad", x, ZERO, low=(0, 0, 1, 1), high=(0, 0, 1, 1))
        conv = builder.emit("conv", border, kernel(), padding=((0, 0), (0, 0)), **SETTINGS)
        return {"y": conv, "border": border}

    before = program(build, SHAPE)
    after = fuse_padding(before)
    assert sorted(operations(after)) == ["conv", "pad"]
    check_unchanged(before, after)
