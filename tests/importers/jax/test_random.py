"""Random numbers that reach an output are refused with the name of their key; keys that nothing draws from are fine."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from backtrace_jax.errors import UnsupportedError
from backtrace_jax.importers.jax import read
from tests.passes.graphs import operations

from .lowered import check_forward, imported

x = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)


def refused(function, inputs=x, axis=0):
    with pytest.raises(UnsupportedError) as raised:
        imported(function, inputs, axis)
    assert len(str(raised.value)) < 400
    assert "evaluation mode" in str(raised.value)
    return str(raised.value)


def noise(key, x):
    return x + jax.random.normal(key, x.shape)


def in_a_loop(x):
    def step(carry, _):
        key, h = carry
        key, own = jax.random.split(key)
        return (key, noise(own, h)), None

    return lax.scan(step, (jax.random.key(3), x), length=3)[0][1]


MADE_INSIDE = {
    "a key": lambda x: noise(jax.random.key(0), x),
    "a key of integers": lambda x: noise(jax.random.PRNGKey(0), x),
    "a split key": lambda x: noise(jax.random.split(jax.random.key(0))[1], x),
    "a folded key": lambda x: noise(jax.random.fold_in(jax.random.key(0), 7), x),
    "in jit": jax.jit(lambda x: noise(jax.random.key(0), x)),
    "in a loop": in_a_loop,
    "keys as a sequence": lambda x: lax.scan(
        lambda h, k: (noise(k, h), None), x, jax.random.split(jax.random.key(0), 3)
    )[0],
    "one per example": lambda x: jax.vmap(noise)(jax.random.split(jax.random.key(0), len(x)), x),
    "gamma": lambda x: x * jax.random.gamma(jax.random.key(0), 2.0, (4,)),
    "bernoulli": lambda x: jnp.where(jax.random.bernoulli(jax.random.key(0), 0.5, x.shape), x, 0.0),
    "another generator": lambda x: noise(jax.random.key(0, impl="rbg"), x),
    "the generator itself": lambda x: (
        x + jax.extend.random.threefry_2x32(np.zeros(2, np.uint32), np.zeros(4, np.uint32))
    ),
}


@pytest.mark.parametrize("name", MADE_INSIDE)
def test_numbers_of_a_key_made_inside_are_refused_with_its_line(name):
    assert "test_random.py:" in refused(MADE_INSIDE[name])


def test_numbers_of_a_key_that_is_passed_are_refused_with_its_name():
    def model(x, key):
        return noise(jax.random.wrap_key_data(key), x)

    assert "the input 'key'" in refused(model, (x, np.array([0, 1], np.uint32)), None)


def test_numbers_of_a_key_in_the_weights_are_refused_with_its_path():
    class Noisy(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(4, 4, rngs=rngs)
            self.rngs = rngs.fork()

        def __call__(self, x):
            return noise(self.rngs.noise(), self.linear(x))

    assert "the key 'rngs.default.key" in refused(Noisy(nnx.Rngs(0)))
    dropout = nn.Sequential([nn.Dropout(0.5, deterministic=False)])
    assert "in layers_0 (" in refused(partial(dropout.apply, {}, rngs={"dropout": jax.random.key(0)}))


def test_keys_that_nothing_draws_from_are_fine():
    class Idle(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(4, 4, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)
            self.rngs = rngs

        def __call__(self, x):
            jax.random.normal(self.rngs.noise(), (3,))
            return self.dropout(self.linear(x))

    read(Idle(nnx.Rngs(0)), x)
    assert operations(check_forward(lambda x: (x * 2, jax.random.split(jax.random.key(0)))[0], x)) == ["mul"]
    closed_over = jax.random.normal(jax.random.key(0), (4,))
    assert operations(check_forward(lambda x: x + closed_over, x)) == ["add"]
