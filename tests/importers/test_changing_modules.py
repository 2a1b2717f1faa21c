"""Whatever a module does at a call is what is explained: outputs and gradient are its own, or the call is refused."""

from __future__ import annotations

import gc
import re
import weakref
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from backtrace_jax import Explainer, explain
from backtrace_jax.errors import ImportMismatchError, InputError, MixedExamplesError, SettingError, UnsupportedError
from backtrace_jax.explainer.exporting import export
from backtrace_jax.importers.comparison import compare
from backtrace_jax.importers.pytorch import reading
from backtrace_jax.ir.imported import Imported, Source
from tests.importers.changing import BY_VALUES, EDITS, VARIABLE, Branch, Cond, Mixed, Two, examples

CLOSE = 1e-5
TARGET = 1


def _autograd(module, inputs):
    """The module's own answer, and the derivative of one unit of it by the first input."""
    x, *others = inputs if isinstance(inputs, tuple) else (inputs,)
    x = x.clone().requires_grad_(True)
    answer = module(x, *others)
    return answer.detach().numpy(), torch.autograd.grad(answer[:, TARGET].sum(), x)[0].numpy()


def _assert_own(found, module, inputs):
    answer, gradient = _autograd(module, inputs)
    np.testing.assert_allclose(found.outputs["output"], answer, rtol=CLOSE, atol=CLOSE)
    np.testing.assert_allclose(found.relevance["x"], gradient, rtol=CLOSE, atol=CLOSE * np.abs(gradient).max())


def _explainer(module, inputs, **settings):
    return Explainer(module, mode="gradient", example=inputs, **settings)


@pytest.mark.parametrize("name", BY_VALUES)
def test_modules_that_decide_by_values(name):
    build, batches = BY_VALUES[name]
    module = build()
    explainer = _explainer(module, batches[0])
    for inputs in [*batches, batches[0]]:
        _assert_own(explainer(inputs, target=TARGET), module, inputs)


@pytest.mark.parametrize("build", [Cond, Mixed])
def test_modules_whose_examples_have_a_say_in_each_other_are_refused(build):
    """The sum of a batch decides, or its mean is taken away: what an example gave to others is no part of its row."""
    with pytest.raises(MixedExamplesError, match="batch_axis=None"):
        _explainer(build(), examples())(examples(), target=TARGET)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_condition_on_the_whole_batch_is_explained_as_one_example(sign):
    module, x = Cond(), sign * examples()
    found = explain(module, x, mode="gradient", scaler=None, target=(0, TARGET), batch_axis=None)
    own = x.clone().requires_grad_(True)
    answer = module(own)
    np.testing.assert_allclose(found.outputs["output"][0], answer.detach(), rtol=CLOSE, atol=CLOSE)
    gradient = torch.autograd.grad(answer[0, TARGET], own)[0]
    np.testing.assert_allclose(found.relevance["x"][0], gradient, rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("name", EDITS)
def test_modules_that_are_edited_between_calls(name, monkeypatch):
    monkeypatch.setenv(VARIABLE, "0.5")
    build, edit = EDITS[name]
    module, x = build(), examples()
    x[:, 0] = 0
    explainer = _explainer(module, x)
    _assert_own(explainer(x, target=TARGET), module, x)
    edit(module)
    _assert_own(explainer(x, target=TARGET), module, x)


def test_two_calls_of_explain_take_the_module_as_it_is_now():
    module, x = Two(), examples()
    for edit in (
        lambda: None,
        lambda: module.second.bias.data.add_(1.0),
        lambda: setattr(module, "second", module.first),
    ):
        edit()
        _assert_own(explain(module, x, mode="gradient", target=TARGET), module, x)


def test_the_first_call_alone_is_compared_where_that_is_asked_for():
    module, x = Two(), examples()
    calls = []
    module.register_forward_hook(lambda *_: calls.append(1))
    explainer = _explainer(module, x, prove="first")
    once = explainer(x, target=TARGET)
    _assert_own(once, module, x)
    calls.clear()
    with torch.no_grad():
        module.second.bias.add_(1.0)
    np.testing.assert_array_equal(explainer(x, target=TARGET).outputs["output"], once.outputs["output"])
    assert calls == []
    assert once.fingerprint["prove"] == "first"
    with pytest.raises(SettingError, match="every, first"):
        _explainer(module, x, prove="never")


class Counter(Two):
    """Gives another answer at every call, whatever it is given."""

    calls = 0

    def forward(self, x):
        type(self).calls += 1
        return self.first(x) * (1 + type(self).calls)


def test_a_module_that_is_no_function_is_refused():
    with pytest.raises(UnsupportedError, match="differs between two runs"):
        explain(Counter(), examples())


def test_what_an_import_cannot_follow_is_refused_with_both_values(monkeypatch):
    """Outputs that no export has: the module's own are changed behind the exporters' back."""
    module, x = Two(), examples()
    explainer = _explainer(module, x)
    explainer(x, target=TARGET)
    answer = reading.run
    monkeypatch.setattr(reading, "run", lambda *given: {k: v + 1 for k, v in answer(*given).items()})
    with pytest.raises(ImportMismatchError, match=r"after the import, .* before"):
        explainer(x, target=TARGET)


def test_other_shapes_and_settings_are_imported_as_they_come():
    module, short = Two(), examples().unsqueeze(1)
    explainer = _explainer(module, short)
    for x in (short, short.expand(-1, 3, -1), short):
        found = explainer(x, target=(0, TARGET))
        np.testing.assert_allclose(found.outputs["output"], module(x).detach(), rtol=CLOSE, atol=CLOSE)
    with pytest.raises(InputError, match="cannot be called with these inputs"):
        explainer(short[..., :3])


def test_a_module_that_decides_by_values_is_not_exported(tmp_path):
    with pytest.raises(ImportMismatchError, match="decides by the values"):
        export(Branch(), tmp_path / "branch.onnx", examples())


def test_what_explain_keeps_lets_the_module_go():
    module = Two()
    explain(module, examples())
    known = weakref.ref(module)
    del module
    gc.collect()
    assert known() is None


def test_of_logits_of_spans_only_real_positions_are_compared():
    imported = Imported("span", "", (), _never, _never)
    mask = np.array([[1, 1, 1], [1, 1, 0]])
    ours = {name: np.ones((2, 3)) for name in ("start_logits", "end_logits", "logits")}
    for name, row, place, agree in (
        ("start_logits", 1, 2, True),
        ("end_logits", 1, 2, True),
        ("end_logits", 0, 2, False),
        ("logits", 1, 2, False),  # three classes
    ):
        theirs = {name: ours[name].copy()}
        theirs[name][row, place] = 9.0
        with nullcontext() if agree else pytest.raises(ImportMismatchError):
            compare(imported, ours, theirs, {"attention_mask": mask})


def test_an_example_without_any_position_does_not_take_its_batch_with_it():
    imported = Imported("empty", "", (), _never, _never)
    mask = np.array([[False, False], [True, True]])
    theirs, ours = np.ones((2, 3)), np.array([[1.0, 1, 1], [np.nan] * 3])
    compare(imported, {"output": ours}, {"output": theirs}, {"padding_mask": mask})
    for wrong in (ours[::-1], 2 * ours, np.array([[1.0, 1, 1], [2, 2, 2]])):
        with pytest.raises(ImportMismatchError):
            compare(imported, {"output": wrong}, {"output": theirs}, {"padding_mask": mask})


class Measured(Source):
    """A source whose rounding is known."""

    def read(self, inputs, *, anew=False):
        raise AssertionError

    def answer(self, feeds):
        raise AssertionError

    def rounding(self, feeds):
        return {"output": np.array([[1.0, 1e-6]])}


@pytest.mark.parametrize(
    ("ours", "theirs", "agree"),
    [
        ([1e5, 0.5 + 1e-5], [1e5, 0.5], True),  # within its share
        ([1e5, 0.50003], [1e5, 0.5], True),
        ([1e5, 0.5002], [1e5, 0.5], True),  # nothing that rounding at the largest entry would not do
        ([1e5, 0.7], [1e5, 0.5], False),
        ([1e5, 1e-5], [1e5, 0.0], True),  # what was measured
        ([1e5, 1e-3], [1e5, 0.0], False),
        ([1e5 + 20, 0.5], [1e5, 0.5], False),
    ],
)
def test_a_unit_that_is_small_beside_another_is_compared_by_itself(ours, theirs, agree):
    imported = Imported("small", "", (), _never, _never, source=Measured())
    found, expected = ({"output": np.array([each], np.float32)} for each in (ours, theirs))
    with nullcontext() if agree else pytest.raises(ImportMismatchError):
        compare(imported, found, expected, {"x": np.zeros((1, 1))})


class Unmeasured(Measured):
    """A source that cannot be run in double."""

    def rounding(self, feeds):
        return {}


@pytest.mark.parametrize(
    ("ours", "target", "said"),
    [
        ([1e5, 0.7], 1, r"'output': the unit explained is 0.7 here, 0.5 in the model itself \(example 0\)"),
        ([1e5, 0.7], 0, ""),
        ([1e5, 0.7], -1, ""),  # no single unit is explained
        ([1e5, 0.50003], 1, ""),
    ],
)
def test_a_small_unit_that_nobody_can_measure_is_named_where_it_is_explained(ours, target, said):
    imported = Imported("small", "", (), _never, _never, source=Unmeasured())
    found, expected = ({"output": np.array([each], np.float32)} for each in (ours, [1e5, 0.5]))
    lines = compare(imported, found, expected, {"x": np.zeros((1, 1))}, {"output": np.array([target])})
    assert len(lines) == bool(said)
    assert all(re.search(said, line) for line in lines)


class Itself(Measured):
    """A source that computes in double precision already."""

    def rounding(self, feeds):
        return {"output": np.zeros((1, 2))}


@pytest.mark.parametrize(("ours", "agree"), [(1e-16, True), (1e-12, False)])
def test_where_double_precision_rounds_itself_nothing_is_measured(ours, agree):
    """A unit that is exactly 0 in a model of doubles, whose rounding measured against itself is 0."""
    imported = Imported("double", "", (), _never, _never, source=Itself())
    found, expected = ({"output": np.array([each])} for each in ([3.0, ours], [3.0, 0.0]))
    with nullcontext() if agree else pytest.raises(ImportMismatchError, match="1e-12 after the import, 0 before"):
        compare(imported, found, expected, {"x": np.zeros((1, 1))})


class Uncopied(Two):
    """Cannot be copied; what it is given in its own precision alone, it says so."""

    single = False

    def __deepcopy__(self, memo):
        raise AssertionError

    def forward(self, x):
        return super().forward(x.float() if self.single else x)


@pytest.mark.parametrize("single", [False, True])
def test_rounding_is_measured_on_the_module_itself(single):
    module, x = Uncopied(), examples()
    module.single = single
    source = reading.read_module(module, x).source
    assert source is not None
    found = source.rounding({"x": x.numpy()})
    assert single or 0 < found["output"].max() < 1e-6
    assert not (single and found)
    assert {each.dtype for each in module.parameters()} == {torch.float32}


def _never(*_):
    raise AssertionError


def test_what_stands_at_padding_is_compared_only_where_it_is_explained():
    imported = Imported("padded", "", (), _never, _never)
    ours, mask = np.ones((2, 3, 4)), np.array([[1, 1, 1], [0, 1, 1]])
    theirs = ours.copy()
    theirs[1, 0] = np.nan
    feeds, unit = {"attention_mask": mask}, np.array([0, 2])
    compare(imported, {"logits": ours}, {"logits": theirs}, feeds)
    compare(imported, {"logits": ours}, {"logits": theirs}, feeds, {"logits": unit + 4})
    with pytest.raises(ImportMismatchError, match=r"nan before, at \[1, 0, 2\]"):
        compare(imported, {"logits": ours}, {"logits": theirs}, feeds, {"logits": unit})
    with pytest.raises(ImportMismatchError):
        compare(imported, {"logits": ours}, {"logits": theirs}, {"attention_mask": np.ones_like(mask)})
