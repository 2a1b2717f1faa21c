"""Torch modules are explained as they are: imported, proven, left alone, and their modules keep their names."""

from __future__ import annotations

import copy
import gc
import subprocess
import sys
import weakref
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from backtrace_jax import Explainer, explain
from backtrace_jax.errors import (
    ImportMismatchError,
    InputError,
    MixedExamplesError,
    RelevanceWarning,
    SettingError,
    UnsupportedError,
)
from backtrace_jax.importers import read
from backtrace_jax.importers.pytorch import exporters, is_module, reading
from backtrace_jax.importers.pytorch.answers import Reading, answers
from tests.importers.pytorch_zoo import EXPERTS, MODELS, Bag, Example, build

CLOSE = 1e-4
ROUNDING = 1e-5


def _called(example: Example) -> dict[str, np.ndarray]:
    """What the module itself answers, by name."""
    inputs = example.inputs
    with torch.no_grad():
        if isinstance(inputs, torch.Tensor | tuple):
            result = example.module(*(inputs if isinstance(inputs, tuple) else (inputs,)))
        else:
            result = example.module(**inputs)
    return {name: value.numpy() for name, value in answers(result).items()}


@pytest.mark.parametrize("name", MODELS)
def test_models_are_explained(name):
    example = build(name)
    expected = _called(example)
    for mode in ("default", "contrastive", example.third):
        found = explain(example.module, example.inputs, mode=mode, task=example.task, layers=example.parts or None)
        for output, values in found.outputs.items():
            np.testing.assert_allclose(values, expected[output], rtol=CLOSE, atol=CLOSE)
        assert found.ledger.error.max() <= ROUNDING
        assert any(np.abs(values).max() > 0 for values in found.relevance.values())
        assert all(np.isfinite(values).all() for values in [*found.relevance.values(), *found.layers.values()])
        assert not example.parts or len(found.layers) >= len(example.parts)
    assert found.fingerprint["framework"] == f"torch {torch.__version__}"
    if name in EXPERTS:
        _check_experts(found.layers, example.module)


def _check_experts(layers, module):
    """Relevance per expert and per router; a token's experts are those that its router chose, k of them at most."""
    experts = [np.abs(values).max(-1) > 0 for name, values in layers.items() if ".mlp.experts." in name]
    routers = [values for name, values in layers.items() if name.endswith((".gate", ".router"))]
    assert len(experts) == 3
    assert routers
    assert (np.sum(experts, axis=0) <= module.config.num_experts_per_tok).all()
    assert np.sum(experts) > 0


class Plain(nn.Module):
    """Two dense layers, with everything on it that a user may have put there."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)
        self.drop = nn.Dropout()
        self.norm = nn.BatchNorm1d(5)
        self.register_buffer("calls", torch.zeros(()), persistent=False)
        self.seen = []

    def forward(self, x, scale=1.0):
        self.calls += 1
        self.seen.append(len(x))
        return self.second(torch.relu(self.drop(self.norm(self.first(x)))) * scale)


def _examples(rows: int = 3) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(0).normal(size=(rows, 4)).astype(np.float32))


def _state(module):
    """Everything of a module and of torch that an import might have touched."""
    return {
        "weights": {name: value.clone() for name, value in [*module.named_parameters(), *module.named_buffers()]},
        "flags": [(part.training, sorted(vars(part))) for part in module.modules()],
        "children": [list(part._modules) for part in module.modules()],
        "gradients": [(value.requires_grad, value.grad) for value in module.parameters()],
        "hooks": [(dict(part._forward_hooks), dict(part._forward_pre_hooks)) for part in module.modules()],
        # Python's own generator is not among them: checking types, as tests do, draws from it.
        "generators": (torch.get_rng_state(), np.random.get_state()[1].tolist()),  # noqa: NPY002
        "torch": (torch.backends.mha.get_fastpath_enabled(), torch.is_grad_enabled(), torch.get_default_dtype()),
        "config": repr(getattr(module, "config", None))
        + repr(vars(getattr(module, "config", module)).get("use_cache")),
    }


def _assert_same(before, after):
    for name, value in before.pop("weights").items():
        assert torch.equal(value, after["weights"][name]), name
    after.pop("weights")
    generators, ours = before.pop("generators"), after.pop("generators")
    assert torch.equal(generators[0], ours[0])
    assert generators[1] == ours[1]
    assert before == after


def test_the_module_is_left_as_it_was():
    module = Plain().train()
    module.norm.eval()
    module.second.weight.requires_grad_(False)
    calls = []
    handle = module.first.register_forward_hook(lambda *_: calls.append(1))
    before = _state(module)
    explain(module, _examples())
    assert calls
    assert module.seen == []
    _assert_same(before, _state(module))
    handle.remove()
    assert not module.first._forward_hooks


def test_a_module_of_transformers_is_left_as_it_was():
    example = build("olmoe")
    example.module.train()
    before = _state(example.module)
    settings = copy.deepcopy(vars(example.module.config))
    read(example.module, example.inputs)
    _assert_same(before, _state(example.module))
    assert vars(example.module.config) == settings


def test_the_module_is_left_as_it_was_when_the_import_fails():
    module = nn.Sequential(nn.EmbeddingBag(5, 4), Noisy())
    before = _state(module)
    with pytest.raises(UnsupportedError):
        explain(module, torch.ones(2, 3, dtype=torch.int64))
    _assert_same(before, _state(module))


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return x * self.calls


@pytest.mark.parametrize("module", [Noisy(), Counting()], ids=["random", "stateful"])
def test_a_module_that_is_no_function_is_refused(module):
    with pytest.raises(UnsupportedError, match="differs between two runs"):
        explain(module, _examples())


class Branching(nn.Module):
    """Which way it goes is decided by the values; a trace has one way only."""

    def forward(self, x):
        return torch.stack([row * 2 if row[0] > 0 else row - 5 for row in x])


def test_a_silently_wrong_export_is_refused(monkeypatch):
    """Which way it goes is seen; were it not, no export would agree with the module on other examples."""
    monkeypatch.setattr(reading, "observed", lambda *_: Reading())
    with pytest.raises(ImportMismatchError) as caught:
        explain(Branching(), _examples())
    assert "ImportMismatchError" in str(caught.value)
    assert "before" in str(caught.value)


def test_a_wrong_export_gives_way_to_a_right_one(monkeypatch):
    """The first export is made wrong, as those of dropped arguments are; the next one is used, and it is said why."""
    right = exporters._dynamo

    def wrong(adapter, tensors, inputs, outputs, attempt):
        found = right(adapter, tensors, inputs, outputs, attempt)
        if attempt.rows is None:
            found.proto.graph.initializer[0].raw_data = bytes(len(found.proto.graph.initializer[0].raw_data))
        return found

    monkeypatch.setitem(exporters._EXPORTERS, "dynamo", wrong)
    found = explain(nn.Linear(4, 3), _examples())
    assert found.fingerprint["exporter"] == "dynamo"
    assert "dynamo, opset 20, any batch: ImportMismatchError" in found.fingerprint["fallback"]


def test_the_older_exporter_keeps_module_names(monkeypatch):
    def fails(*_):
        raise RuntimeError("cannot see through this")

    monkeypatch.setitem(exporters._EXPORTERS, "dynamo", fails)
    example = build("resnet18")
    found = explain(example.module, example.inputs, layers=("layer2.0", "layer4.*.conv2", "fc"))
    assert set(found.layers) == {"layer2.0", "layer4.0.conv2", "layer4.1.conv2", "fc"}
    assert found.fingerprint["exporter"] == "torchscript"
    assert "cannot see through this" in found.fingerprint["fallback"]


def test_a_recurrence_of_plain_torch_is_one_node():
    example = build("rnn")
    imported = read(example.module, example.inputs)
    assert imported.origin["exporter"] == "torchscript"
    assert [node.op_type for node in imported.proto.graph.node].count("RNN") == 2


class Interacting(nn.Module):
    """An example's answer depends on the others of its batch."""

    def forward(self, x):
        return x - x.mean(0, keepdim=True)


def test_examples_that_depend_on_each_other_are_one_example_together():
    module = Interacting()
    with pytest.raises(MixedExamplesError, match=r"node 'node_mean' \(ai.onnx.ReduceMean\).*pass batch_axis=None"):
        read(module, _examples(3))
    assert read(module, _examples(3), None).inputs[0].dims == (3, 4)


def test_an_export_is_made_once_and_again_for_other_weights_or_shapes(monkeypatch):
    made = []
    first = exporters._dynamo
    monkeypatch.setitem(exporters._EXPORTERS, "dynamo", lambda *given: made.append(1) or first(*given))
    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Dropout())
    once = read(module, _examples(3))
    assert read(module, _examples(2)).proto is once.proto
    assert read(module.eval(), (_examples(1).numpy(),)).proto is once.proto
    with torch.no_grad():
        module[0].weight.data.mul_(2.0)
    changed = read(module, _examples())
    assert changed.sha256 != once.sha256
    assert len(made) == 2
    read(module, _examples().unsqueeze(1).expand(-1, 2, -1))
    assert len(made) == 3


def test_a_module_may_be_forgotten():
    module = nn.Linear(4, 3)
    kept = read(module, _examples()).let_go()
    reference = weakref.ref(module)
    del module
    gc.collect()
    assert reference() is None
    assert kept.arrays(_examples())["input"].shape == (3, 4)


class Result(NamedTuple):
    scores: torch.Tensor
    hidden: torch.Tensor


@dataclass
class Unregistered:
    scores: torch.Tensor
    nothing: None
    parts: dict[str, torch.Tensor]


class Several(nn.Module):
    """Keyword inputs in structures, and answers in any."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.linear = kind, nn.Linear(4, 3)

    def forward(self, x, pair, *, shift=None, power=1):
        scores = self.linear(x + pair[0] * pair[1]) ** power + (0 if shift is None else shift)
        if self.kind == "tuple":
            return scores, (x * 2,)
        if self.kind == "named":
            return Result(scores, x)
        return Unregistered(scores, None, {"twice": x * 2, "sum": x.sum()})


@pytest.mark.parametrize(
    ("kind", "outputs"),
    [
        ("tuple", ["output.0", "output.1.0"]),
        ("named", ["scores", "hidden"]),
        ("dataclass", ["scores", "parts.twice"]),
    ],
)
def test_structures_are_named_by_their_parts(kind, outputs):
    module, x = Several(kind), _examples()
    inputs = {"x": x, "pair": (x.numpy().astype(np.float64), x + 1), "shift": None, "power": 2}
    found = explain(module, inputs)
    assert list(found.outputs) == outputs
    assert list(found.relevance) == ["x", "pair.0", "pair.1"]
    with torch.no_grad():
        expected = next(iter(answers(module(x, (x, x + 1), power=2)).values()))
    np.testing.assert_allclose(found.outputs[found.output], expected, rtol=CLOSE, atol=CLOSE)


def test_explainers_take_what_the_module_takes():
    module, x = Plain(), _examples()
    explainer = Explainer(module, example=x)
    expected = explainer(x).relevance["x"]
    for inputs in (x.numpy(), (x,), {"x": x}, x.tolist(), {"x": x.numpy().astype(np.float64)}):
        np.testing.assert_array_equal(explainer(inputs).relevance["x"], expected)
    with pytest.raises(InputError, match="imported for inputs x"):
        Explainer(module, example=x, prove="first")((x, 2.0))
    found = explainer((x, 2.0))
    with torch.no_grad():
        np.testing.assert_allclose(found.outputs[found.output], module.eval()(x, 2.0), rtol=CLOSE, atol=CLOSE)


def test_encodings_are_inputs():
    example = build("distilbert")
    assert isinstance(example.inputs, transformers.BatchEncoding)
    imported = read(example.module, example.inputs)
    assert [entry.name for entry in imported.inputs] == ["input_ids", "attention_mask"]
    assert list(imported.arrays(dict(example.inputs))) == ["input_ids", "attention_mask"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (None, "example= where an Explainer"),
        (torch.tensor(1.0), "has no batch"),
        (torch.zeros(0, 4), "has no batch"),
        (torch.zeros(2, 5), "cannot be called with these inputs"),
        ({"y": torch.zeros(2, 4)}, "cannot be called with these inputs"),
        ({"x": None}, "pass tensors or arrays"),
    ],
)
def test_inputs_that_do_not_fit_are_named(inputs, message):
    with pytest.raises(InputError, match=message):
        read(Plain(), inputs)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_of_nothing_are_zero(mode):
    module, tokens = Bag(mode), torch.tensor([[0, 0, 0], [1, 0, 2]])
    found = explain(module, tokens, target=1)
    np.testing.assert_allclose(found.outputs["output"], module(tokens).detach(), rtol=CLOSE, atol=CLOSE)


def test_weighted_bags():
    module = nn.EmbeddingBag(9, 4, mode="sum")
    tokens, weights = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[0.5, -1.0, 2.0], [1.0, 0.0, 3.0]])
    inputs = {"input": tokens, "per_sample_weights": weights}
    np.testing.assert_allclose(
        explain(module, inputs).outputs["output"], module(**inputs).detach(), rtol=CLOSE, atol=CLOSE
    )


class Texts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.position = nn.Embedding(6, 4), nn.Embedding(3, 4)

    def forward(self, ids):
        return (self.words(ids) + self.position(torch.arange(ids.shape[1]))).mean(1)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[1, 2, 3, 4]], "4 tokens are more than its 3 positions ('position'): truncate the text"),
        ([[1, 7]], "7 is no row of 'words.weight', which has 6 (0 to 5)"),
        ([[-1, 2]], "-1 is no row of 'words.weight'"),
    ],
)
def test_ids_that_a_module_has_no_rows_for_are_named(ids, message):
    with pytest.raises(InputError) as error:
        explain(Texts(), torch.tensor(ids))
    assert message in str(error.value)
    assert len(str(error.value)) <= 300


class Sum(nn.Module):
    """Takes two inputs, or one list of them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(4, 3)

    def forward(self, x, y):
        return self.first(x) * y.sum(-1, keepdim=True)


class SumOfList(Sum):
    def forward(self, parts):
        return super().forward(*parts)


@pytest.mark.parametrize(("kind", "names"), [(Sum, ["x", "y"]), (SumOfList, ["parts.0", "parts.1"])])
def test_a_list_is_several_arguments_where_one_is_not_enough(kind, names):
    module, inputs = kind(), [_examples(), 2 * _examples()]
    explainer = Explainer(module, example=inputs)
    found = explainer(inputs)
    assert list(found.relevance) == names
    expected = Sum.forward(module, *inputs).detach()
    np.testing.assert_allclose(found.outputs["output"], expected, rtol=CLOSE, atol=CLOSE)


class Mixing(nn.Module):
    """One of its outputs compares the examples of a batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(4, 3)

    def forward(self, x):
        hidden = self.first(x)
        return {"logits": hidden.tanh(), "centred": hidden - hidden.mean(0), "pairs": hidden @ hidden.T}


def test_an_output_that_mixes_examples_does_not_stand_in_the_way_of_another():
    module, x = Mixing(), _examples()
    found, own = explain(module, x, mode="gradient", target=1), _examples().requires_grad_()
    assert list(found.outputs) == ["logits"]
    gradient = torch.autograd.grad(module(own)["logits"][:, 1].sum(), own)[0]
    np.testing.assert_allclose(found.relevance["x"], gradient, rtol=CLOSE, atol=ROUNDING)
    with pytest.raises(MixedExamplesError, match=r"adds up the entries of all examples.*or ask for another output"):
        explain(module, x, output="centred")


def test_outputs_are_called_as_the_module_calls_them():
    with pytest.raises(SettingError, match="position 9 is out of range: output 'output' takes position from -3 to 2"):
        explain(nn.Linear(4, 3), _examples(), batch_axis=None, task="next-token", position=9)


def test_a_module_in_train_mode_is_told_what_is_explained():
    module = Plain()
    with pytest.warns(RelevanceWarning, match=r"Plain is in train mode \('drop'\) and is explained as in eval mode"):
        found = explain(module, _examples())
    assert "train mode" in found.warnings[0]
    assert explain(module.eval(), _examples()).warnings == ()
    assert explain(nn.Linear(4, 3), _examples()).warnings == ()


def test_large_weights_are_owned_and_their_folder_goes(monkeypatch, tmp_path):
    monkeypatch.setattr(exporters, "LARGEST", 16)
    monkeypatch.setattr(exporters.tempfile, "tempdir", str(tmp_path))
    module = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3))
    explainer = Explainer(module, example=_examples(), layers=("0", "2"))
    assert list(tmp_path.iterdir()) == []
    with torch.no_grad():
        expected = module(_examples())
    found = explainer(_examples())
    np.testing.assert_allclose(found.outputs["output"], expected, rtol=CLOSE, atol=CLOSE)
    assert list(found.layers) == ["0", "2"]
    assert read(module, _examples()).proto is None


def test_the_file_says_nothing_of_this_machine():
    proto = read(Plain(), _examples()).proto
    kept = {entry.key for node in proto.graph.node for entry in node.metadata_props}
    assert kept == {"pkg.torch.onnx.name_scopes", "backtrace_jax.calls"}
    assert b".py" not in proto.SerializeToString()
    assert {"first.weight", "second.bias"} <= {tensor.name for tensor in proto.graph.initializer}


NO_TORCH = """
import sys
import backtrace_jax
from backtrace_jax import importers
from backtrace_jax.importers import pytorch
assert not pytorch.is_module(object())
assert "torch" not in sys.modules
"""


def test_torch_is_not_imported_without_a_module():
    subprocess.run([sys.executable, "-c", NO_TORCH], check=True)


def test_what_is_a_module():
    assert is_module(nn.ReLU())
    assert not is_module(nn.ReLU)
    assert not is_module("model.onnx")
