"""Any function of arrays is a model."""

import jax
import jax.numpy as jnp
import numpy as np

import backtrace_jax


def test_a_function_is_explained():
    weights = np.linspace(-1.0, 1.0, 12, dtype=np.float32).reshape(4, 3)
    x = np.arange(8, dtype=np.float32).reshape(2, 4) + 1
    found = backtrace_jax.explain(lambda x: jax.nn.relu(x) @ jnp.asarray(weights), x, mode="lrp-epsilon", target=2)
    shares = x * weights[:, 2]
    np.testing.assert_allclose(found.relevance["x"], shares / shares.sum(1, keepdims=True), rtol=1e-5)
