"""Modules go by their paths, in nodes, layers, weights and errors; calls are counted."""

import functools

import equinox
import haiku
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from backtrace_jax import Explainer, explain
from backtrace_jax.errors import BacktraceError, UnsupportedError
from backtrace_jax.importers import read

from . import kinds

MODELS = kinds.models()


def lowered(model, x=kinds.X):
    imported = read(model, x, proven=False)
    return imported.lower({each.name: (1, *x.shape[1:]) for each in imported.inputs}).graph


def params(model, x=kinds.X):
    return {var.name.split(".broadcast")[0] for var in lowered(model, x).params}


@pytest.mark.parametrize("kind", kinds.SAME)
def test_layers_go_by_the_paths_of_modules(kind):
    first, second = kinds.SAME[kind]
    found = explain(MODELS[kind], kinds.X, mode="gradient", target=1, layers=[first, f"*{second[-5:]}"])
    assert {first, second} <= set(found.layers)
    open_ = kinds.X @ kinds.FIRST + kinds.SHIFT > 0
    np.testing.assert_allclose(found.layers[first], open_ * kinds.SECOND[:, 1], rtol=1e-5)
    weights = {"haiku pair": "w", "equinox": "weight"}.get(kind, "kernel")
    assert {f"{first}.{weights}", f"{second}.{weights}"} <= params(MODELS[kind])


def test_weights_of_functions_go_by_the_names_of_their_code():
    bias = jnp.ones(3)

    def inner(x):
        return x @ kinds.SECOND + bias

    def function(x):
        return inner(jnp.maximum(x @ kinds.WEIGHTS["layers"][0]["kernel"], 0))

    assert {"bias", "kinds.WEIGHTS.layers.0.kernel"} <= params(function)
    assert {"weights.layers.0.kernel", "weights.layers.0.bias"} <= params(
        functools.partial(kinds.of_weights, kinds.WEIGHTS)
    )


def test_calls_are_counted():
    class Shared(nnx.Module):
        def __init__(self):
            self.block = nnx.Linear(4, 4, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return self.block(jnp.tanh(self.block(x)))

    class SharedLinen(linen.Module):
        @linen.compact
        def __call__(self, x):
            block = linen.Dense(4, name="block")
            return block(jnp.tanh(block(x)))

    class SharedEquinox(equinox.Module):
        block: equinox.nn.Linear

        def __call__(self, x):
            return self.block(jnp.tanh(self.block(x)))

    module = SharedLinen()
    for model in (
        Shared(),
        (module, module.init(jax.random.key(0), kinds.X)),
        SharedEquinox(equinox.nn.Linear(4, 4, key=jax.random.key(0))),
    ):
        found = explain(model, kinds.X, mode="gradient", target=0, layers="block")
        assert [*found.layers] == ["block", "block:1"]
        np.testing.assert_array_equal(found.layers["block:1"], np.eye(4, dtype=np.float32)[[0, 0]])


def test_scopes_of_functions_are_names():
    def function(x):
        with jax.named_scope("encoder"), jax.named_scope("inner"):
            x = jnp.tanh(x)
        return 2 * x

    nodes = [eqn.source.node for eqn in lowered(function).eqns]
    assert nodes == ["encoder/inner/tanh", "mul"]
    found = explain(function, kinds.X, mode="gradient", target=0, layers="encoder.*")
    assert [*found.layers] == ["encoder.inner"]


def test_scopes_go_on_inside_modules_and_other_methods_belong_to_the_call():
    class Deep(nnx.Module):
        def __init__(self):
            self.inner = nnx.Dict(linear=nnx.Linear(4, 4, use_bias=False, rngs=nnx.Rngs(0)))

        def helped(self, x):
            with jax.named_scope("scores"):
                return jnp.tanh(self.inner["linear"](x)) + 1

        def __call__(self, x):
            return self.helped(x)

    class Outer(nnx.Module):
        def __init__(self):
            self.deep = Deep()

        def __call__(self, x):
            return self.deep(x)

    sources = [(eqn.source.node, eqn.source.calls) for eqn in lowered(Outer()).eqns]
    assert sources == [
        ("deep/inner/linear/dot_general", ("deep", "deep.inner.linear")),
        ("deep/scores/tanh", ("deep", "deep.scores")),
        ("deep/scores/add", ("deep", "deep.scores")),
    ]


def test_a_transform_inside_keeps_paths():
    class Stack(nnx.Module):
        def __init__(self):
            self.linear = nnx.Linear(4, 4, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return nnx.remat(lambda linear, x: linear(x))(self.linear, x)

    assert {eqn.source.module for eqn in lowered(Stack()).eqns} == {"linear"}

    class Remat(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.remat(linen.Dense)(4, name="dense")(x)

    module = Remat()
    assert {eqn.source.module for eqn in lowered((module, module.init(jax.random.key(0), kinds.X))).eqns} == {"dense"}


def test_errors_name_the_module_and_the_line():
    class Odd(nnx.Module):
        def __call__(self, x):
            return jnp.linalg.cholesky(x[:, :, None] * x[:, None])[:, 0]

    class Outer(nnx.Module):
        def __init__(self):
            self.odd = Odd()

        def __call__(self, x):
            return self.odd(x)

    with pytest.raises(UnsupportedError, match=r"odd.*test_names.py:\d+"):
        Explainer(Outer(), example=kinds.X)(kinds.X)
    with pytest.raises(BacktraceError, match="nothing is called 'nobody'"):
        explain(kinds.Nnx(), kinds.X, mode="gradient", target=0, layers="nobody")


def test_haiku_inside_haiku_goes_by_its_module_names():
    transformed = haiku.without_apply_rng(haiku.transform(lambda x: haiku.nets.MLP([3, 2], name="net")(x)))
    weights = transformed.init(jax.random.key(0), kinds.X)
    modules = {eqn.source.module for eqn in lowered((transformed, weights)).eqns}
    assert modules == {"net", "net.linear_0", "net.linear_1"}
