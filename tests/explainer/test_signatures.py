"""What editors see of `explain` and `Explainer` is what they take; `signatures.py` is what pyright makes of it."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Unpack, get_type_hints

import pytest
from beartype.door import is_bearable

from backtrace_jax import Explainer, SettingError, explain, explain_each
from backtrace_jax.explainer.asking import Asked
from backtrace_jax.explainer.given import Given, GivenEach, GivenQuestion, GivenQuestions, GivenSettings
from backtrace_jax.explainer.questions import Questions
from backtrace_jax.question.settings import Settings
from tests.tiny import convolutional, images


@pytest.mark.parametrize(("given", "kind"), [(GivenSettings, Settings), (GivenQuestion, Asked)])
def test_what_is_typed_is_what_is_taken(given, kind):
    hints = get_type_hints(given)
    assert set(hints) == {each.name for each in fields(kind)}
    for each in fields(kind):
        assert is_bearable(each.default, hints[each.name]), each.name


@pytest.mark.parametrize(
    ("function", "keywords", "given"),
    [
        (explain, "chosen", Given),
        (Explainer.__init__, "settings", GivenSettings),
        (Explainer.__call__, "asked", GivenQuestion),
        (Explainer.each, "asked", GivenQuestions),
        (explain_each, "chosen", GivenEach),
    ],
)
def test_keywords_have_their_types(function, keywords, given):
    assert get_type_hints(inspect.unwrap(function))[keywords] == Unpack[given]
    known = get_type_hints(Given).keys() | get_type_hints(GivenEach).keys()
    taken = inspect.signature(function).parameters.keys() & known
    assert taken in (set(get_type_hints(given)), set())


def test_what_is_typed_of_several_questions_is_what_is_taken():
    hints = get_type_hints(GivenQuestions)
    assert {"targets", *hints} == {each.name for each in fields(Questions)}
    assert all(is_bearable(each.default, hints[each.name]) for each in fields(Questions) if each.name in hints)


def test_a_target_beside_targets():
    with pytest.raises(SettingError, match=r"takes no target= here; pass it as explainer.each\(inputs, targets="):
        Explainer(convolutional()).each(images(), [1, 2], target=3)
