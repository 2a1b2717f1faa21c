"""The same bytes, and what they cost.

    python -m benchmarks.determinism --networks rows_mlp digits_cnn lstm
    python -m benchmarks.determinism --networks resnet18 --modes default attnlrp
    python -m benchmarks.determinism --networks bert_base --modes attnlrp --threads 1 2

Every network and mode is explained in processes of their own, on each number of threads and once more: all examples in
batches of 1, 2, 3, 7, 32 and 100 (of heavy networks up to 7), and one example at every position of a batch. What an
example gets - relevance, outputs, target, books - is hashed, and there is one hash for all of it, or the table says how
many. A number of threads is what XLA's CPU backend is told there is (PJRT_NPROC).

What it costs is measured in one process, in turns: today's options and fixed padded chunks against the same rules with
what XLA does by itself - fast mathematics, convolutions as they come, the whole batch as one chunk. Results go to
benchmarks/results/determinism/, one file for each network and mode.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "determinism"
NETWORKS = ("rows_mlp", "digits_cnn", "resnet18", "bert_base", "lstm")
HEAVY = frozenset({"resnet18", "bert_base", "lstm"})
MODES = ("default", "contrastive", "lrp-epsilon-plus", "attnlrp")
BATCHES = (1, 2, 3, 7, 32, 100)
THREADS = (1, 2, 8)
LOOSE = {"xla_cpu_enable_fast_math": True, "xla_cpu_prefer_vector_width": 512}


def batches(network: str) -> tuple[int, ...]:
    """Sizes of batches that a network is explained in."""
    return tuple(size for size in BATCHES if size <= 7) if network in HEAVY else BATCHES


def rows(explanation: Any) -> Iterator[bytes]:
    """What each example gets."""
    books = explanation.ledger
    arrays = [*explanation.relevance.values(), *explanation.outputs.values(), explanation.target]
    arrays += [] if books is None else [books.signed, books.absolute]
    return (b"".join(array[i].tobytes() for array in arrays) for i in range(len(explanation)))


def examples(network: str, count: int) -> dict[str, np.ndarray]:
    """So many different examples: numbers with noise; sentences with one word exchanged."""
    from .speed.stored import stored

    given, noise = stored(network).inputs(count), np.random.default_rng(0)
    floats = {name: array + 0.1 * noise.normal(size=array.shape) for name, array in given.items() if _is_float(array)}
    if "input_ids" in given:
        given["input_ids"][:, 1] = 1000 + np.arange(count)
    return given | {name: array.astype(given[name].dtype) for name, array in floats.items()}


def _is_float(array: np.ndarray) -> bool:
    return array.dtype.kind == "f"


def hashes(network: str, mode: str) -> dict[str, str]:
    """One hash for each way in which the examples come, in this process; equal ones are equal bytes."""
    from backtrace_jax import Explainer

    from .speed.stored import stored

    sizes = batches(network)
    given, kept = examples(network, sizes[-1]), stored(network)
    call, found = Explainer(kept.onnx, mode=mode, task=kept.workload.task), {}
    alone = next(rows(call({name: array[:1] for name, array in given.items()})))
    for size in sizes:
        parts = [range(first, min(first + size, sizes[-1])) for first in range(0, sizes[-1], size)]
        each = [row for part in parts for row in rows(call({name: array[part] for name, array in given.items()}))]
        found[f"batches of {size}"] = sha256(b"".join(each)).hexdigest()
    order = np.roll(np.arange(sizes[-1]), 3)
    moved = list(rows(call({name: array[order] for name, array in given.items()})))
    found["other positions"] = sha256(b"".join(moved[i] for i in np.argsort(order))).hexdigest()
    everywhere = set(rows(call({name: array[np.zeros(sizes[-1], int)] for name, array in given.items()})))
    found["every position"] = found["batches of 1"] if everywhere == {alone} else "differ"
    return found


def in_processes(network: str, mode: str, threads: Sequence[int]) -> dict[str, dict[str, str]]:
    """The hashes of a process for each number of threads, and of one more."""
    found = {}
    for run, count in enumerate((*threads, threads[0])):
        environment = {**os.environ, "PJRT_NPROC": str(count), "BACKTRACE_JAX_CACHE": "off"}
        command = [sys.executable, "-m", "benchmarks.determinism", "--worker", network, mode]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        found[f"{count} threads" + ", again" * (run == len(threads))] = json.loads(done.stdout.splitlines()[-1])
    return found


def cost(network: str, mode: str, seconds: float) -> dict[str, Any]:
    """Time of a batch, and what it takes relative to what XLA does by itself: medians of turns."""
    from backtrace_jax import Explainer
    from backtrace_jax.ops import convolving
    from backtrace_jax.runtime import numerics

    from .speed.stored import stored

    count = batches(network)[-1] + 1
    given, kept, options = examples(network, count), stored(network), numerics.COMPILER_OPTIONS["cpu"]
    loose = patch.dict(numerics.COMPILER_OPTIONS, cpu={**options, **LOOSE})
    plain = patch.object(convolving, "_convolved", _plain)
    calls = [Explainer(kept.onnx, mode=mode, task=kept.workload.task)]
    calls[0](given)
    with patch.dict(os.environ, BACKTRACE_JAX_CACHE="off"), loose, plain:
        whole = -(-count // 8) * 8  # what chunk= takes
        calls.append(Explainer(kept.onnx, mode=mode, task=kept.workload.task, chunk=whole))
        calls[1](given)
    turns, started = [], time.monotonic()
    while len(turns) < 3 or time.monotonic() - started < seconds:
        turns.append([_timed(call, given) for call in calls])
    relative = [median(ours[i] / theirs[i] for ours, theirs in turns) for i in range(2)]
    return {
        "batch": count,
        "turns": len(turns),
        "ms": round(1e3 * median(turn[0][0] for turn in turns), 3),
        "relative_wall": round(relative[0], 3),
        "relative_processor": round(relative[1], 3),
    }


def _plain(x: Any, K: Any, strides: Any, padding: Any, dilation: Any, groups: int = 1) -> Any:
    """A convolution with channels last, as XLA takes it."""
    from jax import lax

    last = x.ndim - 1
    image, kernel = (0, last, *range(1, last)), (last, last - 1, *range(last - 1))
    numbers = lax.ConvDimensionNumbers(image, kernel, image)
    settings = {"rhs_dilation": dilation, "dimension_numbers": numbers, "feature_group_count": groups}
    return lax.conv_general_dilated(x, K, strides, padding, **settings)


def _timed(call: Any, given: Mapping[str, np.ndarray]) -> tuple[float, float]:
    wall, processor = time.perf_counter(), time.process_time()
    call(given)
    return time.perf_counter() - wall, time.process_time() - processor


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Results in Markdown."""
    lines = [
        "| network | mode | ways compared | bytes | batch, ms | relative: wall, processor |",
        "|---|---|---|---|---|---|",
    ]
    for each in results:
        found = [value for hashed in each["hashes"].values() for value in hashed.values()]
        same = "equal" if len(set(found)) == 1 else f"{len(set(found))} different"
        spent = each["cost"]
        times = f"{spent['batch']}, {spent['ms']:.4g} | {spent['relative_wall']}, {spent['relative_processor']}"
        lines.append(f"| {each['network']} | {each['mode']} | {len(found)} | {same} | {times} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what is asked for, and print a table of all there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=NETWORKS, help="workloads of benchmarks/speed/workloads.py")
    parser.add_argument("--modes", nargs="+", default=MODES)
    parser.add_argument("--threads", nargs="+", type=int, default=THREADS)
    parser.add_argument("--seconds", type=float, default=10.0, help="that the turns of a cost take (%(default)s)")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    if asked.worker:
        print(json.dumps(hashes(*asked.worker)))
        return
    RESULTS.mkdir(parents=True, exist_ok=True)
    from .speed.machine import busy, environment

    for network in asked.networks:
        for mode in asked.modes:
            found = {"network": network, "mode": mode, "hashes": in_processes(network, mode, asked.threads)}
            found |= {"cost": cost(network, mode, asked.seconds), "busy": round(busy(), 2), **environment("cpu")}
            (RESULTS / f"{network}_{mode}.json").write_text(json.dumps(found, indent=1) + "\n")
            print(table([found]).splitlines()[-1], flush=True)
    print(table([json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]))


if __name__ == "__main__":
    main()
