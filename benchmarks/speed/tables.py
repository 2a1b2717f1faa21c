"""Writes docs/benchmarks.md from the results: python -m benchmarks.speed.tables [FILE.json ...]."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from . import results
from .harness import QUIET
from .promises import Found, Promise, examined
from .results import Row
from .workloads import SERIES, SERIES_CONTESTANTS, SERIES_MODES, WORKLOADS

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
HEAD = """# Benchmarks

Made by `python -m benchmarks.speed.tables` from `benchmarks/results`; `python -m benchmarks.speed` measures.
Contestants are processes that are alive together and take turns; seconds are medians of their runs with quartiles, of
runs that follow another one at once, as within a dataset; a ratio is the median of the ratios within a round. Where a
ratio is marked † the two did not take turns, because memory had no room for both or one of them takes minutes.
`explanation` is the public call, transfers to and from the host included (`explanation-total`: with the books of the
whole graph alone); `forward` is the same graph's forward pass,
`jax-gradient` its gradient of each example's top logit. Memory is the most that the whole process held, packages and
compiler included. Where figures are marked ‡ the machine had other work to do, which harms those most whose threads
wait by spinning, as PyTorch's do.
"""


def page(found: Sequence[Mapping[str, Any]]) -> str:
    """The whole page, a section for each machine."""
    return "\n".join((HEAD, *(line for each in found for line in _machine(each))))


def _machine(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {_named(found['environment'])}\n"
    yield from _promises(found["rows"])
    for name, rows in groupby(sorted(found["rows"], key=lambda row: _place(row["workload"])), _workload):
        yield from _workload_section(name, list(rows))
    for name in SERIES:
        yield from _series_section(name, found["rows"])


def _named(environment: Mapping[str, Any]) -> str:
    device = environment.get("gpu", environment["cpu"])
    return f"{device}, {environment['cores']} cores, {environment['memory_gib']} GiB"


def _workload(row: Row) -> str:
    return row["workload"]


def _place(name: str) -> int:
    return list(WORKLOADS).index(name)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table in Markdown."""
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""


def digits(value: float | None) -> str:
    """Three digits, never an exponent."""
    return "" if value is None else f"{value:.0f}" if value >= 100 else f"{float(f'{value:.3g}'):.6g}"


def _promises(rows: Sequence[Row]) -> Iterator[str]:
    """How far every promise is kept, by workload and batch."""
    lines = [_line(*each) for each in examined(rows)]
    if lines:
        yield "### Promises\n"
        yield from table(("promise", "workload", "batch", "mode", "found", "kept"), lines)


def _line(promise: Promise, row: Row, found: Found) -> tuple[str, ...]:
    kept = "yes" if promise.kept_by(found) else "**no**"
    return f"{promise}", row["workload"], f"{row['batch']}", row["mode"], _figure(*found) + _disturbed(row), kept


def _figure(value: float, interleaved: bool) -> str:
    return digits(value) + "†" * (not interleaved)


def _disturbed(row: Row) -> str:
    return "‡" * (row["others_busy"] > QUIET)


def _workload_section(name: str, rows: Sequence[Row]) -> Iterator[str]:
    rows = sorted(rows, key=lambda row: (row["batch"], row["mode"], row["contestant"]))
    yield f"### {WORKLOADS[name].about} (`{name}`)\n"
    head = ("batch", "mode", "contestant", "seconds", "quartiles", "times", "compile s", "GiB")
    yield from table(head, (_cells(row) for row in rows if "median" in row))
    skipped = [
        f"- {row['contestant']} {row['mode']}, batch {row['batch']}: {row['skipped']}"
        for row in rows
        if "skipped" in row
    ]
    yield from ("Not measured:\n", *skipped, "") if skipped else ()


def _cells(row: Row) -> tuple[str, ...]:
    quartiles = " to ".join(map(digits, row["quartiles"]))
    times = {name: _figure(found["median"], found["interleaved"]) for name, found in sorted(row["ratios"].items())}
    seconds = digits(row["median"]) + _disturbed(row)
    ratios = ", ".join(f"{figure} {name}" for name, figure in times.items())
    start = (f"{row['batch']}", row["mode"], row["contestant"], seconds, quartiles, ratios)
    return (*start, digits(row["compile_seconds"]), digits(row["peak_bytes"] / 2**30))


def _series_section(name: str, rows: Sequence[Row]) -> Iterator[str]:
    """Seconds and memory of each point that was measured; nothing where none was."""
    series, measured = SERIES[name], {results.key_of(row): row for row in rows if "median" in row}
    lines = []
    for value, workload, batch in series.points:
        keys = [(workload, batch, mode, one) for one in SERIES_CONTESTANTS for mode in ("", *SERIES_MODES)]
        points = [measured[key] for key in keys if key in measured]
        if len(points) == len(SERIES_CONTESTANTS):
            sizes = [digits(point["running_bytes"] / 2**30) for point in points]
            lines.append((f"{value}", *(digits(point["median"]) for point in points), *sizes))
    if lines:
        yield f"### Growth with {series.axis}\n"
        units = [f"{contestant} {unit}" for unit in ("s", "GiB") for contestant in SERIES_CONTESTANTS]
        yield from table((series.axis, *units), lines)


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.tables")
    parser.add_argument("results", nargs="*", type=Path, help="by default all of benchmarks/results")
    parser.add_argument("--page", type=Path, default=PAGE)
    asked = parser.parse_args()
    paths = asked.results or sorted(path for path in results.FOLDER.glob("*.json") if path != results.BASELINE)
    asked.page.write_text(page([results.read(path) for path in paths]))


if __name__ == "__main__":
    main()
