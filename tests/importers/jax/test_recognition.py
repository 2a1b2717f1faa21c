"""What JAX's libraries write out becomes the operations that rules know."""

from __future__ import annotations

from functools import partial
from typing import Any

import equinox
import haiku
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from backtrace_jax.passes import with_float_type
from tests.passes.graphs import check_unchanged, operations

from .filled import linen_module, nnx_module
from .lowered import imported, simplified

ROWS, IMAGES, HEADS = (2, 3, 8), (2, 5, 4, 8), (2, 5, 4, 3)
"""Tokens or steps of 8 features; images with channels last; queries of 4 heads."""
MOVES = {"reshape", "transpose"}


def drawn(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


FUNCTIONS = {
    "softmax": (jax.nn.softmax, "softmax"),
    "softmax of another axis": (partial(jax.nn.softmax, axis=1), "softmax"),
    "softmax by hand": (lambda x: jnp.exp(x) / jnp.exp(x).sum(-1, keepdims=True), "softmax"),
    "log_softmax": (jax.nn.log_softmax, "log_softmax"),
    "logsumexp": (partial(jax.nn.logsumexp, axis=-1), "log_sum_exp"),
    "logsumexp that keeps its axis": (partial(jax.nn.logsumexp, axis=-1, keepdims=True), "log_sum_exp"),
    "x less its logsumexp": (lambda x: x - jax.nn.logsumexp(x, axis=-1, keepdims=True), "log_softmax"),
    "relu": (jax.nn.relu, "relu"),
    "relu as a choice": (lambda x: jnp.where(x > 0, x, 0), "relu"),
    "relu6": (jax.nn.relu6, "clip"),
    "hard_tanh": (jax.nn.hard_tanh, "clip"),
    "clip": (lambda x: jnp.clip(x, -1, 2), "clip"),
    "leaky_relu": (jax.nn.leaky_relu, "leaky_relu"),
    "gelu": (jax.nn.gelu, "gelu"),
    "gelu, exact": (partial(jax.nn.gelu, approximate=False), "gelu"),
    "softplus": (jax.nn.softplus, "softplus"),
    "elu": (jax.nn.elu, "elu"),
    "celu": (partial(jax.nn.celu, alpha=1.5), "celu"),
    "mish": (jax.nn.mish, "mish"),
    "silu": (jax.nn.silu, "silu"),
    "swish with a slope": (lambda x: x * jax.nn.sigmoid(1.702 * x), "swish"),
    "sigmoid": (jax.nn.sigmoid, "sigmoid"),
    "hard_sigmoid": (jax.nn.hard_sigmoid, "hard_sigmoid"),
    "hard_silu": (jax.nn.hard_silu, "hard_swish"),
    "sparse_sigmoid": (jax.nn.sparse_sigmoid, "hard_sigmoid"),
    "soft_sign": (jax.nn.soft_sign, "softsign"),
    "standardize": (jax.nn.standardize, "layer_norm"),
    "mean": (lambda x: x.mean(-1), "reduce_mean"),
}
"""Functions of rows, and the one operation that they are."""


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_that_is_written_out_is_one_operation(name):
    function, operation = FUNCTIONS[name]
    assert operations(checked(function, drawn(ROWS))) == [operation]


def normalised(x: Any, axes: Any) -> Any:
    return (x - x.mean(axes, keepdims=True)) * jax.lax.rsqrt(x.var(axes, keepdims=True) + 1e-5)


def by_rows(x: Any) -> Any:
    return (x - x.mean()) / jnp.sqrt(x.var() + 1e-5) * jnp.arange(1.0, 9) + 1


def by_groups(x: Any) -> Any:
    return normalised(x.reshape(2, 4, *x.shape[1:]), (1, 2)).reshape(x.shape) * jnp.arange(1.0, 9)[:, None] + 1


NORMS = {
    "linen.LayerNorm": (partial(linen_module, linen.LayerNorm()), ROWS, "layer_norm", 3),
    "linen.LayerNorm, exact": (
        partial(linen_module, linen.LayerNorm(use_fast_variance=False)),
        ROWS,
        "layer_norm",
        3,
    ),
    "linen.LayerNorm without shift": (partial(linen_module, linen.LayerNorm(use_bias=False)), ROWS, "layer_norm", 2),
    "linen.LayerNorm alone": (
        partial(linen_module, linen.LayerNorm(use_bias=False, use_scale=False)),
        ROWS,
        "layer_norm",
        1,
    ),
    "linen.RMSNorm": (partial(linen_module, linen.RMSNorm()), ROWS, "rms_norm", 2),
    "linen.GroupNorm": (partial(linen_module, linen.GroupNorm(4)), IMAGES, "layer_norm", 3),
    "linen.GroupNorm of rows": (partial(linen_module, linen.GroupNorm(4)), ROWS, "layer_norm", 3),
    "linen.GroupNorm, exact": (
        partial(linen_module, linen.GroupNorm(2, use_fast_variance=False)),
        IMAGES,
        "layer_norm",
        3,
    ),
    "linen.InstanceNorm": (partial(linen_module, linen.InstanceNorm()), IMAGES, "layer_norm", 3),
    "linen.BatchNorm": (partial(linen_module, linen.BatchNorm(use_running_average=True)), IMAGES, "mul", 3),
    "linen.WeightNorm": (partial(linen_module, linen.WeightNorm(linen.Dense(3))), ROWS, "matmul", 3),
    "nnx.LayerNorm": (lambda _: nnx_module(lambda rngs: nnx.LayerNorm(8, rngs=rngs)), ROWS, "layer_norm", 3),
    "nnx.RMSNorm": (lambda _: nnx_module(lambda rngs: nnx.RMSNorm(8, rngs=rngs)), ROWS, "rms_norm", 2),
    "nnx.GroupNorm": (lambda _: nnx_module(lambda rngs: nnx.GroupNorm(8, 4, rngs=rngs)), IMAGES, "layer_norm", 3),
    "nnx.BatchNorm": (lambda _: nnx_module(lambda rngs: nnx.BatchNorm(8, rngs=rngs)), IMAGES, "mul", 3),
    "equinox.LayerNorm": (lambda _: jax.vmap(jax.vmap(scaled(equinox.nn.LayerNorm(8)))), ROWS, "layer_norm", 3),
    "equinox.RMSNorm": (lambda _: jax.vmap(jax.vmap(scaled(equinox.nn.RMSNorm(8)))), ROWS, "rms_norm", 3),
    "equinox.GroupNorm": (lambda _: scaled(equinox.nn.GroupNorm(4, 8)), (2, 8, 3), "group_norm", 3),
    "haiku.LayerNorm": (lambda _: hidden(lambda: haiku.LayerNorm(-1, True, True)), ROWS, "layer_norm", 3),
    "haiku.GroupNorm": (lambda _: hidden(lambda: haiku.GroupNorm(4)), IMAGES, "layer_norm", 3),
    "rows, one by one": (lambda _: jax.vmap(jax.vmap(by_rows)), ROWS, "layer_norm", 3),
    "groups of channels, one by one": (lambda _: jax.vmap(by_groups), (2, 8, 5), "group_norm", 3),
    "columns, one by one": (
        lambda _: jax.vmap(jax.vmap(partial(normalised, axes=0), in_axes=1, out_axes=1)),
        ROWS,
        "layer_norm",
        1,
    ),
}
"""Normalisations: the operation that they are beside moves, and how many operands it has."""


def scaled(module: Any) -> Any:
    """An Equinox module with other parameters than ones and zeros, which compute nothing."""
    return jax.tree.map(lambda leaf: leaf + np.arange(1, 1 + leaf.size, dtype=leaf.dtype), module)


def hidden(build: Any) -> Any:
    """A haiku module as a function of its input alone."""
    function = haiku.without_apply_rng(haiku.transform(lambda x: build()(x)))

    def call(x: Any) -> Any:
        shapes = jax.eval_shape(function.init, jax.random.key(0), x)
        return function.apply(jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.75, leaf.dtype), shapes), x)

    return call


def checked(model: Any, x: np.ndarray) -> Any:
    """A model as it is explained, which computes what it is lowered to."""
    program = simplified(model, x)
    check_unchanged(with_float_type(imported(model, x), np.dtype(np.float64)), program, tolerance=1e-5)
    return program


@pytest.mark.parametrize("name", NORMS)
def test_a_normalisation_is_one_operation_with_its_scale_and_shift(name):
    build, shape, operation, operands = NORMS[name]
    x = drawn(shape)
    (found,) = (eqn for eqn in checked(build(x), x).graph.eqns if eqn.op not in MOVES)
    assert (found.op, len(found.invars)) == (operation, operands)


HEADED = {
    "flax": (lambda q: linen.dot_product_attention(q, q, q), 1),
    "jax": (lambda q: jax.nn.dot_product_attention(q, q, q), 1),
    "jax, causal": (lambda q: jax.nn.dot_product_attention(q, q, q, is_causal=True), 1),
    "jax, keys of groups": (lambda q: jax.nn.dot_product_attention(q, q[:, :, :2], q[:, :, 2:]), 1),
}
"""Attention: one softmax of the product that alone makes its scores, moves and masks aside."""


@pytest.mark.parametrize("name", HEADED)
def test_attention_is_two_products_around_a_softmax(name):
    function, count = HEADED[name]
    found = operations(checked(function, drawn(HEADS)))
    assert [op for op in found if op not in MOVES | {"slice", "where", "mul"}] == ["einsum", "softmax", "einsum"]
    assert found.count("mul") == count
