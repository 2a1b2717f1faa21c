"""What another process has taken so far."""

from __future__ import annotations

import os
from pathlib import Path


def spent(process: int) -> float:
    """Processor time of all its threads, in seconds; 0 once it has ended."""
    fields = _told(process, "stat").rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def resident(process: int) -> float:
    """Memory that it holds, in MiB; 0 once it has ended."""
    lines = _told(process, "status").splitlines()
    return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def _told(process: int, what: str) -> str:
    try:
        return Path(f"/proc/{process}/{what}").read_text()
    except OSError:  # it has ended
        return ""
