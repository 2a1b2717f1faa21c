"""Whatever runs can be explained: a case of every operator here, all cases by `python -m benchmarks.totality`."""

from __future__ import annotations

import pytest

from tests.importers.cases import cases, load_case
from tests.importers.totality import check_totality, few_of_each_operator


@pytest.mark.parametrize(("kind", "name"), few_of_each_operator(1))
def test_relevance_is_finite_and_books_close(kind, name):
    check_totality(load_case(cases(kind)[name]))
