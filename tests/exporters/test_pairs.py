"""Exporters side by side: whatever way a network's weights come, the relevance is that of the torch module's import.

Ways that come down to the same operations on the same weights need no computation. Of the others the relevance is
computed, for each network in the mode whose turn it is; docs/exporters.md has all modes.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from backtrace_jax.onnx_backend import run_model
from tests.spellings.comparing import MODES

from .pairs import EQUAL, REFERENCE, SHAPES, apart, kin, ways
from .weights import example, recorded

FILES = ("tf2onnx", "jax2onnx", "onnxsim")


@pytest.mark.parametrize("name", SHAPES)
def test_the_recorded_files_compute_what_torch_computes(name):
    import torch

    from .modules import build

    wanted = build(name)(torch.tensor(example(name))).numpy()
    for exporter in FILES:
        model = onnx.load(recorded(name, exporter))
        kind = onnx.helper.tensor_dtype_to_np_dtype(model.graph.input[0].type.tensor_type.elem_type)
        (found,) = run_model(model, {model.graph.input[0].name: example(name).astype(kind)})
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SHAPES)
def test_one_network_has_one_relevance(name):
    others = [way for way in ways(name) if kin(name, way) != REFERENCE]
    mode = MODES[list(SHAPES).index(name) % len(MODES)]
    found = {way: apart(name, way, mode) for way in others}
    assert all(each <= EQUAL for each in found.values()), (mode, found)
