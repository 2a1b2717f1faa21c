"""What editors see of `explain` and `Explainer` is what they take; `signatures.py` is what pyright makes of it."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Unpack, get_type_hints

import pytest
from beartype.door import is_bearable

from backtrace_jax import Explainer, SettingError, explain
from backtrace_jax.explainer.asking import Asked
from backtrace_jax.explainer.given import Given, GivenBeside, GivenQuestion, GivenSettings
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
        (Explainer.each, "asked", GivenBeside),
    ],
)
def test_keywords_have_their_types(function, keywords, given):
    assert get_type_hints(inspect.unwrap(function))[keywords] == Unpack[given]
    taken = {name for name in inspect.signature(function).parameters if name in get_type_hints(Given)}
    assert taken in (set(get_type_hints(given)), set())


def test_a_target_beside_targets():
    with pytest.raises(SettingError, match="leave target= out"):
        Explainer(convolutional()).each(images(), [1, 2], target=3)
