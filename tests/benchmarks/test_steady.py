"""Memory of a process that sees ever new shapes, or ever new models, in a short form of `benchmarks.steady`."""

from __future__ import annotations

import sys

import pytest

from benchmarks import steady

MOST = {"shapes": 3.0, "models": 1.0}
"""MiB for each further one: caches of JAX that have a bound fill for a while. It was 30 MiB for a shape."""


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
@pytest.mark.parametrize(("loop", "count"), [("shapes", 40), ("models", 40)])
def test_memory_is_steady_after_the_first_twenty(loop, count):
    found = steady.measure(loop, count, hurried=True)
    assert [turns for turns, _ in found] == list(range(10, count + 1, 10))
    assert steady.growth(found) < MOST[loop], found
