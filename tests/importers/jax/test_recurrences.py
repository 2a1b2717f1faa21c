"""A recurrent layer is one thing, whatever wrote it: relevance is that of ONNX's own layer with the same weights."""

from __future__ import annotations

from functools import cache

import flax.linen as nn
import numpy as np
import pytest

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


def test_time_may_come_first():
    layer, params = nn.RNN(nn.SimpleCell(cells.STATE), time_major=True), cells.linen("RNN")
    check(cells.headed(lambda x: layer.apply({"params": params}, x.swapaxes(0, 1)).swapaxes(0, 1)), "RNN")
