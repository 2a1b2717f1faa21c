"""A recurrent layer is one thing, whatever wrote it: relevance is that of ONNX's own layer with the same weights."""

from __future__ import annotations

from functools import cache

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from backtrace_jax import explain
from backtrace_jax.importers import read
from backtrace_jax.passes import simplify, with_float_type
from tests.exporters.pairs import relevance
from tests.passes.graphs import operations
from tests.spellings.comparing import difference

from . import cells
from .lowered import simplified

X = {"x": cells.x.astype(np.float64)}
FAMILY = ("default", "lrp-epsilon-plus", "attnlrp")
EQUAL = 1e-12


@cache
def wanted(mode, *layer):
    """Relevance of ONNX's own layer in float64."""
    imported = read(cells.onnx_model(*layer))
    program = simplify(with_float_type(imported.lower({"x": cells.x.shape}), np.dtype(np.float64)))
    return relevance(program, X, mode)


def check(model, *layer, modes=("default",)):
    program = simplified(model, cells.x)
    assert "scan" in operations(program)
    for mode in modes:
        assert difference(relevance(program, X, mode), wanted(mode, *layer)) < EQUAL


@pytest.mark.parametrize("kind", cells.GATES)
def test_layers_of_linen_are_those_of_onnx(kind):
    check(cells.in_linen(kind), kind, modes=FAMILY)


MODELS = {
    "linen, plain LSTM": (lambda: cells.in_linen("LSTM", nn.LSTMCell), "LSTM"),
    "linen, backwards": (lambda: cells.in_linen("GRU", reverse=True, keep_order=True), "GRU", "reverse"),
    "linen, bidirectional": (lambda: cells.bidirectional("GRU"), "GRU", "bidirectional"),
    "linen, lengths": (lambda: cells.of_length("LSTM", 3), "LSTM", "forward", 3),
    "nnx, LSTM": (lambda: cells.in_nnx("LSTM"), "LSTM"),
    "nnx, RNN": (lambda: cells.in_nnx("RNN"), "RNN"),
    "Equinox, LSTM": (lambda: cells.in_equinox("LSTM"), "LSTM"),
    "Equinox, GRU": (lambda: cells.in_equinox("GRU"), "GRU"),
    "haiku, LSTM": (cells.in_haiku, "LSTM"),
    **{f"by hand, {name}": (lambda model=model: model, "LSTM") for name, model in cells.spellings().items()},
}


@pytest.mark.parametrize("name", MODELS)
def test_layers_of_all_libraries_are_those_of_onnx(name):
    model, *layer = MODELS[name]
    check(model(), *layer)


def test_a_map_that_an_activation_reads_alone_stays_with_it():
    """One that the state's sum reads is in front of the loop, where steps written out have it as well."""
    W, U = cells.drawn(5, cells.FEATURES, cells.STATE), cells.drawn(6, cells.FEATURES, cells.STATE)

    def step(h, entry):
        h = h * jnp.tanh(entry @ W * 9) + entry @ U
        return h, h

    def written_out(x):
        h = x[:, 0] @ U
        for t in range(cells.STEPS):
            h, _ = step(h, x[:, t])
        return h @ cells.head()[: cells.STATE]

    def over_time(x):
        return lax.scan(step, x[:, 0] @ U, jnp.swapaxes(x, 0, 1))[0] @ cells.head()[: cells.STATE]

    found = simplified(over_time, cells.x)
    (scan,) = (eqn for eqn in found.graph.eqns if eqn.op == "scan")
    assert [eqn.op for eqn in scan.params["body"].eqns].count("matmul") == 1
    assert operations(found).count("matmul") == 3
    expected = relevance(simplified(written_out, cells.x), X, "default")
    assert difference(relevance(found, X, "default"), expected) < EQUAL


def test_time_may_come_first():
    layer, params = nn.RNN(nn.SimpleCell(cells.STATE), time_major=True), cells.linen("RNN")
    check(cells.headed(lambda x: layer.apply({"params": params}, x.swapaxes(0, 1)).swapaxes(0, 1)), "RNN")


def test_what_is_the_same_for_all_examples_of_a_loop_may_be_copied_for_each():
    bias = np.arange(cells.FEATURES, dtype=np.float32)

    def model(x):
        def step(h, entry):
            return jnp.tanh(h + entry + jnp.broadcast_to(bias, entry.shape)), None

        return lax.scan(step, jnp.zeros_like(x[:, 0]), jnp.swapaxes(x, 0, 1))[0]

    found = explain(model, cells.x, target=1)
    assert found.ledger.error.max() < 1e-5
    np.testing.assert_array_equal(found.relevance["x"][:, :, [0, 2]], 0)


def test_layers_of_a_stack_are_named_and_explained_one_by_one():
    class Stack(nnx.Module):
        def __init__(self, rngs):
            @nnx.split_rngs(splits=3)
            @nnx.vmap(in_axes=(0,), out_axes=0)
            def made(rngs):
                return nnx.Linear(cells.FEATURES, cells.FEATURES, rngs=rngs)

            self.layers = made(rngs)

        def __call__(self, x):
            return nnx.scan(lambda layer, x: nnx.relu(layer(x)), in_axes=(0, nnx.Carry), out_axes=nnx.Carry)(
                self.layers, x
            )

    found = explain(Stack(nnx.Rngs(0)), cells.x[:, 0], target=1, layers="layers.*")
    assert {"layers.0", "layers.1", "layers.2"} <= set(found.layers)
    for i in range(3):
        np.testing.assert_allclose(found.layers[f"layers.{i}"].sum(), 2, rtol=0.5)
