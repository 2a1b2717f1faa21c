"""Products of batches: `@` takes the batch out where it holds one example, and an import is good for any number."""

import jax
import numpy as np
import pytest

from backtrace_jax import explain

generator = np.random.default_rng(0)
X = generator.normal(size=(3, 4, 6)).astype(np.float32)
W = generator.normal(size=(6, 6)).astype(np.float32)


def _sequences(x):
    return (jax.nn.softmax(x @ x.swapaxes(1, 2)) @ (x @ W)).mean(1)


def _heads(x, heads):
    query, key, value = (each.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2) for each in (x @ W, x, x @ W.T))
    mixed = jax.nn.softmax(query @ key.swapaxes(2, 3)) @ value
    return mixed.swapaxes(1, 2).reshape(x.shape).mean(1)


def _two_heads(x):
    return _heads(x, 2)


def _one_head(x):
    return _heads(x, 1)


def _weight_with_a_batch_of_one(x):
    return (x @ W[None]).mean(1)


def _pooled_by_attention(x):
    return (jax.nn.softmax(x.sum(-1))[:, None] @ x)[:, 0]


@pytest.mark.parametrize(
    "function", [_sequences, _two_heads, _one_head, _weight_with_a_batch_of_one, _pooled_by_attention]
)
def test_products_of_batches(function):
    found = explain(function, X)
    np.testing.assert_allclose(found.outputs[found.output], np.asarray(function(X)), rtol=1e-5, atol=1e-6)
    assert found.ledger is not None
    assert found.ledger.error.max() <= 1e-5
    alone = explain(function, X[:1])
    np.testing.assert_allclose(alone.relevance["x"], found.relevance["x"][:1], rtol=1e-4, atol=1e-6)
