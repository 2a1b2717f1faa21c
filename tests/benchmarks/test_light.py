"""What the measurements of light models make of seconds."""

from __future__ import annotations

import itertools

import pytest

from benchmarks import light


def test_a_turn_warms_up_and_lasts_long_enough():
    asked = itertools.count()
    runner = light.Runner(("forward", "", 1), lambda: 1.0 if next(asked) == 0 else light.SHORT / 4)
    runner.turn()
    assert runner.seconds == [light.SHORT / 4]
    assert next(asked) == 5


def test_what_takes_long_is_not_repeated_once_it_is_warm():
    asked = itertools.count()
    runner = light.Runner(("explanation", "default", 10), lambda: light.LONG + next(asked))
    runner.turn()
    runner.turn()
    assert runner.seconds == [light.LONG + 1, light.LONG + 2]


def runners() -> list[light.Runner]:
    seconds = {
        ("forward", "", 1): 0.001,
        ("forward", "", 100): 0.02,
        ("forward", "", 1000): 0.1,
        ("explanation", "lrp-epsilon", 1): 0.005,
        ("explanation", "lrp-epsilon", 1000): 0.4,
        ("compiled function", "lrp-epsilon", 1): 0.0047,
        ("zennit", "lrp-epsilon", 100): 0.1,
        ("zennit", "lrp-epsilon", 1000): 0.8,
    }
    found = [light.Runner(key, float, [each]) for key, each in seconds.items()]
    return [*found, light.Runner(("captum-lrp", "lrp-epsilon", 1), float, failed="no environment 'captum' here")]


def test_times_are_told_in_own_forward_passes():
    """One example in those of one, a batch in those of the best batch size."""
    rows = {runner.key: light._row(light.CASES[0], runner, runners()) for runner in runners()}
    one, many = rows["explanation", "lrp-epsilon", 1], rows["explanation", "lrp-epsilon", 1000]
    assert (one["forwards"], many["forwards"]) == (5, 4)
    assert one["python_seconds"] == pytest.approx(0.0003)
    assert many["rows_per_second"] == 2500
    assert (one["times_zennit"], many["times_zennit"]) == (0.16, 2)  # the best batch size where the same is not there
    assert rows["captum-lrp", "lrp-epsilon", 1]["skipped"] == "no environment 'captum' here"
    told = light.page({"environment": {"cpu": "Some", "cores": 2}, "rows": [*rows.values()]})
    assert "| digits_cnn | lrp-epsilon | 1,000 | 400 | 2,500 | 4 |  | 2.0 |  |" in told
