"""The current DLBacktrace, which is not open source, called as its documentation shows; one example at a time."""

from __future__ import annotations

from dl_backtrace.pytorch_backtrace import DLBacktrace

from ..stored import Stored
from . import CONTESTANTS, Prepared
from .torch_modules import DEVICES, finished, loaded, tensors

TASKS = {"auto": "multi-class classification", "next-token": "generation"}


def prepare(stored: Stored, batch: int, mode: str, device: str) -> Prepared:
    """It traces the module once; a call runs it and then relevance."""
    module, inputs = loaded(stored, device), tensors(stored, batch, device)
    tracer = DLBacktrace(module, inputs, device=DEVICES[device], verbose=False)
    named, task = CONTESTANTS["dl-backtrace-0.1.24"].modes[mode], TASKS[stored.workload.task]

    def call() -> object:
        tracer.predict(*inputs)
        return tracer.evaluation(mode=named, multiplier=100.0, scaler=1.0, task=task)

    return Prepared(finished(call, device))
