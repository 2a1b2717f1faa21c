"""What the models of the zoo share: examples, weights that hide nothing, and the inputs they are called with."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

CLASSES, VOCABULARY, WIDTH, LENGTH, ROWS = 3, 24, 16, 6, 2
HEADS, HEAD, HIDDEN = 2, WIDTH // 2, 2 * WIDTH
PLAIN, TRANSFORMER = "lrp-epsilon-plus", "attnlrp"


@dataclass(frozen=True)
class Sizes:
    """Sizes of a transformer; `queries` is the number of heads where several share a key and a value."""

    width: int = WIDTH
    heads: int = 2
    head: int = WIDTH // 2
    queries: int = 4
    hidden: int = 2 * WIDTH
    layers: int = 2
    vocabulary: int = VOCABULARY
    places: int = 16


TINY = Sizes()


@dataclass(frozen=True)
class Call:
    """How a model of the zoo is called and explained, whichever library it is written with.

    Attributes:
        inputs: What its user passes: an array, a tuple of positional arguments, or a mapping of keyword arguments.
        third: The mode it is explained in besides the default and the contrastive one.
        settings: Of every explanation.
    """

    inputs: Any
    third: str = PLAIN
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Example:
    """A model, what is explained, and the model as a pure function of its weights, independent of any importer."""

    model: Any
    function: Callable[..., Any]
    weights: Any
    call: Call

    def answer(self, weights: Any = None) -> jax.Array:
        """What the model itself answers, with its own weights or these."""
        args, kwargs = arguments(self.call.inputs)
        return self.function(self.weights if weights is None else weights, *args, **kwargs)


def arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The call that these inputs stand for."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (inputs if isinstance(inputs, tuple) else (inputs,)), {}


def drawn(path: str, shape: tuple[int, ...], dtype: Any) -> Any:
    """A weight that is no identity, of the size that keeps activations in bounds; the same for the same path."""
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return jax.random.key(0)
    words = re.findall("[^_.]+", path)  # both APIs of Flax have the same, `blocks.0` and `blocks_0`
    generator, last = np.random.default_rng(zlib.crc32("/".join(words).encode())), words[-1]
    if not jnp.issubdtype(dtype, jnp.floating):
        return jnp.zeros(shape, dtype)
    if last in ("scale", "var", "gamma"):
        values = generator.uniform(0.5, 1.5, shape)
    elif len(shape) < 2 or last in ("bias", "mean"):
        values = generator.normal(0, 0.2, shape)
    else:
        values = generator.normal(0, 1.0 if last == "embedding" else np.prod(shape[:-1]) ** -0.5, shape)
    return jnp.asarray(values.astype(dtype))


def doubled(tree: Any) -> Any:
    """Weights in double precision."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float64) if _is_float(x) else x, tree)


def _is_float(x: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.floating)


def image(size: int = 16, channels: int = 3) -> np.ndarray:
    """Two pictures, channels last."""
    return np.random.default_rng(1).normal(size=(ROWS, size, size, channels)).astype(np.float32)


def vectors(*shape: int) -> np.ndarray:
    """Two examples of this shape."""
    return np.random.default_rng(2).normal(size=(ROWS, *shape)).astype(np.float32)


def tokens(length: int = LENGTH, seed: int = 3) -> np.ndarray:
    """Two rows of token ids."""
    return np.random.default_rng(seed).integers(1, VOCABULARY, (ROWS, length)).astype(np.int32)


MASK = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]], np.int32)
SEGMENTS = np.array([[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 0, 0]], np.int32)
NEXT: dict[str, Any] = {"task": "next-token"}
SEGMENTATION: dict[str, Any] = {"task": "multi-class-segmentation", "class_axis": -1}
SENTENCE = {"input_ids": tokens() * MASK, "attention_mask": MASK, "token_type_ids": SEGMENTS}
TRANSLATION = {"input_ids": tokens() * MASK, "attention_mask": MASK, "decoder_input_ids": tokens(4, seed=5)}


def rotated(x: jax.Array) -> jax.Array:
    """Queries or keys [batch, time, heads, size] turned by an angle that grows with the position."""
    half = x.shape[-1] // 2
    angles = np.arange(x.shape[1])[:, None] * 10000.0 ** (-np.arange(half) / half)
    sine, cosine = (jnp.asarray(values[:, None], x.dtype) for values in (np.sin(angles), np.cos(angles)))
    low, high = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([low * cosine - high * sine, high * cosine + low * sine], -1)


def buckets(length: int, *, both: bool, count: int = 8, farthest: int = 16) -> np.ndarray:
    """Number of the bucket that the distance of two tokens falls into, as T5 counts them."""
    distance = np.arange(length)[None] - np.arange(length)[:, None]
    half = count // 2 if both else count
    behind = np.where(distance > 0, half, 0) if both else 0
    distance = np.abs(distance) if both else np.maximum(-distance, 0)
    exact = half // 2
    far = np.log(np.maximum(distance, 1) / exact) / np.log(farthest / exact) * (half - exact)
    return behind + np.where(distance < exact, distance, np.minimum(exact + far.astype(int), half - 1))


PARTS: dict[str, dict[str, tuple[str, ...]]] = {
    "mlp": {"layers.*": ("0", "1", "2")},
    "vit": {"blocks.0.attn*": ("", ".query", ".key", ".value", ".out")},
}
"""By model: patterns of layers, and the ends of the names that each of them stands for."""
