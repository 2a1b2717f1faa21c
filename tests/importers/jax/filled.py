"""Flax modules with drawn parameters, without anything compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

Modules = tuple[Any, Any]


def _drawn(tree: Any) -> Any:
    """Arrays of these types: a half and more, so that variances are none below 0."""
    generator = np.random.default_rng(5)
    return jax.tree.map(lambda leaf: generator.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype), tree)


def linen_module(module: Any, *examples: np.ndarray) -> Modules:
    """A Flax linen module with variables."""
    return module, _drawn(jax.eval_shape(module.init, jax.random.key(0), *examples))


def nnx_module(build: Callable[[nnx.Rngs], Any]) -> Any:
    """A Flax nnx module."""
    definition, parameters, rest = nnx.split(
        nnx.eval_shape(lambda: build(nnx.Rngs(0))), (nnx.Param, nnx.BatchStat), ...
    )
    return nnx.merge(definition, _drawn(parameters), jax.tree.map(_key, rest))


def _key(leaf: Any) -> Any:
    if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key(0)
    return np.zeros(leaf.shape, leaf.dtype)
