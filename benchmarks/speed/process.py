"""The parent's end of a worker."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import tempfile
from dataclasses import dataclass
from typing import Any

from .contestants import Contestant
from .environments import interpreter
from .stored import ROOT, Stored

START = 1800.0  # seconds for a worker to be ready: large models take minutes to read and to compile
_DEVICE = {
    "cpu": {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""},
    "gpu": {"JAX_PLATFORMS": "cuda,cpu", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},  # workers share the memory
}
_SETTINGS = {"HF_HUB_OFFLINE": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "TQDM_DISABLE": "1", "PYTHONPATH": str(ROOT)}


class FailedError(Exception):
    """A contestant that cannot be measured, and why."""


@dataclass(frozen=True)
class Job:
    """What one worker does."""

    contestant: Contestant
    stored: Stored
    batch: int
    mode: str
    device: str

    def __str__(self) -> str:
        mode = f" {self.mode}" * bool(self.mode)
        return f"{self.stored.workload.name}, batch {self.batch}: {self.contestant.name}{mode}"

    def request(self) -> dict[str, Any]:
        """The job as the worker reads it."""
        return {
            "contestant": self.contestant.name,
            "workload": self.stored.workload.name,
            "folder": str(self.stored.folder),
            "batch": self.batch,
            "mode": self.mode,
            "device": self.device,
        }


class Worker:
    """A process that is ready to run its job once it has been made.

    Attributes:
        ready: What it said about its set-up.
    """

    def __init__(self, job: Job) -> None:
        """Start it and wait until it has prepared its job.

        Raises:
            FailedError: When there is no such environment, or the contestant does not get ready.
        """
        python = interpreter(job.contestant.environment)
        if python is None:
            raise FailedError(f"no environment {job.contestant.environment!r} here")
        self._limit = job.contestant.limit
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.speed.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=ROOT,
            env={**os.environ, **_SETTINGS, **_DEVICE[job.device]},
        )
        try:
            self.ready = self._ask(job.request(), START)
        except BaseException:
            self.close()
            raise

    def run(self) -> float:
        """Run the job once and tell the seconds.

        Raises:
            FailedError: When it fails, or takes longer than it may.
        """
        return self._ask("run", self._limit)["seconds"]

    def end(self) -> dict[str, int]:
        """End the process and tell the bytes it held."""
        return self._ask("end", START)

    def close(self) -> None:
        """End the process, whatever it is at."""
        with self._process:  # closes its pipes
            self._process.kill()
        self._errors.close()

    def _ask(self, said: Any, seconds: float) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        try:
            self._process.stdin.write(json.dumps(said) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise FailedError(self._ended()) from None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(seconds):
                raise FailedError(f"no answer within {seconds:.0f} s")
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"failed": self._ended()}
        if "failed" in answer:
            raise FailedError(answer["failed"])
        return answer

    def _ended(self) -> str:
        """How the process died: a signal 9 nobody sent is the memory."""
        return f"its process ended with status {self._process.wait()}"
