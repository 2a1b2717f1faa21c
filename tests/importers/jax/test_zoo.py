"""Models of true block structure, in every library written in JAX, are explained as their users have them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from backtrace_jax import explain

from .zoo import PARTS, Example, arguments, doubled
from .zoo_linen import PICTURES as LINEN_PICTURES
from .zoo_linen_text import SEQUENCES as LINEN_SEQUENCES
from .zoo_nnx import PICTURES as NNX_PICTURES
from .zoo_nnx_text import SEQUENCES as NNX_SEQUENCES
from .zoo_others import OTHERS

CLOSE, ROUNDING = 1e-5, 1e-5
_NUMBER = r"\.(?=[\d*?])"
NNX, LINEN = {**NNX_PICTURES, **NNX_SEQUENCES}, {**LINEN_PICTURES, **LINEN_SEQUENCES}
ZOO = {
    **{f"nnx-{name}": make for name, make in NNX.items()},
    **{f"linen-{name}": make for name, make in LINEN.items()},
    **OTHERS,
}
TWIN = "linen-"
"""Models that are in nnx as well, with the same weights: what costs time is proven there."""


def _apart(ours: Any, theirs: Any) -> float:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    return np.inf if ours.shape != theirs.shape else float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def _state(model: Any) -> list[Any]:
    """Everything of a model: its structure with all settings, and its numbers."""
    if isinstance(model, nnx.Module):
        definition, state = nnx.split(model)
        return [definition, *_numbers(state)]
    return [jax.tree.structure(model), *_numbers(model)]


def _numbers(tree: Any) -> list[Any]:
    leaves = [jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
              for x in jax.tree.leaves(tree) if isinstance(x, jax.Array)]  # fmt: skip
    return [(str(x.dtype), x.shape, np.asarray(x).tobytes()) for x in leaves]


@pytest.mark.parametrize("name", ZOO)
def test_models_are_explained(name):
    example = ZOO[name]()
    model, inputs, settings = example.model, example.call.inputs, example.call.settings
    parts = parts_of(name)
    before, expected = _state(model), example.answer()
    modes = ("default", "contrastive") if not name.startswith(TWIN) else ()  # those of the same model in nnx
    for mode in (*modes, example.call.third):
        found = explain(model, inputs, mode=mode, layers=[*parts] or None, **settings)
        assert _apart(found.outputs[found.output], expected) <= CLOSE
        books = [found.ledger, *(channel.ledger for channel in found.channels.values())]
        assert max(each.error.max() for each in books) <= ROUNDING
        assert all(np.isfinite(values).all() for values in found.relevance.values())
        assert any(np.abs(values).max() > 0 for values in found.relevance.values())
    assert {*found.layers} == {each for names in parts.values() for each in names}
    alone = explain(model, _last(inputs), mode=mode, layers=[*parts] or None, **settings)
    for name, values in alone.relevance.items():
        assert _apart(values, found.relevance[name][-1:]) <= CLOSE, name
    assert _state(model) == before


def _last(inputs: Any) -> Any:
    """The last example of a batch."""
    args, kwargs = arguments(inputs)
    return {name: values[-1:] for name, values in kwargs.items()} or tuple(values[-1:] for values in args)


def parts_of(name: str) -> dict[str, list[str]]:
    """Patterns of layers of a model, and what each of them stands for, as its API writes paths."""
    api, _, model = name.partition("-")
    found = {each: [each.partition("*")[0] + end for end in ends] for each, ends in PARTS.get(model or api, {}).items()}
    if api != "linen":
        return found
    return {re.sub(_NUMBER, "_", each): [re.sub(_NUMBER, "_", part) for part in parts] for each, parts in found.items()}


@pytest.mark.parametrize("name", [name for name in ZOO if not name.startswith(TWIN)])
def test_gradients_are_those_of_jax(name):
    example = ZOO[name]()
    start = np.random.default_rng(0).normal(size=example.answer().shape)
    mode = "gradient-x-input" if _has_tokens(example) else "gradient"
    found = explain(example.model, example.call.inputs, mode=mode, start=start, dtype="float64").relevance
    with jax.enable_x64(True):
        expected = _gradients(example, start)
    assert expected
    for each, values in found.items():
        assert _apart(values, expected[each]) <= CLOSE if each in expected else not values.any(), each


def _gradients(example: Example, start: np.ndarray) -> dict[str, np.ndarray]:
    """JAX's own gradients of the function in double precision, by input.

    Of tokens, the gradients of their rows times these rows, summed: a norm behind the table makes the sum of the
    gradients alone zero.
    """
    args, kwargs = arguments(example.call.inputs)
    given = [jnp.asarray(x, jnp.float64 if x.dtype.kind == "f" else x.dtype) for x in (*args, *kwargs.values())]
    tokens = [jnp.issubdtype(x.dtype, jnp.integer) for x in given]
    weights = doubled(example.weights)

    def answer(shifts: list[jax.Array]) -> jax.Array:
        moved = [x if whole else x + shift for x, shift, whole in zip(given, shifts, tokens, strict=True)]
        with _rows_scaled(list(zip(given, shifts, strict=True))):
            found = example.function(weights, *moved[: len(args)], **dict(zip(kwargs, moved[len(args) :], strict=True)))
        assert found.dtype == jnp.float64
        return jnp.sum(found * start)

    zeros = [jnp.zeros((*x.shape, 1) if whole else x.shape) for x, whole in zip(given, tokens, strict=True)]
    found = jax.jit(jax.grad(answer))(zeros)
    names = list(kwargs) or [_first_parameter(example.model)]
    shaped = {name: np.asarray(each).reshape(x.shape) for name, each, x in zip(names, found, given, strict=True)}
    return {name: values for name, values in shaped.items() if values.any()}


def _first_parameter(model: Any) -> str:
    module = model[0] if isinstance(model, tuple) else model
    called = module if isinstance(module, partial) else type(module).__call__
    names = list(inspect.signature(called).parameters)
    return names[0] if isinstance(module, partial) else names[1]


def _has_tokens(example: Example) -> bool:
    args, kwargs = arguments(example.call.inputs)
    return any(each.dtype.kind == "i" for each in (*args, *kwargs.values()))


@contextmanager
def _rows_scaled(scales: list[tuple[jax.Array, jax.Array]]) -> Iterator[None]:
    """What is looked up for one of these arrays of tokens is scaled by 1 and a little more."""

    def scaled(lookup: Any) -> Any:
        def rows(embed: Any, ids: Any) -> Any:
            return lookup(embed, ids) * (1 + sum(scale for tokens, scale in scales if tokens is ids))

        return rows

    with ExitStack() as stack:
        for kind in (nnx.Embed, linen.Embed):
            stack.enter_context(patch.object(kind, "__call__", scaled(kind.__call__)))
        yield
