"""Light models: one example, and a million, in one run in which all take turns.

    python -m benchmarks.light
    python -m benchmarks.light --only rows_mlp --rounds 5

The explanation is the public call with books in total, transfers and results included. "Forwards" are its time in own
forward passes: of one example by the forward pass compiled for one, of a batch by that of the batch size which is best
per example. zennit and Captum run in processes of their own, at several batch sizes (see `benchmarks.speed`); where
their environments are not installed, the results say so. Results go to benchmarks/results/light/, and from there to
docs/light.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import jax

from backtrace_jax import Explainer
from backtrace_jax.engine import compiled
from backtrace_jax.engine.forward import compile_batched_forward
from backtrace_jax.runtime.numerics import exact_types
from benchmarks.speed import machine
from benchmarks.speed.contestants import CONTESTANTS
from benchmarks.speed.contestants.jax_programs import finished, lowered
from benchmarks.speed.process import FailedError, Job, Worker
from benchmarks.speed.results import rounded, summed_up
from benchmarks.speed.stored import Stored, stored

ROOT = Path(__file__).parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "light", ROOT / "docs" / "light.md"
FORWARD, EXPLANATION, COMPILED = "forward", "explanation", "compiled function"
MODES = ("lrp-epsilon", "default")
PEERS = ("zennit", "captum-lrp")
SHORT, LONG = 0.02, 0.3  # seconds: what is shorter runs several times in a turn, what is longer once without warm-up


@dataclass(frozen=True)
class Case:
    """What is measured of a workload.

    Attributes:
        workload: Its name.
        batches: Batch sizes of explanations.
        forwards: Batch sizes of forward passes.
        peers: Batch sizes of the peers.
    """

    workload: str
    batches: tuple[int, ...]
    forwards: tuple[int, ...]
    peers: tuple[int, ...] = ()


CASES = (
    Case("digits_cnn", (1, 32, 256, 1024, 100_000), (1, 256, 1024, 4096), (1, 32, 256, 1024)),
    Case("rows_mlp", (1, 1_000_000), (1, 1024, 4096, 16384), (4096, 65536)),
    *(Case(f"small_cnn_{width}", (1,), (1,), (1,)) for width in (8, 20, 48)),
)


@dataclass
class Runner:
    """Something that takes turns.

    Attributes:
        key: (contestant, mode, batch).
        run: Runs it once and tells the seconds.
        seconds: Of its turns.
        failed: Why it does not run.
    """

    key: tuple[str, str, int]
    run: Callable[[], float]
    seconds: list[float] = field(default_factory=list)
    failed: str = ""

    def turn(self) -> None:
        """Run it once to warm up, then until the turn is long enough to be timed."""
        first = self.run()
        spent = [first] if first > LONG and self.seconds else []
        while sum(spent) < SHORT:
            spent.append(self.run())
        self.seconds.append(statistics.median(spent))


def timed(call: Callable[[], Any]) -> Callable[[], float]:
    """Tells the seconds of a call."""

    def run() -> float:
        before = time.perf_counter()
        call()
        return time.perf_counter() - before

    return run


def forward(known: Stored, batch: int) -> Callable[[], Any]:
    """The compiled forward pass of a batch, its arrays on the device."""
    program, weights, inputs = lowered(known, batch)
    return finished(compile_batched_forward(program.graph, weights, inputs), weights, inputs)


def bare(explainer: Explainer, inputs: Any) -> Callable[[], Any]:
    """The compiled function alone on a single example, its arrays on the device: what is left of a call is Python's."""
    seen: list[tuple[Any, Any]] = []
    run = compiled.Compiled.run

    def watched(found: Any, *given: Any) -> Any:
        call = found.explain.call

        def noted(*arguments: Any) -> Any:
            seen.append((call, arguments))
            return call(*arguments)

        object.__setattr__(found.explain, "call", noted)
        try:
            return run(found, *given)
        finally:
            object.__setattr__(found.explain, "call", call)

    with mock.patch.object(compiled.Compiled, "run", watched):
        explainer(inputs)
    call, arguments = seen[0]
    with exact_types():
        return finished(call, *jax.device_put(arguments))


def ours(case: Case, known: Stored) -> Iterator[Runner]:
    """Forward passes and explanations."""
    for batch in case.forwards:
        yield Runner((FORWARD, "", batch), timed(forward(known, batch)))
    for mode in MODES:
        explainer = Explainer(known.onnx, mode=mode, task=known.workload.task, ledger="total")
        for batch in case.batches:
            inputs = known.inputs(batch)
            yield Runner((EXPLANATION, mode, batch), timed(lambda e=explainer, x=inputs: e(x)))
        yield Runner((COMPILED, mode, 1), timed(bare(explainer, known.inputs(1))))


def theirs(case: Case, known: Stored) -> Iterator[Runner]:
    """The peers, in processes of their own."""
    for name in PEERS:
        for batch in case.peers:
            key = (name, MODES[0], batch)
            try:
                yield Runner(key, Worker(Job(CONTESTANTS[name], known, batch, MODES[0], "cpu")).run)
            except FailedError as failure:
                yield Runner(key, float, failed=str(failure))


def measured(case: Case, rounds: int) -> list[dict[str, Any]]:
    """Let all take turns, and make a row for each."""
    known = stored(case.workload)
    runners = [*ours(case, known), *theirs(case, known)]
    for _ in range(rounds):
        for runner in (each for each in runners if not each.failed):
            try:
                runner.turn()
            except FailedError as failure:
                runner.failed = str(failure)
    return [_row(case, runner, runners) for runner in runners]


def _row(case: Case, runner: Runner, runners: list[Runner]) -> dict[str, Any]:
    contestant, mode, batch = runner.key
    row = {"workload": case.workload, "contestant": contestant, "mode": mode, "batch": batch}
    if runner.failed or not runner.seconds:
        return {**row, "skipped": runner.failed}
    each = _per_example(runner)
    row |= {**summed_up(runner.seconds), "rows_per_second": rounded(1 / each)}
    if contestant == EXPLANATION:
        row["forwards"] = rounded(each / min(_of(runners, FORWARD, single=batch == 1)))
        peers = {name: _peer(runners, name, runner) for name in PEERS}
        row |= {f"times_{name}": rounded(min(found) / each) for name, found in peers.items() if found}
    if contestant == EXPLANATION and batch == 1:
        alone = next(each for each in runners if each.key == (COMPILED, mode, 1))
        python = [a - b for a, b in zip(runner.seconds, alone.seconds, strict=True)]
        row["python_seconds"] = rounded(statistics.median(python))
    return row


def _per_example(runner: Runner) -> float:
    return statistics.median(runner.seconds) / runner.key[2]


def _of(runners: list[Runner], contestant: str, *, single: bool) -> list[float]:
    """Seconds per example at the batch sizes measured: 1, or all others."""
    fit = [each for each in runners if each.key[0] == contestant and each.seconds and (each.key[2] == 1) == single]
    return [_per_example(each) for each in fit]


def _peer(runners: list[Runner], name: str, ours: Runner) -> list[float]:
    """Seconds per example of a peer: at the same batch size where that was measured, else at any."""
    found = [each for each in runners if each.key[:2] == (name, ours.key[1]) and each.seconds]
    return [_per_example(each) for each in found if each.key[2] == ours.key[2]] or [*map(_per_example, found)]


def page(found: dict[str, Any]) -> str:
    """The results as a page of one screen."""
    lines = [
        "# Light models: one example, and a million\n",
        "Made by `python -m benchmarks.light`, in which all take turns; medians. The explanation is the public call,",
        'everything included, with `ledger="total"`. Forwards: its time in own forward passes, of one',
        "example by the pass compiled for one, of a batch by that of the best batch size. Python: the call less the",
        "compiled function. The last columns: zennit's and Captum's time over ours at the same batch size, or at their",
        "best one.\n",
        f"{found['environment']['cpu']}, {found['environment']['cores']} cores.\n",
        "| workload | mode | batch | ms | examples / s | forwards | Python ms | zennit | Captum |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        if row["contestant"] == EXPLANATION and "median" in row:
            python = f"{1e3 * row['python_seconds']:.2f}" if "python_seconds" in row else ""
            cells = [row["workload"], row["mode"], f"{row['batch']:,}", f"{1e3 * row['median']:.4g}"]
            cells += [f"{row['rows_per_second']:,.0f}", f"{row['forwards']:.3g}", python]
            cells += [row.get(f"times_{name}", "") for name in PEERS]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, write the results, and the page from them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.light", description=(__doc__ or "").splitlines()[0])
    names = [case.workload for case in CASES]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="turns of each: %(default)s")
    parser.add_argument("--results", type=Path, default=RESULTS / "light.json", metavar="FILE.json")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    before, rows = machine.busy(), []
    for case in CASES:
        if asked.only is None or case.workload in asked.only:
            print(case.workload, file=sys.stderr, flush=True)
            rows += measured(case, asked.rounds)
    found = {"environment": machine.environment("cpu"), "others_busy": rounded(before), "rows": rows}
    asked.results.parent.mkdir(parents=True, exist_ok=True)
    asked.results.write_text(json.dumps(found, indent=1) + "\n")
    print(page(found))
    if asked.results == RESULTS / "light.json" and asked.only is None:
        PAGE.write_text(page(found))


if __name__ == "__main__":
    main()
