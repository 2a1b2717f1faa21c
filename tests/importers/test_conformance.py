"""ONNX's own conformance cases: every one is run.

`conformance.json` names the cases that do not pass, by reason. The number of passing cases can only grow: a case on
record that passes all the same fails here until it is taken off the record.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backtrace_jax.errors import BacktraceError
from tests.importers.cases import KINDS, cases, check_case, load_case

RECORD = json.loads((Path(__file__).parent / "conformance.json").read_text())
NOT_PASSING = {name: reason for reason, names in RECORD.items() for name in names}
PASSING = {"node": 1813, "simple": 15, "pytorch-operator": 35, "pytorch-converted": 82}
CASES = [(kind, name) for kind in KINDS for name in cases(kind)]


@pytest.mark.parametrize("kind", KINDS)
def test_no_case_is_lost(kind):
    names = set(cases(kind))
    assert len(names) == KINDS[kind]
    assert len(names - NOT_PASSING.keys()) == PASSING[kind]


def test_the_record_names_cases_that_exist():
    assert NOT_PASSING.keys() <= {name for _, name in CASES}


def _optimised(name):
    """Without its fusions, XLA's CPU backend rounds wrongly to the 8-bit floats whose zero has no sign."""
    return [pytest.mark.optimised] if "FNUZ" in name else []


@pytest.mark.parametrize(("kind", "name"), [pytest.param(*case, marks=_optimised(case[1])) for case in CASES])
def test_case(kind, name):
    case = cases(kind)[name]
    if name not in NOT_PASSING:
        check_case(load_case(case))
        return
    try:
        check_case(load_case(case))
    except (BacktraceError, AssertionError):
        pytest.xfail(NOT_PASSING[name])
    pytest.fail(f"{name} passes; take it off the record")
