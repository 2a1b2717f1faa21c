"""Transposed convolutions with channels last against those with channels first, forward and back."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backtrace_jax.ops.transposed import conv_transpose, conv_transpose_back
from backtrace_jax.runtime.numerics import compiled

generator = np.random.default_rng(0)


@st.composite
def geometries(draw):
    """Settings of all kinds; what is cut off may be negative, as the padding of an output is."""
    rank, few, groups = draw(st.integers(1, 3)), st.integers(1, 3), draw(st.integers(1, 2))
    window = tuple(draw(st.integers(1, 4)) for _ in range(rank))
    dilation = tuple(draw(st.integers(1, 2)) for _ in range(rank))
    strides = tuple(draw(few) for _ in range(rank))
    spans = [step * (size - 1) + 1 for size, step in zip(window, dilation, strict=True)]
    cuts = tuple((draw(st.integers(0, (s - 1) // 2)), draw(st.integers(-1, (s - 1) // 2))) for s in spans)
    sizes = [draw(st.integers(2, 5)) for _ in range(rank)]
    return {
        "x": (2, *sizes, groups * draw(few)),
        "outputs": draw(few),
        "window": window,
        "settings": {"strides": strides, "padding": cuts, "dilation": dilation, "groups": groups},
    }


@settings(deadline=None, max_examples=20)
@given(case=geometries())
def test_channels_last_is_the_same_transposed_convolution(case):
    window, chosen, rank = case["window"], case["settings"], len(case["window"])
    with jax.enable_x64(True):
        x = jnp.asarray(generator.normal(size=case["x"]))
        K = jnp.asarray(generator.normal(size=(x.shape[-1], case["outputs"], *window)))
        last = jnp.transpose(K, (*range(2, rank + 2), 1, 0))
        first = jnp.moveaxis(x, -1, 1)
        expected = jnp.moveaxis(conv_transpose(first, K, **chosen), 1, -1)
        np.testing.assert_allclose(conv_transpose(x, last, **chosen, channels_last=True), expected, atol=1e-12)
        R = jnp.asarray(generator.normal(size=expected.shape))
        expected_back = conv_transpose_back(jnp.moveaxis(R, -1, 1), K, first.shape, **chosen)
        back = conv_transpose_back(R, last, x.shape, **chosen, channels_last=True)
        np.testing.assert_allclose(back, jnp.moveaxis(expected_back, 1, -1), atol=1e-12)


@pytest.mark.optimised
@pytest.mark.parametrize(
    ("window", "stride", "channels"), [(2, 2, (3, 4)), (4, 2, (24, 8)), (3, 1, (8, 20)), (3, 2, (20, 3))]
)
def test_none_is_left_to_eigen(window, stride, channels):
    """Which would split its sums by the threads (see test_convolving)."""
    before, after = channels
    x = jax.ShapeDtypeStruct((2, 9, 11, before), np.float32)
    K = jax.ShapeDtypeStruct((window, window, after, before), np.float32)
    cuts = ((0, 1), (1, 0))
    chosen = {"strides": (stride,) * 2, "padding": cuts, "dilation": (1, 1), "groups": 1, "channels_last": True}
    R = jax.eval_shape(partial(conv_transpose, **chosen), x, K)
    for function, operand in (
        (partial(conv_transpose, **chosen), x),
        (lambda R, K: conv_transpose_back(R, K, x.shape, **chosen), R),
    ):
        text = compiled(function, operand, K, device=jax.devices()[0]).as_text()
        assert " convolution(" not in text[text.index("ENTRY") :]  # it is inside of what YNNPACK computes
