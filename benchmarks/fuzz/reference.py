"""What onnxruntime computes of a file, in a process of its own: it may crash or hang on what is hostile.

python -m benchmarks.fuzz.reference
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import selectors
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np

PATIENCE = 15  # seconds
_MEMORY = 2**32


class Reference:
    """A process that runs onnxruntime, made anew when it has died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    @staticmethod
    @cache
    def shared() -> Reference:
        """The one of this process."""
        return Reference()

    def outputs(self, path: Path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name; none where onnxruntime refuses the file, crashes or hangs."""
        given, answer = path.with_suffix(".inputs"), path.with_suffix(".outputs")
        with given.open("wb") as file:
            np.savez(file, **{str(i): array for i, array in enumerate(inputs.values())})  # pyright: ignore
        line = self._asked({"model": str(path), "given": str(given), "answer": str(answer), "names": list(inputs)})
        if not line:
            return {}
        with np.load(answer) as arrays:
            return {name: arrays[str(i)] for i, name in enumerate(json.loads(line))}

    def _asked(self, question: dict[str, object]) -> str:
        if self._process is None or self._process.poll() is not None:
            command = [sys.executable, "-m", "benchmarks.fuzz.reference"]
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdin
        assert self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if selector.select(PATIENCE):
                return self._process.stdout.readline().strip()
        self._process.kill()
        return ""


def _answered(question: dict[str, object]) -> list[str]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(question["model"]), options, providers=["CPUExecutionProvider"])
    names = question["names"]
    assert isinstance(names, list)
    with np.load(str(question["given"])) as arrays:
        results = session.run(None, {name: arrays[str(i)] for i, name in enumerate(names)})
    plain = {str(i): np.asarray(each) for i, each in enumerate(results) if isinstance(each, np.ndarray)}
    with Path(str(question["answer"])).open("wb") as file:
        np.savez(file, **plain)  # pyright: ignore[reportArgumentType]
    found = [each.name for each in session.get_outputs()]
    return found if len(plain) == len(found) else []


def main() -> None:
    """Answer questions from standard input, one line of JSON each; an empty line where there is no answer."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        try:
            names = _answered(json.loads(line))
        except Exception:
            names = []
        answers.write((json.dumps(names) if names else "") + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
