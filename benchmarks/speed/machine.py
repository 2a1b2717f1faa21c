"""The machine as far as it decides speed; neither its name nor its paths."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any


def environment(device: str) -> dict[str, Any]:
    """What results depend on beside the versions of packages, which stand in every row."""
    found = {
        "cpu": _processor(),
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(total_memory() / 2**30),
        "device": device,
        "python": platform.python_version(),
    }
    return {**found, "gpu": _gpu()} if device == "gpu" else found


def total_memory() -> int:
    """Bytes of main memory."""
    return 1024 * int(_entry(Path("/proc/meminfo"), "MemTotal").split()[0])


def busy(seconds: float = 1.0) -> float:
    """The part of the processors' time that others use while we sleep."""
    before = _processor_times()
    time.sleep(seconds)
    idle, total = (now - then for now, then in zip(_processor_times(), before, strict=True))
    return 1 - idle / total


def _processor_times() -> tuple[int, int]:
    """Ticks that all processors together were idle, and in all."""
    ticks = [int(each) for each in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def _processor() -> str:
    """The processor as it calls itself; with its family, since virtual machines may not tell more than the maker."""
    name, *kind = (_entry(Path("/proc/cpuinfo"), entry) for entry in ("model name", "cpu family", "model"))
    return name if "unknown" in kind else "{} (family {}, model {})".format(name, *kind)


def _entry(path: Path, name: str) -> str:
    """The first entry of this name in a file of lines `name: value`."""
    lines = (line.partition(":") for line in path.read_text().splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == name), "unknown")


def _gpu() -> str:
    """The GPU as its driver calls it."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[0]
