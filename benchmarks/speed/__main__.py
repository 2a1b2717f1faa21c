"""The command line of the measurements: python -m benchmarks.speed --help."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import __doc__ as about
from . import harness, machine, results
from .contestants import CONTESTANTS
from .stored import stored
from .workloads import MODES, SERIES, SERIES_CONTESTANTS, SERIES_MODES, STANDARD, WORKLOADS

QUICK = tuple(name for name, contestant in CONTESTANTS.items() if not contestant.slow)


@dataclass(frozen=True)
class Portion:
    """What is measured in one run: a workload at one batch size."""

    workload: str
    batch: int
    modes: tuple[str, ...]
    contestants: tuple[str, ...]


def main() -> None:
    """Measure what is asked for; the results file grows with every workload and batch size."""
    asked = _parser().parse_args()
    found = machine.environment(asked.device)
    path = asked.results or results.path_for(found)
    memory = asked.memory * 2**30 if asked.memory else 0.8 * machine.total_memory()
    course = harness.Course(asked.repeats, memory)
    results.merged(results.read(path), found, [])  # another machine's file is refused before hours are spent
    for portion in portions(asked):
        jobs = harness.jobs(stored(portion.workload), portion.batch, portion.modes, portion.contestants, asked.device)
        rows = harness.measure(jobs, course)
        results.write(path, results.merged(results.read(path), found, rows))


def portions(asked: argparse.Namespace) -> Iterator[Portion]:
    """The workloads asked for, or all; or the series."""
    quick_or_all = tuple(CONTESTANTS) if asked.slow else QUICK
    for name in asked.series:
        for _, workload, batch in SERIES[name].points:
            yield Portion(workload, batch, SERIES_MODES, SERIES_CONTESTANTS)
    for name in asked.workloads or (() if asked.series else STANDARD):
        workload = WORKLOADS[name]
        for batch in asked.batches or workload.batches:
            modes, contestants = asked.modes or workload.modes, asked.contestants or quick_or_all
            yield Portion(name, batch, tuple(modes), tuple(contestants))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=about.splitlines()[0])
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, metavar="NAME", help=", ".join(WORKLOADS))
    parser.add_argument("--batches", nargs="+", type=int, metavar="N")
    parser.add_argument("--modes", nargs="+", choices=MODES, metavar="MODE", help=", ".join(MODES))
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, metavar="NAME", help=", ".join(CONTESTANTS))
    parser.add_argument("--series", nargs="+", choices=SERIES, default=(), metavar="NAME", help=", ".join(SERIES))
    parser.add_argument("--repeats", type=int, default=10, metavar="N")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--memory", type=float, metavar="GIB", help="for all processes alive at a time; 80 percent")
    parser.add_argument("--slow", action="store_true", help="also the contestants that take minutes to hours")
    parser.add_argument("--results", type=Path, metavar="FILE.json")
    return parser


if __name__ == "__main__":
    main()
