"""The questions that are measured, and how results are told."""

from __future__ import annotations

import numpy as np

from benchmarks import questions


def test_questions_of_images_and_of_prompts():
    outputs = np.zeros((1, 4, 9))
    assert [questions.question("next-token", place, outputs) for place in (0, 3, 4)] == [
        *({"position": -1}, {"position": -4}, {"position": -1})
    ]
    several = [questions.question("classification", place, outputs) for place in range(3)]
    assert questions.listed(several) == {"targets": [0, 1, 2]}


def test_a_row_for_each_count():
    row = {"count": 16, "single_ms": 80.0, "each_ms": 600.0, "relative_wall": 0.469, "peak_mib": 1300}
    rows = [{**row, "same_bytes": False, "largest_difference": 1.3e-7}, {**row, "count": 4, "same_bytes": True}]
    found = {"network": "resnet18", "mode": "default", "peak_of_single_mib": 800, "rows": rows}
    assert questions.table([found]).splitlines()[2:] == [
        "| resnet18 | default | 16 | 80 | 600 | 0.47 | 800, 1300 | 1e-07 |",
        "| resnet18 | default | 4 | 80 | 600 | 0.47 | 800, 1300 | same bytes |",
    ]
