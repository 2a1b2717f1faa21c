"""Several rewrites in a row leave function and relevance as they are; `benchmarks.properties` draws many more."""

from __future__ import annotations

from hypothesis import event, given, settings
from hypothesis import strategies as st

from .compositions import check_composition


@given(st.integers(0, 10**6))
@settings(max_examples=8)
def test_rewrites_in_a_row(seed):
    event(check_composition(seed))
