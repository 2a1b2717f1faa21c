"""Rows of results: what was measured, how it is summed up, and the file they are kept in."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "results"
BASELINE = FOLDER / "baseline.json"
KEY = ("workload", "batch", "mode", "contestant")

Row = dict[str, Any]
Seconds = Mapping[tuple[int, int], float]
"""Seconds of each run, by block and round."""


def summed_up(values: Sequence[float]) -> dict[str, Any]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {"median": rounded(middle), "quartiles": [rounded(low), rounded(high)]}


def ratio(seconds: Seconds, others: Seconds) -> dict[str, Any]:
    """How much longer one takes than another: of the rounds both took part in, or of the medians if there are none."""
    both = seconds.keys() & others.keys()
    if both:
        return {**summed_up([seconds[each] / others[each] for each in both]), "interleaved": True}
    medians = [statistics.median(each.values()) for each in (seconds, others)]
    return {**summed_up([medians[0] / medians[1]]), "interleaved": False}


def rounded(value: float) -> float:
    """Four digits: more would not be the same next time."""
    return float(f"{value:.4g}")


def key_of(row: Row) -> tuple[Any, ...]:
    """What a row is about."""
    return tuple(row[name] for name in KEY)


def read(path: Path) -> dict[str, Any]:
    """Results as they were written; none where there is no file."""
    if not path.exists():
        return {"environment": {}, "rows": []}
    return json.loads(path.read_text())


def merged(found: Mapping[str, Any], environment: Mapping[str, Any], rows: Iterable[Row]) -> dict[str, Any]:
    """Results with these rows put in the place of those about the same.

    Raises:
        ValueError: When they were measured on another machine.
    """
    if found["environment"] and found["environment"] != environment:
        raise ValueError(f"the results are of {found['environment']}, this machine is {environment}")
    kept = {key_of(row): row for row in (*found["rows"], *rows)}
    return {"environment": dict(environment), "rows": [kept[key] for key in sorted(kept)]}


def path_for(environment: Mapping[str, Any]) -> Path:
    """Where the results of a machine are kept."""
    words = f"{environment.get('gpu', environment['cpu'])} {environment['cores']} cores"
    return FOLDER / f"{re.sub(r'[^a-z0-9]+', '-', words.lower()).strip('-')}.json"


def write(path: Path, results: Mapping[str, Any]) -> None:
    """One row a line, so that a difference of two versions can be read."""
    rows = ",\n".join(json.dumps(row, sort_keys=True) for row in results["rows"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{{"environment": {json.dumps(results["environment"])},\n"rows": [\n{rows}\n]}}\n')
