"""The parent of the trials: hands out numbers, ends what hangs, counts, and writes down what must not be."""

from __future__ import annotations

import argparse
import json
import selectors
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..processes import spent

PATIENCE = 40  # seconds of processor time after which a file hangs
WAITING = 600  # seconds of the clock after which it does, however busy the machine is
START = 900  # seconds for a worker to be ready
BATCH = 1250  # files per process


def main() -> int:
    """Run, or replay one file; the exit status says whether there were findings."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz")
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--every", type=int, default=20, help="of which one in so many is explained as well")
    parser.add_argument("--quick", action="store_true", help="start from the models that need no making")
    parser.add_argument("--output", type=Path, default=Path("fuzz.json"))
    parser.add_argument("--replay", metavar="SEED:INDEX")
    parser.add_argument("--keep", type=Path, help="where to put the replayed file")
    asked = parser.parse_args()
    if asked.replay:
        return replay(asked.replay, asked.every, asked.keep, full=not asked.quick)
    begin = time.monotonic()
    numbers = range(asked.first, asked.first + asked.files)
    summary = summarised(
        fuzz(asked.seed, numbers, workers=asked.workers, every=asked.every, full=not asked.quick), progress=True
    )
    summary["command"] = " ".join(["python -m benchmarks.fuzz", *sys.argv[1:]])
    summary["minutes"] = round((time.monotonic() - begin) / 60, 1)
    asked.output.write_text(json.dumps(summary, indent=1))
    print(json.dumps({key: value for key, value in summary.items() if key != "findings"}, indent=1))
    return 1 if summary["findings"] else 0


def fuzz(seed: int, numbers: range, *, workers: int, every: int, full: bool) -> Iterator[dict[str, Any]]:
    """Trials of these numbers, in whatever order they end."""
    batches = [numbers[i : i + BATCH] for i in range(0, len(numbers), BATCH)]
    with ThreadPoolExecutor(workers) as pool:
        for trials in pool.map(lambda batch: _batch(seed, batch, every, full), batches):
            yield from trials


def _batch(seed: int, numbers: range, every: int, full: bool) -> list[dict[str, Any]]:
    """Trials of a batch, in a process that is replaced when it dies or hangs."""
    trials, waiting = [], list(numbers)
    while waiting:
        with _Worker(seed, every, full) as worker:
            while waiting:
                number = waiting.pop(0)
                trial = worker.run(number)
                trials.append(trial)
                if trial["findings"]:
                    print(
                        trial["name"], trial["base"], trial["mutations"], *trial["findings"], sep="  ", file=sys.stderr
                    )
                if not worker.is_fit(trial):
                    break
    return trials


class _Worker:
    """A process that runs trials."""

    def __init__(self, seed: int, every: int, full: bool) -> None:
        self._seed = seed
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        command = [sys.executable, "-m", "benchmarks.fuzz.worker", str(seed), "--every", str(every)]
        self._process = subprocess.Popen(
            command + ["--full"] * full, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )

    def __enter__(self) -> _Worker:
        if self._line(START) != "ready\n":
            said = self._said()
            self.__exit__()
            raise RuntimeError(f"a worker did not start: {said}")
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:  # closes its pipes
            self._process.kill()
        self._errors.close()

    def run(self, number: int) -> dict[str, Any]:
        """One trial; a process that does not answer has crashed or hangs."""
        assert self._process.stdin
        begin = time.monotonic()
        self._process.stdin.write(f"{number}\n")
        self._process.stdin.flush()
        line = self._line(PATIENCE)
        if line:
            return json.loads(line)
        ended = self._process.poll() if line is None else self._process.wait()
        kind = "hang" if ended is None else f"crash (exit {ended})"
        said = f"{kind}: after {time.monotonic() - begin:.0f} s: {self._said()}"
        return {"name": f"{self._seed}:{number}", "base": "", "mutations": [], "outcome": kind, "findings": [said]}

    def is_fit(self, trial: dict[str, Any]) -> bool:
        """Whether the process is alive and has not grown by what it was given."""
        return trial["outcome"].partition(" ")[0] not in ("hang", "crash") and trial.get("mebibytes", 0) < 1600

    def _line(self, seconds: float) -> str | None:
        """What the process says next: nothing when it has ended, None when it says nothing in time."""
        assert self._process.stdout
        begin, before = time.monotonic(), spent(self._process.pid)
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not selector.select(2):
                used = spent(self._process.pid) - before
                if used > seconds or time.monotonic() - begin > max(seconds, WAITING):
                    return None
        return self._process.stdout.readline()

    def _said(self) -> str:
        self._errors.seek(0)
        return self._errors.read()[-3000:]


def summarised(trials: Iterator[dict[str, Any]], *, progress: bool = False) -> dict[str, Any]:
    """Counts of outcomes and causes, the slowest files, and the findings."""
    done: list[dict[str, Any]] = []
    for trial in trials:
        done.append(trial)
        if progress and len(done) % BATCH == 0:
            found = sum(bool(each["findings"]) for each in done)
            print(f"{len(done)} files, {found} findings", file=sys.stderr, flush=True)
    kinds = Counter(finding.partition(":")[0] for each in done for finding in each["findings"])
    slowest = sorted(done, key=lambda each: -each.get("seconds", 0))[:10]
    return {
        "files": len(done),
        "outcomes": dict(Counter(each["outcome"] for each in done).most_common()),
        "finding_kinds": dict(kinds),
        "families": dict(Counter(each["base"].partition("/")[0] for each in done).most_common()),
        "mutations": dict(Counter(name for each in done for name in each["mutations"]).most_common()),
        "causes": dict(Counter(each.get("cause", "").partition(":")[0] for each in done).most_common(30)),
        "seconds": {each["name"]: each.get("seconds") for each in slowest},
        "most_mebibytes": max((each.get("mebibytes", 0) for each in done), default=0),
        "findings": [each for each in done if each["findings"]],
    }


def replay(name: str, every: int, keep: Path | None, *, full: bool) -> int:
    """One file again, in this process."""
    from . import worker

    seed, _, index = name.partition(":")
    data, _ = worker.made(int(seed), int(index), full=full)
    if keep:
        keep.write_bytes(data)
    with tempfile.TemporaryDirectory() as folder:
        trial = worker.run(int(seed), int(index), worker.prepared(Path(folder)), full=full, every=every)
    print(json.dumps(asdict(trial), indent=1))
    return 1 if trial.findings else 0


if __name__ == "__main__":
    sys.exit(main())
