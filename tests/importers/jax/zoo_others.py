"""Models of other libraries than Flax: Equinox, Haiku, and functions of nobody's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp

from .zoo import CLASSES, LENGTH, TRANSFORMER, WIDTH, Call, Example, drawn, image, vectors

Array = Any


class EqxCnn(eqx.Module):
    """For one picture, channels first, as Equinox has it."""

    convs: list[eqx.nn.Conv2d]
    pool: eqx.nn.MaxPool2d
    norm: eqx.nn.GroupNorm
    head: eqx.nn.Linear

    def __init__(self, key: Array) -> None:
        self.convs = [eqx.nn.Conv2d(3, 4, 3, padding=1, key=key), eqx.nn.Conv2d(4, 8, 3, 2, key=key)]
        self.pool, self.norm = eqx.nn.MaxPool2d(2, 2), eqx.nn.GroupNorm(2, 8)
        self.head = eqx.nn.Linear(8, CLASSES, key=key)

    def __call__(self, x: Array) -> Array:
        x = self.pool(jax.nn.relu(self.convs[0](x)))
        x = jax.nn.relu(self.norm(self.convs[1](x)))
        return self.head(x.mean((1, 2)))


class EqxBlock(eqx.Module):
    attn: eqx.nn.MultiheadAttention
    norm1: eqx.nn.LayerNorm
    norm2: eqx.nn.LayerNorm
    mlp: eqx.nn.MLP

    def __init__(self, key: Array) -> None:
        self.attn = eqx.nn.MultiheadAttention(2, WIDTH, use_query_bias=True, use_output_bias=True, key=key)
        self.norm1, self.norm2 = eqx.nn.LayerNorm(WIDTH), eqx.nn.LayerNorm(WIDTH)
        self.mlp = eqx.nn.MLP(WIDTH, WIDTH, 2 * WIDTH, 1, activation=jax.nn.gelu, key=key)

    def __call__(self, x: Array) -> Array:
        normed = jax.vmap(self.norm1)(x)
        x = x + self.attn(normed, normed, normed)
        return x + jax.vmap(self.mlp)(jax.vmap(self.norm2)(x))


class EqxTransformer(eqx.Module):
    """For one sequence of measurements."""

    embed: eqx.nn.Linear
    positions: Array
    blocks: list[EqxBlock]
    head: eqx.nn.Linear

    def __init__(self, key: Array) -> None:
        self.embed = eqx.nn.Linear(4, WIDTH, key=key)
        self.positions = jnp.zeros((LENGTH, WIDTH))
        self.blocks = [EqxBlock(key) for _ in range(2)]
        self.head = eqx.nn.Linear(WIDTH, CLASSES, key=key)

    def __call__(self, x: Array) -> Array:
        x = jax.vmap(self.embed)(x) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(0))


def equinox(make: Callable[[Array], Any], call: Call) -> Example:
    """An Equinox module with drawn weights; it takes one example."""
    shaped = eqx.filter_eval_shape(make, jax.random.key(0))
    module = jax.tree_util.tree_map_with_path(
        lambda path, leaf: _leaf(jax.tree_util.keystr(path), leaf), shaped, is_leaf=eqx.is_array_like
    )
    weights, static = eqx.partition(module, eqx.is_array)
    return Example(module, lambda weights, *args: jax.vmap(eqx.combine(weights, static))(*args), weights, call)


def _leaf(path: str, leaf: Any) -> Any:
    return drawn(path, leaf.shape, leaf.dtype) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf


def perceptron(params: dict[str, Any], x: Array) -> Array:
    """Dense layers whose weights are a tree."""
    *hidden, last = params["layers"]
    for layer in hidden:
        x = jnp.tanh(x @ layer["kernel"] + layer["bias"])
    return x @ last["kernel"] + last["bias"]


def bare(call: Call) -> Example:
    """A function with its weights held by a partial."""
    layers = [
        {"kernel": drawn(f"{k}.kernel", (a, b), "float32"), "bias": drawn(f"{k}.bias", (b,), "float32")}
        for k, (a, b) in enumerate(pairwise((8, WIDTH, WIDTH, CLASSES)))
    ]
    params = {"layers": layers}
    return Example(partial(perceptron, params), perceptron, params, call)


def haiku_net(x: Array) -> Array:
    """Convolution, pool and a perceptron, as Haiku has them."""
    x = hk.avg_pool(jax.nn.relu(hk.Conv2D(4, 3, name="seen")(x)), (2, 2, 1), (2, 2, 1), "VALID")
    return hk.nets.MLP([8, CLASSES], name="head")(hk.Flatten()(x))


def haiku(call: Call) -> Example:
    """A transformed function with its params."""
    transformed = hk.without_apply_rng(hk.transform(haiku_net))
    shapes = jax.eval_shape(lambda key: transformed.init(key, call.inputs), jax.random.key(0))
    params = {
        module: {name: drawn(f"{module}.{name}", leaf.shape, leaf.dtype) for name, leaf in found.items()}
        for module, found in shapes.items()
    }
    return Example(partial(transformed.apply, params), transformed.apply, params, call)


OTHERS: dict[str, Callable[[], Example]] = {
    "equinox_mlp": lambda: equinox(lambda key: eqx.nn.MLP(8, CLASSES, WIDTH, 2, key=key), Call(vectors(8))),
    "equinox_cnn": lambda: equinox(EqxCnn, Call(image(12).transpose(0, 3, 1, 2).copy())),
    "equinox_transformer": lambda: equinox(EqxTransformer, Call(vectors(LENGTH, 4), third=TRANSFORMER)),
    "function": lambda: bare(Call(vectors(8))),
    "haiku": lambda: haiku(Call(image(8))),
}
