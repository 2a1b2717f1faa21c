"""What many questions about one example cost, beside as many explanations of one question.

    python -m benchmarks.questions
    python -m benchmarks.questions --networks resnet18 --modes default attnlrp --counts 1 4 16

Each network and mode has a process of its own, in which single explanations and calls of `Explainer.each` take turns:
Q classes of an image or a sentence, Q positions of a prompt. Noted are medians of wall and of processor time, the peak
of the process' memory after single explanations and after each count, and how the answers compare with single ones.
Results go to benchmarks/results/questions/, one file for each network and mode.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "questions"
NETWORKS = ("resnet18", "vit_b16", "bert_base", "llama_1b_128")
MODES = ("default", "lrp-epsilon-plus", "attnlrp")
COUNTS = (1, 4, 16, 64)
COMPARED = 4  # answers that are compared with single ones
SECONDS = 60.0  # that one count is measured for, at least two turns


def peak() -> float:
    """The most memory that this process has had, MiB."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))


def timed(call: Callable[[], Any]) -> tuple[float, float]:
    """Wall and processor time of a call, s."""
    wall, processor = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - processor


def question(task: str, place: int, outputs: np.ndarray) -> dict[str, Any]:
    """One of many questions: the last positions of a prompt, or the classes from the first one on."""
    return {"position": -1 - place % outputs.shape[1]} if task == "next-token" else {"target": place % outputs.shape[1]}


def listed(questions: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The same questions as `Explainer.each` takes them."""
    return {f"{name}s": [each[name] for each in questions] for name in questions[0]}


def difference(one: Any, other: Any) -> tuple[bool, float]:
    """Whether relevance has the same bytes, and the largest difference relative to the largest relevance."""
    pairs = [(one.relevance[name], other.relevance[name]) for name in one.relevance]
    apart = max(float(np.abs(x - y).max() / np.abs(y).max()) for x, y in pairs)
    return all(x.tobytes() == y.tobytes() for x, y in pairs), apart


def measure(network: str, mode: str, counts: Sequence[int], turns: int) -> dict[str, Any]:
    """Measure one network in one mode, in this process."""
    from backtrace_jax import Explainer

    from .speed.machine import busy, environment
    from .speed.stored import stored

    kept = stored(network)
    explainer, inputs = Explainer(kept.onnx, mode=mode, task=kept.workload.task), kept.inputs(1)
    known = explainer(inputs)
    task, outputs = known.fingerprint["task"], known.outputs[known.output]
    questions = [question(task, place, outputs) for place in range(max(counts))]
    alone = [explainer(inputs, **asked) for asked in questions[:COMPARED]]
    rows, single_peak = [], peak()
    for count in sorted(counts):
        asked = listed(questions[:count])
        found = explainer.each(inputs, **asked)
        apart = [difference(*pair) for pair in zip(found, alone, strict=False)]
        singles, many, started = [], [], time.monotonic()
        for turn in range(turns):
            if turn > 1 and time.monotonic() - started > SECONDS:
                break
            chosen = [questions[place % count] for place in range(min(count, COMPARED))]
            singles += [timed(lambda asked=asked: explainer(inputs, **asked)) for asked in chosen]
            many.append(timed(lambda asked=asked: explainer.each(inputs, **asked)))
        one, all_ = ([median(times) for times in zip(*each, strict=True)] for each in (singles, many))
        rows.append(
            {
                "count": count,
                "at_once": found[0].fingerprint["questions_at_once"],
                "single_ms": round(1e3 * one[0], 2),
                "each_ms": round(1e3 * all_[0], 2),
                "relative_wall": round(all_[0] / (count * one[0]), 3),
                "relative_processor": round(all_[1] / (count * one[1]), 3),
                "turns": len(many),
                "peak_mib": round(peak()),
                "same_bytes": all(same for same, _ in apart),
                "largest_difference": max(size for _, size in apart),
            }
        )
    about = {"network": network, "mode": mode, "task": task, "peak_of_single_mib": round(single_peak)}
    versions = {package: version(package) for package in ("jax", "jaxlib", "numpy")}
    return {**about, "busy": round(busy(), 2), **environment("cpu"), **versions, "rows": rows}


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Results in Markdown."""
    lines = [
        "| network | mode | Q | ms, one | ms, Q | relative to Q single ones | peak MiB, one, Q | largest difference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {each['network']} | {each['mode']} | {row['count']} | {row['single_ms']:.0f} | {row['each_ms']:.0f} "
        f"| {row['relative_wall']:.2f} | {each['peak_of_single_mib']}, {row['peak_mib']} "
        f"| {'same bytes' if row['same_bytes'] else format(row['largest_difference'], '.0e')} |"
        for each in results
        for row in each["rows"]
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure what is asked for, and print a table of all there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=NETWORKS, help="workloads of benchmarks/speed/workloads.py")
    parser.add_argument("--modes", nargs="+", default=MODES)
    parser.add_argument("--counts", nargs="+", type=int, default=COUNTS, help="questions about one example")
    parser.add_argument("--turns", type=int, default=9, help="of single and joint explanations (%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.here:
        warnings.simplefilter("ignore")
        found = measure(*chosen.networks, *chosen.modes, chosen.counts, chosen.turns)
        chosen.results.mkdir(parents=True, exist_ok=True)
        path = chosen.results / f"{found['network']}_{found['mode']}.json"
        path.write_text(json.dumps(found, indent=1) + "\n")
        return
    for network in chosen.networks:
        for mode in chosen.modes:
            told = ["--counts", *map(str, chosen.counts), "--turns", str(chosen.turns), "--results", chosen.results]
            command = [sys.executable, "-m", "benchmarks.questions", "--here", "--networks", network, "--modes", mode]
            subprocess.run([*command, *told], check=True, cwd=ROOT)
    print(table([json.loads(path.read_text()) for path in sorted(chosen.results.glob("*.json"))]))


if __name__ == "__main__":
    main()
