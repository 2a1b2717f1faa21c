"""Many questions about the same inputs are answered as one by one, whatever else is asked."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from backtrace_jax import Explainer, Explanation, SettingError, explain, explain_each
from tests.tiny import convolutional, images

MODES = [
    *("default", "contrastive", "lrp-epsilon", "lrp-epsilon-plus", "attnlrp"),
    *("gradient", "gradient-x-input", "integrated-gradients", "smoothgrad", "deeplift"),
]
TARGETS = [None, 2, [0, 1, 2], (4,), 3, 1, 0, 2, -1, 4]


@functools.cache
def explainer(mode: str = "default") -> Explainer:
    """Keeps the relevance of layers where the mode has any."""
    layers = None if mode == "integrated-gradients" else ["hidden"]
    return Explainer(convolutional(), mode=mode, layers=layers)


def arrays(explanation: Explanation) -> list[np.ndarray]:
    """Everything that is told of the answer."""
    ledgers = [explanation.ledger, *(channel.ledger for channel in explanation.channels.values())]
    books = [book for each in ledgers if each is not None for book in (each.signed, each.absolute)]
    channels = [array for channel in explanation.channels.values() for array in channel.relevance.values()]
    more = [] if explanation.completeness_error is None else [explanation.completeness_error]
    return [*explanation.relevance.values(), *explanation.layers.values(), *channels, *books, *more]


def same_bytes(one: Explanation, other: Explanation) -> bool:
    return [x.tobytes() for x in arrays(one)] == [x.tobytes() for x in arrays(other)]


def assert_agree(many: Explanation, alone: Explanation) -> None:
    """All that is told is the same but for rounding, and what is no number the very same."""
    for found, expected in zip(arrays(many), arrays(alone), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max(initial=1e-6))
    assert (many.target is None) == (alone.target is None)
    assert many.target is None or np.array_equal(many.target, alone.target)
    assert {name: array.shape for name, array in many.outputs.items()} == {n: a.shape for n, a in alone.outputs.items()}
    np.testing.assert_allclose([*many.outputs.values()], [*alone.outputs.values()], rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_answers_as_it_does_one_by_one(mode):
    together = explainer(mode).each(images(), TARGETS)
    for found, target in zip(together, TARGETS, strict=True):
        assert_agree(found, explainer(mode)(images(), target=target))
    assert len({found.relevance["x"].tobytes() for found in together}) >= 6  # the five classes, and one by example


@pytest.mark.parametrize("mode", ["default", "attnlrp", "deeplift"])
def test_an_answer_does_not_depend_on_what_else_is_asked(mode):
    together = explainer(mode).each(images(), TARGETS)
    (alone,) = explainer(mode).each(images(), [2])
    turned = explainer(mode).each(images()[::-1], TARGETS[::-1])[-2]
    assert same_bytes(alone, together[1])
    assert turned.relevance["x"][::-1].tobytes() == alone.relevance["x"].tobytes()
    assert len({together[1].fingerprint["questions_at_once"], alone.fingerprint["questions_at_once"]}) == 1


def test_explanations_share_inputs_and_outputs():
    one, other = explainer().each(images(), [1, 2])
    assert np.shares_memory(one.outputs["y"], other.outputs["y"])
    assert np.shares_memory(one.inputs["x"], other.inputs["x"])
    assert not np.shares_memory(one.relevance["x"], other.relevance["x"])


def test_explain_each_is_each():
    found = explain_each(convolutional(), images(), [1, 2], mode="lrp-epsilon", position=None)
    assert len(found) == 2
    for each, target in zip(found, (1, 2), strict=True):
        assert_agree(each, explain(convolutional(), images(), mode="lrp-epsilon", target=target))


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"targets": [1, 2, 9]}, "^question 2: target 9 is out of range"),
        ({"targets": [1, 2], "against": [0, 2]}, "^question 1: against=2 is the target itself"),
        ({"targets": [1, 2], "positions": "all"}, "has no positions"),
        ({"targets": [1, 2], "positions": [0, 0, 0]}, "as many of each; found 2 targets, 3 positions"),
        ({"targets": []}, "as many of each; found 0 targets"),
        ({"targets": [1], "conditions": [{"nope": [1]}]}, "^question 0: conditions: no relevance passes"),
        ({"targets": [1, 1], "conditions": [{"hidden": [1]}, {"hidden": [9]}]}, "^question 1: conditions"),
        ({"starts": [np.ones((3, 5)), np.ones((3, 4))]}, "^question 1: start must be a finite array"),
        ({"starts": [np.ones((3, 5))], "start": np.ones((3, 5))}, "leave one of them out"),
    ],
    ids=lambda given: str(given)[:40],
)
def test_mistakes_are_named_before_anything_is_compiled(asked, match, monkeypatch):
    monkeypatch.setattr("backtrace_jax.engine.pieces.compiled", None)
    with pytest.raises(SettingError, match=match) as error:
        explainer().each(images(), **asked)
    assert len(str(error.value)) < 300
