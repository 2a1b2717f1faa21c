"""The property tests in their long form: many more draws than the test suite has time for.

    python -m benchmarks.properties [--batch 1000] [--passes 2000] [--compositions 300] [--first 0]

Run from the repository's root. Three promises are tried on graphs drawn at random, each draw by its number: that what
is explained of each example is its part of the whole batch, or refused (tests/batch); that passes keep the function
(tests/passes); that several rewrites in a row keep relevance (tests/spellings). Exits with 1 where one is broken, with
the numbers of the draws. Takes about an hour on one core.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import sys
import traceback
from collections import Counter
from collections.abc import Callable

import jax
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import UnsatisfiedAssumption
from onnx.printer import to_text

from tests.batch.random_graphs import graphs
from tests.batch.test_random_graphs import outcome
from tests.passes.test_random_programs import check_passes
from tests.spellings.compositions import check_composition

BROKEN = "broken"
_LET_GO = 50  # draws after which compiled functions are let go, and the state is told


class Trial:
    """Draws of one kind, and how they came out."""

    def __init__(self, what: str) -> None:
        self.what, self.found = what, Counter[str]()

    def draw(self, name: str, check: Callable[[], str]) -> None:
        """Try one draw; what breaks the promise is printed."""
        try:
            came_out = check()
        except UnsatisfiedAssumption:
            raise
        except Exception:
            print(f"{self.what}, {name}: {BROKEN}\n{traceback.format_exc(limit=-3)}", flush=True)
            came_out = BROKEN
        self.found[came_out] += 1
        if self.found.total() % _LET_GO == 0:
            print(self, file=sys.stderr, flush=True)
            jax.clear_caches()
            gc.collect()

    def __str__(self) -> str:
        parts = ", ".join(f"{count} {name}" for name, count in sorted(self.found.items()))
        return f"{self.what}: {self.found.total()} draws, {parts}"


def batches(first: int, count: int) -> Trial:
    """Random graphs on a whole batch."""
    trial = Trial("batch")
    checks = [*HealthCheck.__members__.values()]

    @seed(first)
    @settings(max_examples=count, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=checks)
    @given(graphs())
    def run(model):
        trial.draw(to_text(model.graph), lambda: outcome(model))

    run()
    return trial


def numbered(what: str, check: Callable[[int], str], first: int, count: int) -> Trial:
    """Draws of these numbers."""
    trial = Trial(what)
    for number in itertools.islice(itertools.count(first), count):
        trial.draw(str(number), lambda number=number: check(number))
    return trial


def main() -> int:
    """Try all of them; 1 where a promise is broken."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.properties")
    for name, count in (("batch", 1000), ("passes", 2000), ("compositions", 300), ("first", 0)):
        parser.add_argument(f"--{name}", type=int, default=count)
    asked = parser.parse_args()
    trials = [
        *([numbered("passes", check_passes, asked.first, asked.passes)] if asked.passes else []),
        *([batches(asked.first, asked.batch)] if asked.batch else []),
        *([numbered("compositions", check_composition, asked.first, asked.compositions)] if asked.compositions else []),
    ]
    print(*trials, sep="\n")
    return int(any(trial.found[BROKEN] for trial in trials))


if __name__ == "__main__":
    sys.exit(main())
