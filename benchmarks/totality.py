"""Explains every conformance case of ONNX that runs, in modes of every family.

    python -m benchmarks.totality

prints how many were explained with finite relevance and closed books, how many carry no relevance, and what failed.
"""

from __future__ import annotations

import sys
from collections import Counter

import pytest

from tests.importers.cases import cases, load_case
from tests.importers.test_conformance import CASES, NOT_PASSING
from tests.importers.totality import check_totality


def main() -> int:
    outcomes: Counter[str] = Counter()
    for kind, name in CASES:
        if name in NOT_PASSING:
            continue
        try:
            check_totality(load_case(cases(kind)[name]))
            outcomes["explained"] += 1
        except pytest.skip.Exception as skipped:
            outcomes["the same graph as another" if "same graph" in str(skipped) else str(skipped)] += 1
        except Exception as error:
            outcomes["failed"] += 1
            print(f"{kind} {name}: {type(error).__name__}: {error}".replace("\n", " ")[:300], flush=True)
    for outcome, count in outcomes.most_common():
        print(f"{count:5} {outcome}")
    return 1 if outcomes["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
