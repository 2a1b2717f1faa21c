"""Every kind of JAX model is told, called as its user calls it, in evaluation mode, and left as it is."""

import numpy as np
import pytest

from backtrace_jax import explain

from . import kinds

MODELS = kinds.models()


@pytest.mark.parametrize("kind", MODELS)
def test_every_kind_of_model_is_explained(kind):
    found = explain(MODELS[kind], kinds.X, mode="gradient", target=1)
    np.testing.assert_allclose(found.outputs["output"], kinds.answer(kinds.X), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.relevance["x"], kinds.gradient(kinds.X, 1), rtol=1e-5, atol=1e-6)
