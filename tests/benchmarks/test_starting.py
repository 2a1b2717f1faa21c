"""How times of processes are told."""

from __future__ import annotations

from benchmarks import starting


def test_ratios_are_taken_round_by_round():
    def times(*walls):
        return [{"wall": wall, "processor": 2 * wall, "compiled": 3} for wall in walls]

    found = {"first": times(1.0, 10.0, 4.0), "second": times(0.5, 2.0, 1.0)}
    row = starting.row("second", found)
    assert (row["wall_s"], row["wall_largest_s"], row["wall_of_first"]) == (1.0, 2.0, 0.25)
    assert (row["processor_s"], row["processor_of_first"], row["compiled"]) == (2.0, 0.25, 3)
    told = {"network": "resnet18", "mode": "default", "rows": [starting.row("first", found), row]}
    assert starting.table([told]).splitlines()[2:] == [
        "| resnet18 | default | first | 4.00 | 8.00 | 1.00 | 1.00 | 3 |",
        "| resnet18 | default | second | 1.00 | 2.00 | 0.25 | 0.25 | 3 |",
    ]
