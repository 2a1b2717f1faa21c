"""One network, two linear maps around a ReLU, as every kind of JAX model; and its gradient, worked out by hand."""

from __future__ import annotations

import functools
from typing import Any

import equinox
import haiku
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from flax.training import train_state

_NUMBERS = np.random.default_rng(3)
FIRST, SHIFT, SECOND = (_NUMBERS.normal(size=size).astype(np.float32) for size in ((4, 5), (5,), (5, 3)))
X = _NUMBERS.normal(size=(2, 4)).astype(np.float32)


def answer(x: np.ndarray) -> np.ndarray:
    return np.maximum(x @ FIRST + SHIFT, 0) @ SECOND


def gradient(x: np.ndarray, target: int) -> np.ndarray:
    return (x @ FIRST + SHIFT > 0) * SECOND[:, target] @ FIRST.T


class Nnx(nnx.Module):
    """Dropout and normalisation with statistics of 0 and 1 do nothing in evaluation."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.layers = nnx.List([nnx.Linear(4, 5, rngs=rngs), nnx.Linear(5, 3, use_bias=False, rngs=rngs)])
        self.layers[0].kernel[...], self.layers[0].bias[...] = FIRST, SHIFT
        self.layers[1].kernel[...] = SECOND
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.norm = nnx.BatchNorm(5, epsilon=0.0, use_scale=False, use_bias=False, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.layers[1](self.dropout(jax.nn.relu(self.norm(self.layers[0](x)))))


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        hidden = linen.BatchNorm(
            use_running_average=not train, epsilon=0.0, use_scale=False, use_bias=False, name="norm"
        )(linen.Dense(5, name="first")(x))
        return linen.Dense(3, use_bias=False, name="second")(
            linen.Dropout(0.5, deterministic=not train)(jax.nn.relu(hidden))
        )


VARIABLES = {
    "params": {"first": {"kernel": jnp.asarray(FIRST), "bias": SHIFT}, "second": {"kernel": SECOND}},
    "batch_stats": {"norm": {"mean": np.zeros(5, np.float32), "var": np.ones(5, np.float32)}},
}


class State(train_state.TrainState):
    batch_stats: Any = None


class Equinox(equinox.Module):
    first: equinox.nn.Linear
    second: equinox.nn.Linear
    dropout: equinox.nn.Dropout

    def __init__(self) -> None:
        key = jax.random.key(0)
        first, second = equinox.nn.Linear(4, 5, key=key), equinox.nn.Linear(5, 3, use_bias=False, key=key)
        self.first = equinox.tree_at(lambda each: (each.weight, each.bias), first, (FIRST.T, SHIFT))
        self.second = equinox.tree_at(lambda each: each.weight, second, SECOND.T)
        self.dropout = equinox.nn.Dropout(0.5)

    def __call__(self, x: Any, *, key: Any = None) -> Any:
        return self.second(self.dropout(jax.nn.relu(self.first(x)), key=key))


class Stateful(equinox.Module):
    inner: Equinox
    norm: equinox.nn.BatchNorm

    def __init__(self) -> None:
        self.inner = Equinox()
        self.norm = equinox.nn.BatchNorm(4, "batch", eps=0.0, channelwise_affine=False, mode="ema")

    def __call__(self, x: Any, state: Any) -> Any:
        x, state = self.norm(x, state)
        return self.inner(x), state


def stateful() -> tuple[Any, Any]:
    model, state = equinox.nn.make_with_state(Stateful)()
    zeros_and_ones = (np.zeros(4, np.float32), np.ones(4, np.float32))
    return model, state.set(model.norm.ema_state_index, zeros_and_ones).set(
        model.norm.ema_first_time_index, np.asarray(False)
    )


PARAMS = {"mlp/~/first": {"w": FIRST, "b": SHIFT}, "mlp/~/second": {"w": SECOND}}


class Mlp(haiku.Module):
    def __init__(self) -> None:
        super().__init__(name="mlp")
        self.first, self.second = haiku.Linear(5, name="first"), haiku.Linear(3, with_bias=False, name="second")

    def __call__(self, x: Any) -> Any:
        return self.second(jax.nn.relu(self.first(x)))


def by_haiku(x: Any) -> Any:
    return Mlp()(x)


def by_haiku_with_state(x: Any) -> Any:
    scale = haiku.get_state("scale", (), init=jnp.ones)
    haiku.set_state("scale", scale + 1)
    return Mlp()(x * scale)


def of_weights(weights: Any, x: Any) -> Any:
    hidden = jax.nn.relu(x @ weights["layers"][0]["kernel"] + weights["layers"][0]["bias"])
    return hidden @ weights["layers"][1]["kernel"]


WEIGHTS = {"layers": [{"kernel": FIRST, "bias": SHIFT}, {"kernel": SECOND}]}


def function(x: Any) -> Any:
    return of_weights(WEIGHTS, x)


def of_one(x: Any) -> Any:
    return function(x[None])[0]


def of_one_tree(batch: Any) -> Any:
    return function(batch["a"]) + 2 * function(batch["b"])


class Callable:
    def __init__(self) -> None:
        self.weights = WEIGHTS

    def __call__(self, x: Any) -> Any:
        return of_weights(self.weights, x)

    def method(self, x: Any) -> Any:
        return self(x)


def models() -> dict[str, Any]:
    linen_module, transformed = Linen(), haiku.transform(by_haiku)
    with_state = haiku.transform_with_state(by_haiku_with_state)
    state = {"~": {"scale": np.ones((), np.float32)}}
    nothing = train_state.optax.identity()
    return {
        "nnx": Nnx(),
        "nnx method": Nnx().__call__,
        "linen pair": (linen_module, VARIABLES),
        "linen partial": functools.partial(linen_module.apply, VARIABLES, train=False, mutable=False),
        "linen bound": linen_module.bind(VARIABLES),
        "linen bound method": linen_module.bind(VARIABLES).__call__,
        "train state": State.create(apply_fn=linen_module.apply, tx=nothing, **VARIABLES),
        "equinox": Equinox(),
        "equinox method": Equinox().__call__,
        "equinox with state": stateful(),
        "haiku pair": (transformed, PARAMS),
        "haiku without keys": (haiku.without_apply_rng(transformed), PARAMS),
        "haiku partial": functools.partial(transformed.apply, PARAMS),
        "haiku partial with key": functools.partial(transformed.apply, PARAMS, None),
        "haiku with state": (with_state, PARAMS, state),
        "haiku partial with state": functools.partial(with_state.apply, PARAMS, state, None),
        "function": function,
        "jitted": jax.jit(function),
        "vmapped": jax.vmap(of_one),
        "partial": functools.partial(of_weights, WEIGHTS),
        "tree partial": jax.tree_util.Partial(of_weights, WEIGHTS),
        "object": Callable(),
        "method": Callable().method,
        "jitted method": jax.jit(Callable().method),
    }


SAME = {
    "linen pair": ("first", "second"),
    "equinox": ("first", "second"),
    "nnx": ("layers.0", "layers.1"),
    "haiku pair": ("mlp.first", "mlp.second"),
}
"""Paths of the two maps, by kind of model."""
