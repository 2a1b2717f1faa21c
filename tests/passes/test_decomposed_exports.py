"""Files whose exporter writes operators out are explained as those that have them whole."""

from __future__ import annotations

import numpy as np
import pytest

from backtrace_jax import explain
from backtrace_jax.importers import read
from backtrace_jax.passes import simplify
from tests.zoo import exported

MODELS = [  # an older export, beside the usual one
    ("bert", {"exporter": "torchscript", "opset": 11}, {}),
    ("vit", {"exporter": "torchscript", "opset": 11}, {}),
    ("gpt", {"exporter": "torchscript", "opset": 17}, {}),
    ("vit_mha", {"exporter": "torchscript", "opset": 17}, {}),
    ("llama", {"opset": 18}, {"task": "next-token"}),
]
_WRITTEN_OUT = {"erf", "rsqrt", "sqrt", "integer_pow", "reduce_mean", "pow", "reciprocal"}


@pytest.mark.parametrize(("name", "older", "settings"), MODELS, ids=[model[0] for model in MODELS])
def test_relevance_equals_that_of_the_whole_operators(name, older, settings):
    old, new = exported(name, **older), exported(name)
    assert len(old.model.graph.node) > len(new.model.graph.node)
    found, expected = (explain(model.model, model.inputs, **settings) for model in (old, new))
    assert found.ledger.error.max() <= 1e-5
    for key, relevance in expected.relevance.items():
        size = np.abs(relevance).max()
        np.testing.assert_allclose(found.relevance[key], relevance, rtol=1e-5, atol=1e-5 * size)


@pytest.mark.parametrize(("name", "older"), [(name, older) for name, older, _ in MODELS], ids=[m[0] for m in MODELS])
def test_nothing_stays_written_out(name, older):
    model = exported(name, **older)
    shapes = {key: (1, *array.shape[1:]) for key, array in model.inputs.items()}
    graph = simplify(read(model.model).lower(shapes)).graph
    assert not _WRITTEN_OUT & {eqn.op for eqn in graph.eqns}
