"""Entries written to places, what runs along an axis, and functions of one number compute what JAX computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.scipy import special

import backtrace_jax

from .lowered import check_forward

X = np.random.default_rng(0).normal(size=(2, 6, 5)).astype(np.float32)


def _ids(x):
    """Whole numbers from -2 to 2 that depend on x."""
    return jnp.clip(jnp.round(x[:, :, 0] * 2), -2, 2).astype(jnp.int32)


WRITTEN = {
    "set a column": lambda x: x.at[:, 2].set(x[:, 0] * 2),
    "set a part": lambda x: x.at[:, 1:4, 2:].set(0.5),
    "set rows": lambda x: x.at[:, np.array([4, 0, -1])].set(x[:, :3] * 3),
    "set two axes": lambda x: x.at[:, np.array([4, 0]), np.array([1, -1])].set(x[:, :2, 0]),
    "add": lambda x: x.at[:, np.array([1, 1, 3])].add(x[:, :3]),
    "multiply": lambda x: x.at[:, np.array([1, 1, 3])].multiply(x[:, :3]),
    "largest": lambda x: x.at[:, np.array([1, 1, 3])].max(x[:, :3]),
    "smallest": lambda x: x.at[:, np.array([1, 1, 3])].min(x[:, :3]),
    "of each": lambda x: jax.vmap(lambda a, i: a.at[i[0]].set(1.0))(x, _ids(x)),
    "added up by key": lambda x: jax.vmap(lambda a, i: jnp.zeros((5, 5)).at[i + 2].add(a))(x, _ids(x)),
    "out of range": lambda x: x.at[:, np.array([1, 9])].set(x[:, :2], mode="drop"),
    "clipped": lambda x: x.at[:, np.array([1, 9])].set(x[:, :2], mode="clip"),
    "segments": lambda x: jax.vmap(lambda a: jax.ops.segment_sum(a, np.array([0, 0, 1, 2, 2, 2]), 3))(x),
    "histogram": lambda x: jax.vmap(lambda i: jnp.zeros(5).at[i + 2].add(1.0))(_ids(x)) + x[:, 0],
}
ALONG = {
    "cumulative product": lambda x: jnp.cumprod(x, axis=1),
    "cumulative maximum": lambda x: lax.cummax(x, axis=2, reverse=True),
    "cumulative minimum": lambda x: lax.cummin(x, axis=1),
    "cumulative sum": lambda x: jnp.cumsum(x, axis=-1),
    "product": lambda x: jnp.prod(x, axis=(1, 2)),
    "any": lambda x: jnp.where(jnp.any(x > 1, axis=2, keepdims=True), x, 2 * x),
}
ENTRYWISE = {
    "cbrt": jnp.cbrt,
    "erf_inv": lambda x: lax.erf_inv(jnp.tanh(x) * 0.9),
    "lgamma": lambda x: special.gammaln(jnp.abs(x) + 0.5),
    "digamma": lambda x: special.digamma(jnp.abs(x) + 0.5),
    "log1p": lambda x: jnp.log1p(jnp.abs(x)),
    "expm1": jnp.expm1,
    "exp2": jnp.exp2,
    "rounded": lambda x: lax.reduce_precision(x, 8, 7),
    "bits": lambda x: lax.bitcast_convert_type(lax.bitcast_convert_type(x, jnp.int32) & -65536, jnp.float32) + x,
    "shifts": lambda x: (((jnp.abs(x) * 100).astype(jnp.int32) >> 2) << 1) * x,
    "half precision": lambda x: lax.dot_general(
        x.astype(jnp.bfloat16), x.astype(jnp.bfloat16), (((2,), (2,)), ((0,), (0,))), preferred_element_type=jnp.float32
    ),
}


@pytest.mark.parametrize("name", [*WRITTEN, *ALONG, *ENTRYWISE])
def test_forward(name):
    check_forward({**WRITTEN, **ALONG, **ENTRYWISE}[name], X)


@pytest.mark.parametrize("name", ["set a column", "set two axes", "add", "added up by key", "segments"])
def test_relevance_follows_what_is_written(name):
    weights = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    found = backtrace_jax.explain(lambda x: WRITTEN[name](x).sum(1) @ weights, X, mode="lrp-epsilon")
    assert np.max(found.ledger.error) < 1e-5
    np.testing.assert_allclose(found.relevance["x"].sum((1, 2)), 1, atol=1e-4)
