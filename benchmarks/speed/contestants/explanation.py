"""Our explanation as users call it, from arrays on the host to an Explanation there."""

from __future__ import annotations

import time

from backtrace_jax import Explainer

from ..stored import Stored
from ..workloads import LIGHT_FAMILIES
from . import Prepared
from .jax_programs import xla_seconds


def chunk_of(batch: int) -> int:
    """The whole batch where it is a size that chunks may have, else one example at a time."""
    return batch if batch % 8 == 0 else 1


def prepare(stored: Stored, batch: int, mode: str, device: str, ledger: str | None = "nodes") -> Prepared:
    """Call it twice: what the first call takes longer than the second is lowering and compilation."""
    chunk = None if stored.workload.family in LIGHT_FAMILIES else chunk_of(batch)
    inputs = stored.inputs(batch)
    explainer = Explainer(stored.onnx, mode=mode, task=stored.workload.task, chunk=chunk, ledger=ledger)
    xla, seconds = xla_seconds(), []
    for _ in range(2):
        before = time.perf_counter()
        explainer(inputs)
        seconds.append(time.perf_counter() - before)
    notes = {"chunk": chunk or "default", "xla_seconds": round(xla(), 3)}
    return Prepared(lambda: explainer(inputs), seconds[0] - seconds[1], notes)
