"""Modules and layers that are called several times: every call has its own relevance and can be asked for."""

from __future__ import annotations

import os

import numpy as np
import pytest

from backtrace_jax import Explainer, SettingError, explain
from tests.tiny import random

os.environ.setdefault("KERAS_BACKEND", "jax")
torch, keras = pytest.importorskip("torch"), pytest.importorskip("keras")


class Shared(torch.nn.Module):
    """One block three times, its rectifier too, and a head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.block = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh())
        self.relu, self.head = torch.nn.ReLU(), torch.nn.Linear(4, 3)

    def forward(self, x):
        x = self.relu(self.block(self.block(x)))
        return self.head(self.relu(x - self.block(x)))


@pytest.fixture(scope="module")
def shared():
    return Shared().eval()


def outputs_of_calls(module, name, x):
    """What a submodule returned, call by call."""
    found = []
    handle = module.get_submodule(name).register_forward_hook(lambda *call: found.append(call[2].detach().numpy()))
    module(torch.from_numpy(x))
    handle.remove()
    return found


ROWS = random(2, 4, seed=5)


def test_layers_and_outputs_by_call_of_a_torch_module(shared):
    found = Explainer(shared, example=ROWS, layers=["block", "relu", "head"])(ROWS)
    assert list(found.layers) == ["block", "block:1", "block:2", "relu", "relu:1", "head"]
    with pytest.raises(SettingError, match=r"module 'block' is called 3 times; .*block:0, block:1, block:2"):
        explain(shared, ROWS, output="block")
    for number, value in enumerate(outputs_of_calls(shared, "block", ROWS)):
        name = f"block:{number}"
        inner = explain(shared, ROWS, output=name, target=1)
        np.testing.assert_allclose(inner.outputs[inner.output], value, rtol=1e-5)


def test_conditions_by_call_of_a_torch_module(shared):
    call = Explainer(shared, example=ROWS, layers="block")
    whole = call(ROWS).layers
    with pytest.raises(SettingError, match="block:0, block:1, block:2"):
        call(ROWS, conditions={"block": [0]})
    kept = call(ROWS, conditions={"block:2": [1, 3]}).layers
    np.testing.assert_array_equal(kept["block:2"][:, [1, 3]], whole["block:2"][:, [1, 3]])
    assert not kept["block:2"][:, [0, 2]].any()
    assert whole["block:2"][:, [0, 2]].any()


def test_layers_and_channels_of_a_keras_model():
    inputs = keras.Input((5, 5, 2))
    conv, again = (keras.layers.Conv2D(4, size, name=name) for size, name in ((2, "conv"), (1, "again")))
    x = again(again(conv(inputs)))
    outputs = keras.layers.Dense(3, name="out")(keras.layers.GlobalAveragePooling2D()(x))
    call = Explainer(keras.Model(inputs, outputs), layers=["again", "conv"])
    pictures = random(2, 5, 5, 2, seed=6)
    whole = call(pictures).layers
    assert list(whole) == ["again", "again:1", "conv"]
    kept = call(pictures, conditions={"conv": [0, 3]}).layers["conv"]
    np.testing.assert_array_equal(kept[..., [0, 3]], whole["conv"][..., [0, 3]])
    assert not kept[..., [1, 2]].any()
    with pytest.raises(SettingError, match=r"'again' is called 2 times; .*again:0, again:1"):
        call(pictures, conditions={"again": [0]})
