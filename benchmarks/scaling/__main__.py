"""Measures point by point, fits exponents, and draws them."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..processes import resident, spent
from ..speed import machine

ROOT = Path(__file__).parents[2]
RESULTS, PICTURE = ROOT / "benchmarks/results/scaling/graphs.json", ROOT / "docs/scaling.png"
PAGE = ROOT / "docs/scaling.md"
MODES = ("default", "lrp-epsilon-plus", "gradient")
SERIES = {
    "chain": (300, 1000, 3000),
    "residual": (10, 100, 1000),
    "concat": (30, 300, 3000),
    "sum": (30, 300, 3000),
}
LARGE = {
    "pointwise": 3000,
    "concat_same": 3000,
    "sum_same": 3000,
    "doubling": 60,
    "consumers": 2000,
    "inputs": 300,
    "outputs": 5000,
    "diamonds": 40,
}
MOST = {"cpu_s": 60.0, "mib": 3 * 1024.0}
"""What the largest graph of a series may take."""
STEEPEST = 1.2
"""The largest exponent of a series."""
_FIGURES = ("cpu_s", "wall_s", "mib")
_LONGEST, _LARGEST = 900.0, 8 * 1024  # seconds of processor time and MiB after which a point is given up
_WAITING = 6 * 3600.0  # seconds of the clock after which it hangs, however busy the machine is

Row = dict[str, Any]


def measure(kind: str, size: int, mode: str) -> Row:
    """One point, in a process that is ended where it takes too long or too much."""
    command = [sys.executable, "-m", "benchmarks.scaling.worker", kind, str(size), mode]
    start = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        while process.poll() is None:
            hangs = time.monotonic() - start > _WAITING
            if hangs or spent(process.pid) > _LONGEST or resident(process.pid) > _LARGEST:
                process.kill()
            time.sleep(0.1)
        told = process.stdout.read() if process.stdout else ""
    found = json.loads(told.splitlines()[-1]) if process.returncode == 0 else {"ended": process.returncode}
    return {"kind": kind, "size": size, "mode": mode, **{k: round(v, 2) for k, v in found.items()}}


def exponent(rows: Sequence[Row], what: str) -> float:
    """Slope of the straight line through the points of a series on a log-log picture."""
    points = [(row["size"], row[what]) for row in rows if what in row]
    if len(points) < 2:
        return float("nan")
    sizes, values = np.log(np.array(points, float).T)
    return float(np.polyfit(sizes, values, 1)[0])


def series(rows: Sequence[Row], kind: str, mode: str) -> list[Row]:
    """Points of one kind and mode, by size."""
    return sorted((row for row in rows if (row["kind"], row["mode"]) == (kind, mode)), key=lambda row: row["size"])


def draw(rows: Sequence[Row]) -> None:
    """Seconds of processor time and MiB over size, both logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure((11, 4.5), layout="constrained")
    for axes, (what, unit) in zip(
        figure.subplots(1, 2),
        {"cpu_s": "processor time [s]", "mib": "peak memory of the process [MiB]"}.items(),
        strict=True,
    ):
        for number, kind in enumerate(SERIES):
            for mode, line in zip(MODES, ("-", "--", ":"), strict=True):
                found = [row for row in series(rows, kind, mode) if what in row]
                if not found:
                    continue
                label = f"{kind}, {mode}: {exponent(found, what):.2f}"
                places = [[row[name] for row in found] for name in ("size", what)]
                axes.loglog(*places, line, marker=".", color=f"C{number}", label=label)
        axes.set(xlabel="operators, blocks or operands", ylabel=unit)
        axes.legend(fontsize=6, title="exponents", title_fontsize=7)
        axes.grid(alpha=0.3)
    figure.savefig(PICTURE, dpi=120)


_PAGE = """# Large graphs

Made by `python -m benchmarks.scaling`. It measures the first explanation of one example, import and compilation
included, for graphs that are large but honest (`benchmarks/scaling/models.py`), each in a process of its own. Processor
time is that of all threads. Memory is the most that the process held, packages included. Wall times are longer than
they need be, since the machine had other work to do. With an exponent of 1, cost grows in proportion to the graph.
Nothing but what is in the table has been measured.

A function that JAX traces to more than 8,192 equations is compiled in pieces, and equal pieces are compiled once
(`engine/pieces.py`): layers that repeat cost no more than their tracing. A shorter function is compiled as a whole.

![Processor time and memory over size, both logarithmic](scaling.png)

| graph | mode | size | processor time, s | wall time, s | peak memory, MiB |
|---|---|---|---|---|---|
{rows}

| graph | mode | exponent of time | exponent of memory |
|---|---|---|---|
{exponents}

The bars are 60 s of processor time and 3 GiB for the largest graph of each series, and exponents of at most 1.2.
{verdict}

## What is bounded, and by which number

| what | bound | raised by |
|---|---|---|
| steps of all loops together, nested ones multiplied | 2^24 | `backtrace_jax.importers.onnx.limits.MOST_STEPS` |
| steps of one loop | 2^20 | `backtrace_jax.importers.onnx.limits.LONGEST_LOOP` |
| operands, and results, of one node | 8,192 | `backtrace_jax.importers.onnx.verify.MOST_OPERANDS` |
| nodes that loops and functions add | 20,000 | `backtrace_jax.importers.onnx.limits.MOST_UNFOLDED` |
| one value of an example, drawn numbers among them | 1 GiB | `backtrace_jax.importers.onnx.limits.LARGEST_VALUE` |
| floating-point operations of one run of the model | 2^47 | `backtrace_jax.engine.compiled.MOST_WORK` |

What takes more is refused by name and number before anything is compiled. In the main thread, Ctrl-C works while XLA
compiles or computes. Nothing can stop a call of XLA that has begun: it goes on in the background until it is done, and
its result is dropped. Of a run in pieces, no further piece is handed to XLA.
"""


def write_page(rows: Sequence[Row]) -> None:
    """The figures as tables."""
    ordered = sorted(rows, key=lambda row: (row["kind"], row["mode"], row["size"]))
    lines = [[row["kind"], row["mode"], *(row.get(n, "ended") for n in ("size", *_FIGURES))] for row in ordered]
    slopes = [(k, m, *(exponent(series(rows, k, m), n) for n in ("cpu_s", "mib"))) for k in SERIES for m in MODES]
    told = [(k, m, f"{time:.2f}", f"{memory:.2f}") for k, m, time, memory in slopes if time == time]
    misses = [f"- {each}" for each in missed(rows)]
    verdict = "\n".join(("Missed:", "", *misses)) if misses else "None is missed."
    PAGE.write_text(_PAGE.format(rows=_table(lines), exponents=_table(told), verdict=verdict))


def missed(rows: Sequence[Row]) -> list[str]:
    """The bars that a series which has been measured misses."""
    found = []
    for kind, sizes in SERIES.items():
        for mode in MODES:
            points = series(rows, kind, mode)
            for row in (row for row in points if row["size"] == sizes[-1]):
                over = [f"{row.get(n, 'ended')} of at most {most:g} ({n})" for n, most in MOST.items() if _over(row, n)]
                found += [f"{kind} of {row['size']:,}, {mode}: {each}" for each in over]
            slopes = {name: exponent(points, name) for name in MOST}
            found += [f"{kind}, {mode}: exponent {n:.2f} ({name})" for name, n in slopes.items() if n > STEEPEST]
    return found


def _over(row: Row, name: str) -> bool:
    return name not in row or row[name] > MOST[name]


def _table(lines: Sequence[Sequence[Any]]) -> str:
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def main() -> None:
    """Measure what is asked for, and draw."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--kinds", nargs="*", choices=[*SERIES, *LARGE], default=[*SERIES, *LARGE])
    parser.add_argument("--modes", nargs="*", choices=MODES, default=MODES)
    parser.add_argument("--draw", action="store_true", help="draw only")
    asked = parser.parse_args()
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    sizes = {**SERIES, **{kind: (size,) for kind, size in LARGE.items()}}
    points = [] if asked.draw else [(k, n, mode) for k in asked.kinds for mode in asked.modes for n in sizes[k]]
    for point in points:
        row = measure(*point)
        print(json.dumps(row), flush=True)
        rows = [each for each in rows if (each["kind"], each["size"], each["mode"]) != point] + [row]
        _write(rows)
    draw(rows)
    write_page(rows)


def _write(rows: Sequence[Row]) -> None:
    ordered = sorted(rows, key=lambda row: (row["kind"], row["mode"], row["size"]))
    lines = ",\n".join(json.dumps(row) for row in ordered)
    RESULTS.write_text(f'{{"environment": {json.dumps(machine.environment("cpu"))},\n"rows": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
