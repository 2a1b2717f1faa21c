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

from ..speed import machine

ROOT = Path(__file__).parents[2]
RESULTS, PICTURE = ROOT / "benchmarks/results/scaling.json", ROOT / "docs/scaling.png"
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
_LONGEST, _LARGEST = 900.0, 8 * 1024  # seconds and MiB after which a point is given up

Row = dict[str, Any]


def measure(kind: str, size: int, mode: str) -> Row:
    """One point, in a process that is ended where it takes too long or too much."""
    command = [sys.executable, "-m", "benchmarks.scaling.worker", kind, str(size), mode]
    start = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        while process.poll() is None:
            if time.monotonic() - start > _LONGEST or _resident(process.pid) > _LARGEST:
                process.kill()
            time.sleep(0.1)
        told = process.stdout.read() if process.stdout else ""
    found = json.loads(told.splitlines()[-1]) if process.returncode == 0 else {"ended": process.returncode}
    return {"kind": kind, "size": size, "mode": mode, **{k: round(v, 2) for k, v in found.items()}}


def _resident(process: int) -> float:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def exponent(rows: Sequence[Row], what: str) -> float:
    """Slope of the straight line through the points of a series on a log-log picture."""
    points = [(row["size"], row[what]) for row in rows if what in row]
    if len(points) < 2:
        return float("nan")
    return float(np.polyfit(*np.log(np.array(points, float).T), 1)[0])


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
                label = f"{kind}, {mode}: {exponent(found, what):.2f}"
                places = [[row[name] for row in found] for name in ("size", what)]
                axes.loglog(*places, line, marker=".", color=f"C{number}", label=label)
        axes.set(xlabel="operators, blocks or operands", ylabel=unit)
        axes.legend(fontsize=6, title="exponents", title_fontsize=7)
        axes.grid(alpha=0.3)
    figure.savefig(PICTURE, dpi=120)


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


def _write(rows: Sequence[Row]) -> None:
    ordered = sorted(rows, key=lambda row: (row["kind"], row["mode"], row["size"]))
    lines = ",\n".join(json.dumps(row) for row in ordered)
    RESULTS.write_text(f'{{"environment": {json.dumps(machine.environment("cpu"))},\n"rows": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
