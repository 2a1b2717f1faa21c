"""One contestant in a process of its own: lines of JSON come in on standard input, lines of JSON go out.

    {"contestant": ..., "workload": ..., "folder": ..., "batch": ..., "mode": ..., "device": ...}
        -> {"ready": true, "setup_seconds": ..., "compile_seconds": ..., "notes": ..., "versions": ...}
    "run"  -> {"seconds": ...}
    "end"  -> {"peak_bytes": ..., "running_bytes": ...}, and the process ends

Whatever fails is answered by {"failed": reason}. Memory is the most that the whole process held at a time, packages
and compiler included, and the same from the first run on; both are read from Linux's /proc.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .contestants import CONTESTANTS, Prepared
from .stored import Stored
from .workloads import WORKLOADS

_PATH = re.compile(r"(?:/[\w.@+-]+){2,}/?")
_LONGEST = 300  # characters of a reason


def main() -> None:
    """Answer until told to end."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print does not mix with the answers

    def answer(**said: Any) -> None:
        answers.write(json.dumps(said) + "\n")
        answers.flush()

    try:
        _serve(answer)
    except Exception as error:  # a peer may fail in any way; the reason is a result
        traceback.print_exc()
        answer(failed=reason(error))


def _serve(answer: Callable[..., None]) -> None:
    request, before = json.loads(sys.stdin.readline()), time.perf_counter()
    prepared = _prepared(request)
    seconds = time.perf_counter() - before
    versions = {name: version(name) for name in CONTESTANTS[request["contestant"]].packages}
    answer(
        ready=True,
        setup_seconds=seconds,
        compile_seconds=prepared.compile_seconds,
        notes=dict(prepared.notes),
        versions=versions,
    )
    most = _peak()
    _forget_peak()
    for line in sys.stdin:
        if json.loads(line) == "end":
            break
        answer(seconds=_timed(prepared.call))
    running = _peak()
    answer(peak_bytes=max(most, running), running_bytes=running)


def _prepared(request: dict[str, Any]) -> Prepared:
    stored = Stored(WORKLOADS[request["workload"]], Path(request["folder"]))
    module = import_module(CONTESTANTS[request["contestant"]].module)
    return module.prepare(stored, request["batch"], request["mode"], request["device"])


def _timed(call: Callable[[], Any]) -> float:
    before = time.perf_counter()
    call()
    return time.perf_counter() - before


def _peak() -> int:
    """The most bytes held since the mark was set."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def reason(error: BaseException) -> str:
    """Why something failed, without the paths of the machine it failed on."""
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {_PATH.sub('<path>', said)}"[:_LONGEST]


if __name__ == "__main__":
    main()
