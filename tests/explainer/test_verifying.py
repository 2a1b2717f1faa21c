"""`verify` proves that bytes are the same, finds where they are not, and compares with PyTorch."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from backtrace_jax import Explainer, SettingError, mode, verify
from backtrace_jax.errors import MissingDependencyError
from backtrace_jax.explainer import against_torch, verifying
from backtrace_jax.explainer.verification import Check, first_difference
from backtrace_jax.question.settings import Settings

ROWS = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A small network of dense layers, of an opset that onnx2torch reads."""
    rng = np.random.default_rng(1)
    weights = {"w": (4, 6), "b": (6,), "v": (6, 3)}
    arrays = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), name) for name, s in weights.items()]
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", size]) for n, size in (("x", 4), ("y", 3))]
    graph = helper.make_graph(nodes, "dense", ends[:1], ends[1:], arrays)
    path = tmp_path_factory.mktemp("verify") / "dense.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


@pytest.fixture
def in_this_process(monkeypatch):
    monkeypatch.setattr(
        verifying._Verifying, "in_process", lambda self, name, *more, **changed: Check(name, skipped="here")
    )


@pytest.mark.optimised  # as other processes compile it
def test_the_same_bytes_in_any_company_and_process(model):
    told = []
    chosen = {"mode": mode("lrp-gamma", gamma=0.3), "target": [2, 0, 1, 1, 2], "layers": "all", "chunk": 8}
    found = verify(model, ROWS, told=told.append, **chosen)
    assert found.ok, str(found)
    assert [check.name for check in told] == [
        *("each example alone", "in batches of 2, 3 and 7", "at other positions"),
        *("in another process", "on 1 host device, not 2"),
    ]
    assert not any(check.skipped or check.failure for check in told)
    assert f"SHA-256 {found.sha256} in all of them, 5 examples" in str(found)


def test_the_hash_tells_explanations_apart(model, in_this_process):
    first, again, other = (verify(model, ROWS, target=target) for target in (1, 1, 2))
    assert first.sha256 == again.sha256 != other.sha256


def nudged(monkeypatch, when):
    """Explanations whose relevance of example 2 at [1] is one bit off in some calls."""
    explain, row = Explainer.explain_first, ROWS[2]

    def changed(self, inputs, asked):
        found = explain(self, inputs, asked)
        places = np.flatnonzero((inputs["x"] == row).all(axis=1))
        if when(len(inputs["x"]), places):
            found.relevance["x"][places[0], 1] = np.nextafter(found.relevance["x"][places[0], 1], np.float32(9))
        return found

    monkeypatch.setattr(Explainer, "explain_first", changed)


@pytest.mark.parametrize(
    ("when", "named"),
    [
        (lambda count, places: count == 1 and len(places), "each example alone"),
        (lambda count, places: count == 3 and len(places), "in batches of 2, 3 and 7"),
        (lambda count, places: count == 5 and len(places) and places[0] == 4, "at other positions"),
    ],
    ids=["alone", "batch", "position"],
)
def test_one_bit_is_found_and_named(model, monkeypatch, in_this_process, when, named):
    nudged(monkeypatch, when)
    found = verify(model, ROWS)
    assert [check.name for check in found.checks if not check.ok] == [named]
    (difference,) = [check.difference for check in found.checks if check.difference]
    assert (difference.part, difference.example, difference.index) == ("relevance['x']", 2, (1,))
    assert np.nextafter(np.float32(difference.one), np.float32(9)) == np.float32(difference.other)
    assert f"differs: {named} (5 examples)" in str(found)


@pytest.mark.optimised
def test_a_process_that_differs_or_fails_is_named(model, monkeypatch):
    """The processes take no part in what is changed here."""
    nudged(monkeypatch, lambda count, places: len(places))
    monkeypatch.setattr(verifying._Verifying, "on_other_devices", lambda self: Check("left out", skipped="here"))
    found = verify(model, ROWS)
    assert [check.name for check in found.checks if check.difference] == ["in another process"]
    monkeypatch.setattr(verifying, "_COMPILING", {"JAX_PLATFORMS": "none-such"})
    found = verify(model, ROWS)
    (check,) = [check for check in found.checks if check.failure]
    assert "exit code 1" in check.failure
    assert "none-such" in check.failure
    assert not found.ok


def test_what_cannot_be_sent_is_said(model, monkeypatch):
    monkeypatch.setattr(verifying._Verifying, "on_other_devices", lambda self: Check("left out", skipped="here"))
    found = verify(model, ROWS, start=lambda outputs: outputs)
    assert [check.name for check in found.checks if check.failure] == ["in another process"]
    assert "cannot be sent to another process" in str(found)


@pytest.mark.parametrize(
    ("one", "other"),
    [(np.float32(0.0), np.float32(-0.0)), (np.array(0x7FC00001, np.uint32).view(np.float32), np.float32(np.nan))],
    ids=["zeros", "nans"],
)
def test_bytes_are_compared_not_values(one, other):
    arrays = [np.zeros((3, 2), np.float32), np.zeros((3, 2), np.float32)]
    arrays[0][1, 1], arrays[1][1, 1] = one, other
    found = first_difference([("x", arrays[0])], [("x", arrays[1])], np.arange(3))
    assert (found.example, found.index) == (1, (1,))
    assert found.one != found.other


def test_another_type_or_shape_is_a_difference():
    one = [("x", np.zeros((2, 3), np.float32))]
    for other in (np.zeros((2, 3), np.float64), np.zeros((2, 4), np.float32)):
        found = first_difference(one, [("x", other)], np.arange(2))
        assert found.index is None
        assert f"float32 [2, 3] against {other.dtype.name} {list(other.shape)}" in str(found)


def test_a_single_example_has_company_too(model, in_this_process):
    assert verify(model, ROWS[:1]).ok


def test_a_model_without_a_file_is_refused(model):
    with pytest.raises(SettingError, match="pass its file"):
        verify(onnx.load(model), ROWS)


def test_what_cannot_be_compared_is_said_before_anything_runs(model):
    with pytest.raises(SettingError, match="only ONNX files"):
        verify("model.keras", ROWS, compare_with="torch")
    with pytest.raises(SettingError, match="batch first"):
        verify(model, ROWS, compare_with="torch", batch_axis=1)
    with pytest.raises(SettingError, match="torch"):
        verify(model, ROWS, compare_with="tensorflow")


# Beside PyTorch


@pytest.fixture
def onnx2torch():
    pytest.importorskip("torchvision")
    return pytest.importorskip("onnx2torch")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("chosen", [{}, {"dtype": "float64", "target": 1}, {"task": "regression"}, {"output": "r"}])
def test_outputs_and_gradients_beside_pytorch(onnx2torch, model, chosen):
    settings = {name: value for name, value in chosen.items() if name != "target"}
    explanation = Explainer(model, **settings)(ROWS, target=chosen.get("target"))
    checks = list(against_torch.compared(model, explanation, Settings(**settings)))
    assert [check.name for check in checks] == ["outputs beside PyTorch", "gradient beside PyTorch"]
    assert all(check.ok for check in checks), checks
    assert [bool(check.skipped) for check in checks] == [False, "output" in chosen]


@pytest.mark.filterwarnings("ignore")
def test_what_is_computed_otherwise_is_found(onnx2torch, model, monkeypatch):
    explanation = Explainer(model)(ROWS)
    outputs = explanation.outputs["y"].copy()
    outputs[3, 2] += 0.01
    first, second = against_torch.compared(model, replace(explanation, outputs={"y": outputs}), Settings())
    assert (first.difference.part, first.difference.example, first.difference.index) == ("outputs['y']", 3, (2,))
    assert second.ok


@pytest.mark.filterwarnings("ignore")
def test_another_gradient_is_found(onnx2torch, model, monkeypatch):
    """Outputs that agree do not hide it: here the class before is differentiated by PyTorch."""
    explanation, run = Explainer(model)(ROWS), against_torch._Torch.run

    def shifted(self):
        return run(replace(self, start=np.roll(self.start, 1, axis=1)))

    monkeypatch.setattr(against_torch._Torch, "run", shifted)
    first, second = against_torch.compared(model, explanation, Settings())
    assert first.ok
    assert second.difference.part == "gradient['x']"


def test_a_missing_package_is_named(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx2torch", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'backtrace-jax\[verify\]'"):
        verify(model, ROWS, compare_with="torch")
