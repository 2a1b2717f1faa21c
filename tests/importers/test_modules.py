"""Modules of files that torch's older exporter wrote: scopes in the names of nodes, told by the names of parameters."""

from __future__ import annotations

import io
import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from backtrace_jax import Explainer, SettingError, explain
from backtrace_jax.importers.onnx.modules import scopes_told


def told(*nodes, parameters):
    """Of nodes as (name, operator, operand)."""
    made = [
        helper.make_node(op_type, [operand], [f"y{i}"], name=name) for i, (name, op_type, operand) in enumerate(nodes)
    ]
    tensors = [numpy_helper.from_array(np.zeros(1, np.float32), name) for name in parameters]
    found = scopes_told(helper.make_graph(made, "g", [], [], tensors))
    return {"/".join(scopes): module for scopes, module in found.items()}


@pytest.mark.parametrize(
    ("name", "parameter", "expected"),
    [
        ("/fc/Gemm", "fc.weight", {"fc": "fc"}),
        ("/fc/Add_3", "fc.bias", {"fc": "fc"}),
        ("/conv_1/Conv", "conv_1.weight", {"conv_1": "conv_1"}),
        ("/conv_1/Conv", "conv.weight", {"conv_1": "conv"}),
        ("/a/a.0/b/Conv", "a.0.b.weight", {"a": "a", "a/a.0": "a.0", "a/a.0/b": "a.0.b"}),
        ("/a/a.0/b/Conv", "a.a.0.b.weight", {"a": "a", "a/a.0": "a.a.0", "a/a.0/b": "a.a.0.b"}),
        ("/h.1/h.1.0/Conv", "m.h.1.0.weight", {}),
        (
            "/body/h.1/h.1.0/Conv",
            "body.h.1.0.weight",
            {"body": "body", "body/h.1": "body.h.1", "body/h.1/h.1.0": "body.h.1.0"},
        ),
        ("/key/Conv", "dict.key.weight", {}),
        ("/head/Gemm", "embed.weight", {}),
        ("/fc/Other", "fc.weight", {}),
        ("fc/Gemm", "fc.weight", {}),
        ("/Gemm", "weight", {}),
        (f"{'/a' * 9999}/Gemm", f"{'a.' * 9999}weight", {}),
        ("", "fc.weight", {}),
    ],
)
def test_scopes_are_told_where_they_fit_in_one_way(name, parameter, expected):
    op_type = name.rpartition("/")[2].split("_")[0].replace("Other", "Gemm") or "Gemm"
    assert told((name, op_type, parameter), parameters=[parameter]) == expected


def test_scopes_that_stand_for_two_modules_are_not_told():
    nodes = [("/fc_1/Gemm", "Gemm", "fc_1.weight"), ("/fc_1/Gemm_1", "Gemm", "fc.weight")]
    assert told(*nodes, parameters=["fc_1.weight", "fc.weight"]) == {}


class Block(nn.Module):
    """A residual block, whose value is the sum behind its layers."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.act = nn.Linear(4, 4), nn.Linear(4, 4), nn.Tanh()

    def forward(self, x):
        return x + self.second(self.act(self.first(x)))


class Network(nn.Module):
    """Blocks in a Sequential, in a list of a module of the same name, and in a dict, on [batch, steps, features]."""

    def __init__(self):
        super().__init__()
        self.front = nn.Sequential(Block(), nn.Sequential(nn.ReLU(), Block()))
        self.layer = nn.Module()
        self.layer.layer = nn.ModuleList([Block(), Block()])
        self.layer.forward = self._listed
        self.parts, self.head = nn.ModuleDict({"last": Block()}), nn.Linear(4, 3)

    def _listed(self, x):
        for block in self.layer.layer:
            x = block(x)
        return torch.tanh(x)

    def forward(self, x):
        return self.head(self.parts["last"](self.layer(self.front(x))).mean(1))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    return Network().double().eval()


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(4).standard_normal((2, 3, 4))


@pytest.fixture(scope="module")
def file(network, x):
    written = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, torch.tensor(x[:1]), written, dynamo=False, opset_version=17, input_names=["x"],
            dynamic_axes={"x": {0: "batch"}},
        )  # fmt: skip
    return onnx.load_model_from_string(written.getvalue())


LAYERS = ("front", "front.0", "front.0.first", "front.1", "front.1.1", "layer", "layer.layer.0", "layer.layer.1.second")


def test_modules_of_a_file_are_those_of_the_module(network, file, x):
    """Relevance of layers, blocks and containers, in float64, as the module itself gives it."""
    settings = {"layers": LAYERS, "dtype": "float64", "mode": "lrp-epsilon"}
    found, wanted = explain(file, x, **settings), explain(network, torch.tensor(x), **settings)
    np.testing.assert_allclose(found.relevance["x"], wanted.relevance["x"], rtol=1e-6, atol=1e-9)
    for name in LAYERS:
        np.testing.assert_allclose(found.layers[name], wanted.layers[name], rtol=1e-6, atol=1e-9, err_msg=name)
        assert np.abs(found.layers[name]).max() > 1e-3


def test_modules_of_a_file_are_explained_and_restricted(network, file, x):
    for asked in ({"conditions": {"front.0": [1, 3]}}, {"conditions": {"layer.layer.0": [0]}}):
        found, wanted = (
            Explainer(model, example=example, dtype="float64")(given, **asked).relevance["x"]
            for model, example, given in ((file, None, x), (network, torch.tensor(x), torch.tensor(x)))
        )
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-9)


def test_a_module_that_is_not_told_is_refused(file, x):
    """The value of a block in a dict is none of those inside it."""
    with pytest.raises(SettingError, match=r"'parts\.last'"):
        explain(file, x, output="parts.last", target=(0, 0))
