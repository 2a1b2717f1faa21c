"""What got slower: compares the ratios of a run with those of the committed baseline.

    python -m benchmarks.speed --workloads resnet18 --batches 8
    python -m benchmarks.speed.guard              # exit status 1, and the names of what got slower
    python -m benchmarks.speed.guard --update     # the run becomes the baseline

Seconds differ from machine to machine and from day to day; ratios of contestants that took turns hardly do, so only
these are kept.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from . import machine, results
from .contestants import CONTESTANTS

TOLERANCE = 0.15
"""How much worse a ratio may be: a choice, above what two runs on a shared machine differ by."""


def ratios(found: Mapping[str, Any]) -> dict[str, float]:
    """The ratios of a run, of contestants that took turns, by name."""
    return {
        _name(*results.key_of(row), other): ratio["median"]
        for row in found["rows"]
        for other, ratio in row.get("ratios", {}).items()
        if ratio["interleaved"]
    }


def _name(workload: str, batch: int, mode: str, contestant: str, other: str) -> str:
    return f"{workload} | {batch} | {mode} | {contestant} | {other}"


def regressions(before: Mapping[str, float], found: Mapping[str, Any], tolerance: float) -> Iterator[str]:
    """What got slower, or cannot be measured any more, in words."""
    for row in found["rows"]:
        lost = [name for name in before if name.startswith(_name(*results.key_of(row), ""))]
        if "skipped" in row and lost and CONTESTANTS[row["contestant"]].ours:
            yield f"{lost[0]}: was measured, but now: {row['skipped']}"
    for name, now in ratios(found).items():
        if name in before and _worsening(name, before[name], now) > 1 + tolerance:
            yield f"{name}: {before[name]:.3g} before, {now:.3g} now"


def _worsening(name: str, before: float, now: float) -> float:
    """The factor by which a ratio got worse: our time stands above the line, or below that of a peer."""
    contestant = name.split(" | ")[-2]
    return now / before if CONTESTANTS[contestant].ours else before / now


def update(path: Path, found: Mapping[str, Any]) -> None:
    """Make a run the baseline."""
    kept = {"environment": found["environment"], "ratios": dict(sorted(ratios(found).items()))}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept, indent=1) + "\n")


def main() -> int:
    """Compare, or update; the exit status says whether anything got slower."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.guard")
    parser.add_argument("--results", type=Path, help="of the run; by default this machine's")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="where no results are named")
    parser.add_argument("--baseline", type=Path, default=results.BASELINE)
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="how much worse a ratio may be: %(default)s")
    parser.add_argument("--update", action="store_true")
    asked = parser.parse_args()
    found = results.read(asked.results or results.path_for(machine.environment(asked.device)))
    if asked.update:
        update(asked.baseline, found)
        return 0
    return _compared(json.loads(asked.baseline.read_text()), found, asked.tolerance)


def _compared(baseline: Mapping[str, Any], found: Mapping[str, Any], tolerance: float) -> int:
    if baseline["environment"] != found["environment"]:
        print(f"the baseline is of another machine: {baseline['environment']}", file=sys.stderr)
    common = baseline["ratios"].keys() & ratios(found).keys()
    slower = list(regressions(baseline["ratios"], found, tolerance))
    print(*slower, f"{len(common)} ratios compared, {len(slower)} worse by more than {tolerance:.0%}", sep="\n")
    return 1 if slower or not common else 0


if __name__ == "__main__":
    sys.exit(main())
