"""Convolutions with channels last against those with channels first, in and out of bands, and their transposes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from backtrace_jax.ops import convolving
from backtrace_jax.ops.convolving import conv, conv_back
from backtrace_jax.runtime.numerics import compiled

generator = np.random.default_rng(0)


@st.composite
def geometries(draw):
    """Sizes at which rows are narrow enough for bands, and settings of all kinds."""
    rank = 2
    few = st.integers(1, 3)
    window = [draw(st.integers(1, 4)) for _ in range(rank)]
    dilation = tuple(draw(st.integers(1, 2)) for _ in range(rank))
    reach = [step * (size - 1) for size, step in zip(window, dilation, strict=True)]
    padding = tuple((draw(st.integers(0, 3)), draw(st.integers(0, 3))) for _ in range(rank))
    sizes = [draw(st.integers(r + 1, 40)) for r in reach]
    return {
        "x": (1, *sizes, draw(few)),
        "K": (*window, draw(few)),
        "inputs": draw(few),
        "strides": tuple(draw(few) for _ in range(rank)),
        "padding": padding,
        "dilation": dilation,
    }


@settings(deadline=None, max_examples=60)
@given(case=geometries())
def test_channels_last_is_the_same_convolution(case):
    """Forward and back, whatever the geometry; bands are made small enough to occur."""
    *window, outputs = case["K"]
    chosen = {name: case[name] for name in ("strides", "padding", "dilation")} | {"groups": 1}
    with jax.enable_x64(True), pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolving, "_TILE", 16)
        x = jnp.asarray(generator.normal(size=(*case["x"][:-1], case["inputs"])))
        K = jnp.asarray(generator.normal(size=(*window, case["inputs"], outputs)))
        first, kernel = jnp.moveaxis(x, -1, 1), jnp.transpose(K, (3, 2, 0, 1))
        expected = jnp.moveaxis(conv(first, kernel, **chosen), 1, -1)
        found = conv(x, K, **chosen, channels_last=True)
        np.testing.assert_allclose(found, expected, atol=1e-12)
        R = jnp.asarray(generator.normal(size=expected.shape))
        (expected_back,) = jax.linear_transpose(
            lambda x: conv(x, kernel, **chosen), jax.ShapeDtypeStruct(first.shape, x.dtype)
        )(jnp.moveaxis(R, -1, 1))
        found_back = conv_back(R, K, x.shape, **chosen, channels_last=True)
        np.testing.assert_allclose(found_back, jnp.moveaxis(expected_back, 1, -1), atol=1e-12)


@pytest.mark.parametrize(("window", "stride", "padding"), [(7, 2, 3), (11, 4, 2), (3, 2, 0), (8, 4, 1), (2, 5, 0)])
def test_image_stems_go_back_by_phases(window, stride, padding):
    """The first layers of ResNet, AlexNet and others: strided, from three channels; odd sizes leave a phase short."""
    with jax.enable_x64(True):
        x = jnp.asarray(generator.normal(size=(2, 45, 38, 3)))
        K = jnp.asarray(generator.normal(size=(window, window, 3, 20)))
        chosen = {"strides": (stride,) * 2, "padding": ((padding,) * 2,) * 2, "dilation": (1, 1), "groups": 1}
        z, back = jax.vjp(lambda x: conv(x, K, **chosen, channels_last=True), x)
        R = jnp.asarray(generator.normal(size=z.shape))
        np.testing.assert_allclose(conv_back(R, K, x.shape, **chosen, channels_last=True), back(R)[0], atol=1e-12)


@pytest.mark.parametrize("window", [(4,), (2, 3), (2, 1, 2)])
def test_patches(window):
    """Windows side by side, as vision transformers cut images."""
    rank = len(window)
    with jax.enable_x64(True):
        x = jnp.asarray(generator.normal(size=(1, *(3 * size for size in window), 2)))
        K = jnp.asarray(generator.normal(size=(*window, 2, 5)))
        chosen = {"strides": window, "padding": ((0, 0),) * rank, "dilation": (1,) * rank, "groups": 1}
        first, kernel = jnp.moveaxis(x, -1, 1), jnp.moveaxis(K, (-1, -2), (0, 1))
        expected = jnp.moveaxis(conv(first, kernel, **chosen), 1, -1)
        np.testing.assert_allclose(conv(x, K, **chosen, channels_last=True), expected, atol=1e-12)
        R = jnp.asarray(generator.normal(size=expected.shape))
        (back,) = jax.linear_transpose(lambda x: conv(x, K, **chosen, channels_last=True), x)(R)
        np.testing.assert_allclose(conv_back(R, K, x.shape, **chosen, channels_last=True), back, atol=1e-12)


def test_bands_change_no_bit():
    x, K = (jnp.asarray(generator.normal(size=size), jnp.float32) for size in ((1, 56, 56, 64), (3, 3, 64, 64)))
    plain = lax.conv_general_dilated(x, K, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    chosen = {"strides": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}
    assert convolving._bands((56, 56), 64) > 1
    np.testing.assert_array_equal(conv(x, K, **chosen, channels_last=True), plain)


@pytest.mark.parametrize(
    ("counts", "channels", "bands"),
    [((56, 56), 64, 4), ((56, 56), 128, 1), ((14, 128), 8, 1), ((7, 7), 64, 1), ((9,), 8, 1)],
)
def test_how_many_bands(counts, channels, bands):
    assert convolving._bands(counts, channels) == bands


@pytest.mark.parametrize(
    ("window", "stride", "groups", "channels", "outputs", "pad"),
    [
        ((5,), 1, 1, 4, 8, 1),
        ((5,), 2, 2, 20, 4, 4),
        ((3, 2), 1, 4, 4, 8, 2),
        ((3, 2), 2, 2, 8, 20, 0),
        ((3, 2), 2, 1, 8, 70, 1),
        ((2, 3, 3), 1, 2, 8, 4, 1),
        ((2, 3, 3), 2, 1, 4, 20, 2),
    ],
)
def test_convolutions_of_other_ranks_and_in_groups(window, stride, groups, channels, outputs, pad):
    """Narrow and wide channels, padded by less and by more than the window reaches."""
    rank = len(window)
    with jax.enable_x64(True):
        x = jnp.asarray(generator.normal(size=(2, *[7 + i for i in range(rank)], channels)))
        K = jnp.asarray(generator.normal(size=(*window, channels // groups, outputs)))
        chosen = {"strides": (stride,) * rank, "padding": ((pad, pad),) * rank, "dilation": (1,) * rank}
        chosen |= {"groups": groups}
        first, kernel = jnp.moveaxis(x, -1, 1), jnp.moveaxis(K, (-1, -2), (0, 1))
        expected = conv(first, kernel, **chosen)
        np.testing.assert_allclose(conv(x, K, **chosen, channels_last=True), jnp.moveaxis(expected, 1, -1), atol=1e-12)
        R = jnp.asarray(generator.normal(size=expected.shape))
        back = conv_back(R, kernel, first.shape, **chosen)
        found = conv_back(jnp.moveaxis(R, 1, -1), K, x.shape, **chosen, channels_last=True)
        np.testing.assert_allclose(found, jnp.moveaxis(back, 1, -1), atol=1e-12)


GEOMETRIES = [  # image, channels before and after, window, stride, padding, dilation, groups
    ((8, 8), 1, 16, (3, 3), 1, 1, 1, 1),
    ((28, 28), 1, 6, (5, 5), 1, 2, 1, 1),
    ((14, 14), 6, 16, (5, 5), 1, 0, 1, 1),
    ((16, 16), 8, 16, (3, 3), 1, 1, 1, 1),
    ((33, 33), 3, 24, (7, 7), 2, 3, 1, 1),
    ((20, 20), 16, 32, (3, 3), 2, 1, 1, 1),
    ((14, 14), 32, 384, (3, 3), 2, 1, 1, 1),
    ((16, 16), 16, 32, (3, 3), 1, 2, 2, 1),
    ((16, 16), 8, 12, (3, 3), 2, 2, 2, 1),
    ((16, 16), 8, 8, (3, 3), 1, 1, 1, 8),
    ((16, 16), 32, 32, (3, 3), 2, 1, 1, 32),
    ((16, 16), 4, 4, (2, 2), 1, 0, 1, 2),
    ((64,), 4, 4, (9,), 1, 4, 1, 1),
    ((64,), 32, 48, (9,), 2, 0, 1, 1),
    ((6, 7, 8), 4, 8, (3, 3, 3), 1, 1, 1, 1),
    ((6, 7, 8), 16, 32, (3, 3, 3), 2, 1, 1, 2),
]


@pytest.mark.optimised
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_no_convolution_is_left_to_eigen(geometry):
    """Which would split its sums by the threads: each has become a matrix product, or is a call of YNNPACK."""
    image, before, after, window, stride, pad, dilation, groups = geometry
    rank, device = len(window), jax.devices()[0]
    chosen = {"strides": (stride,) * rank, "padding": ((pad, pad),) * rank, "dilation": (dilation,) * rank}
    chosen |= {"groups": groups, "channels_last": True}
    x = jax.ShapeDtypeStruct((2, *image, before), np.float32)
    K = jax.ShapeDtypeStruct((*window, before // groups, after), np.float32)
    R = jax.eval_shape(lambda x, K: conv(x, K, **chosen), x, K)
    back = partial(conv_back, shape=x.shape, **chosen)
    for function, operand in ((partial(conv, **chosen), x), (lambda R, K: back(R, K), R)):
        text = compiled(function, operand, K, device=device).as_text()
        assert " convolution(" not in text[text.index("ENTRY") :]  # it is inside of what YNNPACK computes
