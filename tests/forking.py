"""Explains, then forks, and starts a process anew; `test_processes.py` runs it, since pytest has many threads.

    python -m tests.forking

Writes one line of JSON: what a forked process says, and what a new one computes.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import warnings

import numpy as np

from backtrace_jax import BacktraceError, Explainer, explain
from tests.tiny import convolutional, images


def relevance(model: bytes) -> float:
    """What a process of its own computes."""
    import onnx

    return float(np.abs(Explainer(onnx.load_from_string(model))(images()).relevance["x"]).sum())


def said(call) -> str:
    """The error of a call, in another process that was forked from this one."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            call()
            text = "nothing"
        except BacktraceError as error:
            text = f"{type(error).__name__}: {error}"
        os.write(writing, text.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        text = file.read()
    os.waitpid(child, 0)
    return text


def main() -> None:
    """Say what happens."""
    warnings.simplefilter("ignore")  # JAX says that forking is no good, in general
    model = convolutional()
    serialised = model.SerializeToString()
    explainer = Explainer(model)
    here = float(np.abs(explainer(images()).relevance["x"]).sum())
    calls = (lambda: explainer(images()), lambda: explain(model, images()), lambda: Explainer(model))
    forked = [said(call) for call in calls]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        (anew,) = pool.map(relevance, [serialised])
    print(json.dumps({"forked": forked, "here": here, "anew": anew}))


if __name__ == "__main__":
    main()
