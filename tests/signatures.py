"""Read by pyright alone: what it takes and what it refuses of `explain` and `Explainer`; nothing of it is run.

A comment that lets an error pass is an error itself where there is none.
"""
# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from backtrace_jax import Explainer, Explanation, Run, explain, explain_dataset, explain_each, mode


def takes(path: str, x: NDArray[np.float32], labels: NDArray[np.int64]) -> Explanation:
    call = Explainer(path, mode=mode("lrp-gamma", gamma=0.1), layers=["layer4*"], batch_axis={"h": 1, "s": None})
    call(x, target=labels, against=3, conditions={"layer3": [17, 42]}, progress=print)
    call.each(x, [3, None, (0, 1)], start=lambda outputs: outputs * 0, baseline="zero")
    call.each(x, "all", against=[1, [2, 3]], conditions=[{"layer3": [17]}, {"layer4": [3]}])
    explain_each(path, x, labels, positions="all", mode="attnlrp", starts=[x, lambda outputs: outputs * 0])
    explain(path, x, mode="attnlrp", task="next-token", position=-1, scaler=None, class_axis=-1)
    return explain(path, x, target=(0, 1), wrt="x", chunk=8, dtype="float64", prepare=False, prove="first")


def takes_datasets(path: str, x: NDArray[np.float32], labels: NDArray[np.int64]) -> Run:
    for explanation in Explainer(path).stream(x, batch=8, target=labels, on_error="record"):
        explanation.plot()
    explain_dataset(path, {"x": x, "y": labels}, "out", carry=["y"], target="y", mode="attnlrp", progress=print)
    return explain_dataset(path, x, "out", reduce=lambda name, relevance: relevance.sum(1), store_dtype="float16")


def refuses(path: str, x: NDArray[np.float32]) -> None:
    explain(path, x, taget=3)  # pyright: ignore[reportCallIssue]
    explain(path, x, chunk="8")  # pyright: ignore[reportArgumentType]
    explain(path, x, conditions=["layer3"])  # pyright: ignore[reportArgumentType]
    call = Explainer(path, target=3)  # pyright: ignore[reportCallIssue]
    call(x, mode="default")  # pyright: ignore[reportCallIssue]
    call.each(x, [3], target=3)  # pyright: ignore[reportCallIssue]
    explain_each(path, x, [3], positions=3)  # pyright: ignore[reportArgumentType]
    call(x, progress=len)  # pyright: ignore[reportArgumentType]
    explain_dataset(path, x, "out", chunk="8")  # pyright: ignore[reportArgumentType]
    explain_dataset(path, x)  # pyright: ignore[reportCallIssue]
