"""Lets contestants take turns, and sums up what their runs took."""

from __future__ import annotations

import datetime
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from . import machine
from .contestants import CONTESTANTS, NO_MODE, Contestant
from .process import FailedError, Job, Worker
from .results import KEY, Row, ratio, rounded, summed_up
from .stored import Stored

T = TypeVar("T")

PAUSE = 0.15  # seconds between two runs, in which thread pools stop spinning for more work
WARM_UPS = 1  # rounds
LONG = 30.0  # seconds of a run of a slow contestant that is not repeated
QUIET = 0.1
"""Part of the processors' time that others may use before the results say so."""
ANCHORS = ("forward", "jax-gradient")
"""What explanations are divided by; they take part in every block that has room."""


@dataclass(frozen=True)
class Course:
    """How contestants are measured.

    Attributes:
        repeats: Rounds.
        memory: Bytes that all processes alive at a time may be expected to need.
    """

    repeats: int
    memory: float


@dataclass
class Record:
    """What is known about a job after its block.

    Attributes:
        seconds: Of each run, by block and round.
        about: What the worker said about its set-up and its end.
        failed: Why there is nothing more.
    """

    seconds: dict[tuple[int, int], float] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    failed: str = ""


Records = Mapping[Job, Record]


def jobs(stored: Stored, batch: int, modes: Sequence[str], contestants: Sequence[str], device: str) -> list[Job]:
    """Everything that can be asked of these contestants."""
    chosen: list[Contestant] = [CONTESTANTS[name] for name in contestants]
    asked = [(contestant, mode) for mode in (NO_MODE, *modes) for contestant in chosen]
    return [Job(c, stored, batch, mode, device) for c, mode in asked if c.takes(stored.workload, batch, mode)]


def blocks(asked: Sequence[Job], memory: float) -> list[list[Job]]:
    """Jobs whose processes fit into memory together.

    Explanations of one mode, ours and the peers', stay together and beside the anchors, so that their ratios are of the
    same rounds; where not even these fit, every job has a block of its own. Slow jobs always have.
    """
    quick = [job for job in asked if not job.contestant.slow]
    anchors = [job for job in quick if job.contestant.name in ANCHORS]
    units: dict[str, list[Job]] = defaultdict(list)
    for job in quick:
        if job not in anchors:
            units[job.mode].append(job)
    alone = [[job] for job in asked if job.contestant.slow]
    if not units:
        return [anchors] * bool(anchors) + alone
    if any(_expected([*anchors, *unit]) > memory for unit in units.values()):
        return [[job] for job in quick] + alone
    return [[*anchors, *block] for block in _packed(list(units.values()), memory - _expected(anchors))] + alone


def _packed(units: Sequence[list[Job]], memory: float) -> list[list[Job]]:
    """Units in their order, as many to a block as fit."""
    found: list[list[Job]] = []
    for unit in units:
        if found and _expected([*found[-1], *unit]) <= memory:
            found[-1].extend(unit)
        else:
            found.append(list(unit))
    return found


def _expected(asked: Sequence[Job]) -> float:
    return sum(job.stored.workload.expected_bytes(job.batch) for job in asked)


def measure(asked: Sequence[Job], course: Course) -> list[Row]:
    """Run all blocks, and make a row for each job."""
    records = {job: Record() for job in asked}
    for number, jobs_together in enumerate(blocks(asked, course.memory)):
        block = _Block(number, records)
        try:
            block.start(jobs_together)
            block.run(course.repeats)
            block.end()
        finally:
            block.close()
    return [_row(job, records) for job in asked]


class _Block:
    """Workers that are alive together; one that fails is out, with its reason on record."""

    def __init__(self, number: int, records: Records) -> None:
        self._number, self._records = number, records
        self._workers: dict[Job, Worker] = {}

    def start(self, asked: Sequence[Job]) -> None:
        """One after the other, so that none compiles while another one does."""
        for job in asked:
            print(job, file=sys.stderr, flush=True)
            worker = self._attempt(job, partial(Worker, job))
            if worker is not None:
                self._workers[job] = worker
                self._records[job].about |= worker.ready

    def run(self, repeats: int) -> None:
        """Rounds in which each is timed once; the first ones warm up."""
        self._note_others()
        for turn in range(-WARM_UPS, repeats):
            for job, worker in list(self._workers.items()):
                time.sleep(PAUSE)
                seconds = self._attempt(job, partial(_turn, job, worker))
                long = seconds is not None and job.contestant.slow and seconds > LONG
                if seconds is not None and (turn >= 0 or long):
                    self._records[job].seconds[self._number, turn] = seconds
                if long:
                    return

    def _note_others(self) -> None:
        """Put on record how busy the machine is while all workers wait."""
        others = machine.busy()
        if others > QUIET:
            print(f"others use {others:.0%} of the processors' time", file=sys.stderr, flush=True)
        for job in self._workers:
            about = self._records[job].about
            about["others_busy"] = max(others, about.get("others_busy", 0.0))

    def end(self) -> None:
        """Ask what memory they held."""
        self._note_others()
        for job, worker in list(self._workers.items()):
            self._records[job].about |= self._attempt(job, worker.end) or {}

    def close(self) -> None:
        """End what is still alive."""
        for worker in self._workers.values():
            worker.close()

    def _attempt(self, job: Job, act: Callable[[], T]) -> T | None:
        try:
            return act()
        except FailedError as failure:
            print(f"{job}: {failure}", file=sys.stderr, flush=True)
            self._records[job].failed = str(failure)
            if job in self._workers:
                self._workers.pop(job).close()
            return None


def _turn(job: Job, worker: Worker) -> float:
    """Seconds of a run that follows another one, as within a dataset.

    What lay idle while others had their turns pays for that first: virtual machines hand idle memory back to their
    host, and get it anew page by page.
    """
    if not job.contestant.slow:
        worker.run()
    return worker.run()


def _row(job: Job, records: Records) -> Row:
    record = records[job]
    row = dict(zip(KEY, (job.stored.workload.name, job.batch, job.mode, job.contestant.name), strict=True))
    if record.failed:
        return {**row, "skipped": record.failed}
    about = {name: _tidy(value) for name, value in record.about.items() if name != "ready"}
    fastest = rounded(min(record.seconds.values()))
    return {
        **row,
        **summed_up(list(record.seconds.values())),
        "fastest": fastest,
        **about,
        "repeats": len(record.seconds),
        "ratios": _ratios(job, records),
        "measured": datetime.date.today().isoformat(),
    }


def _tidy(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value


def _ratios(job: Job, records: Records) -> dict[str, Any]:
    """The job's time over that of what it is compared with: references, or explanations in the same mode."""
    others = {
        other.contestant.name: record.seconds
        for other, record in records.items()
        if other.contestant.name in job.contestant.against and other.mode in (NO_MODE, job.mode) and not record.failed
    }
    return {name: ratio(records[job].seconds, seconds) for name, seconds in others.items()}
