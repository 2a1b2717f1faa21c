"""What books cost: explanations that keep them of nodes, of the whole graph, and not at all.

    python -m benchmarks.ledger
    python -m benchmarks.ledger --networks digits_cnn --modes default --seconds 20

Each network and mode has a process of its own, in which explainers of the three levels take turns. Noted are medians of
wall and of processor time, the same relative to no books (medians of the quotients of neighbours), the bytes of the
arrays that a compiled call returns, those of the file that `Explanation.save` writes, and whether relevance is the same
to the byte. Results go to benchmarks/results/ledger/, one file for each network and mode.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "ledger"
BATCHES = {"digits_cnn": 1024, "resnet18": 8, "bert_base": 2}
MODES = ("default", "lrp-epsilon", "attnlrp")
LEVELS = ("nodes", "total", None)


def timed(call: Callable[[], Any]) -> tuple[float, float]:
    """Wall and processor time of a call, s."""
    wall, processor = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - processor


def saved_bytes(explanation: Any) -> int:
    """Size of the file that it is saved in."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "explanation.npz"
        explanation.save(path)
        return path.stat().st_size


def returned_bytes(call: Callable[[], Any]) -> int:
    """Bytes of the arrays that the compiled function returns for a call."""
    import jax

    from backtrace_jax.engine.compiled import Compiled

    results, run = [], Compiled.run

    def kept(self: Compiled, *arguments: Any) -> Any:
        results.append(run(self, *arguments))
        return results[-1]

    with patch.object(Compiled, "run", kept):
        call()
    return sum(array.nbytes for array in jax.tree.leaves(results))


def measure(network: str, mode: str, batch: int, seconds: float) -> dict[str, Any]:
    """Measure one network in one mode, in this process."""
    from backtrace_jax import Explainer

    from .speed.machine import busy, environment
    from .speed.stored import stored

    kept = stored(network)
    inputs = kept.inputs(batch)
    explainers = [Explainer(kept.onnx, mode=mode, task=kept.workload.task, ledger=level) for level in LEVELS]
    found = [explainer(inputs) for explainer in explainers]
    same = [
        all(each.relevance[name].tobytes() == array.tobytes() for each in found)
        for name, array in found[0].relevance.items()
    ]
    turns, started = [], time.monotonic()
    while len(turns) < 3 or time.monotonic() - started < seconds:
        turns.append([timed(lambda call=call: call(inputs)) for call in explainers])
    rows = [
        {
            "ledger": level,
            "wall_ms": round(1e3 * median(turn[i][0] for turn in turns), 3),
            "processor_ms": round(1e3 * median(turn[i][1] for turn in turns), 3),
            "relative_wall": round(median(turn[i][0] / turn[-1][0] for turn in turns), 3),
            "relative_processor": round(median(turn[i][1] / turn[-1][1] for turn in turns), 3),
            "returned_bytes": returned_bytes(lambda call=explainers[i]: call(inputs)),
            "saved_bytes": saved_bytes(found[i]),
        }
        for i, level in enumerate(LEVELS)
    ]
    nodes = 0 if found[0].ledger is None else len(found[0].ledger.by_node)
    about = {"network": network, "mode": mode, "batch": batch, "nodes": nodes, "turns": len(turns), "same": all(same)}
    versions = {package: version(package) for package in ("jax", "jaxlib", "numpy")}
    return {**about, "busy": round(busy(), 2), **environment("cpu"), **versions, "rows": rows}


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Results in Markdown."""
    lines = [
        "| network, batch | mode | ms: nodes, total, none | relative to none | MB returned | MB saved | relevance |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in results:
        rows = each["rows"]
        times = ", ".join(f"{row['wall_ms']:.4g}" for row in rows)
        relative = ", ".join(f"{row['relative_processor']:.2f}" for row in rows[:2])
        sizes = [", ".join(f"{row[key] / 1e6:.3g}" for row in rows) for key in ("returned_bytes", "saved_bytes")]
        lines.append(
            f"| {each['network']}, {each['batch']} | {each['mode']} | {times} | {relative} | {sizes[0]} | {sizes[1]} "
            f"| {'same bytes' if each['same'] else 'bytes differ'} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure what is asked for, and print a table of all there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=[*BATCHES], help="workloads of benchmarks/speed/workloads.py")
    parser.add_argument("--modes", nargs="+", default=MODES)
    parser.add_argument("--batch", type=int, help=f"examples per call (default: {BATCHES}, 1 for others)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of turns, at least 3 of them (%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    chosen.results.mkdir(parents=True, exist_ok=True)
    for network in chosen.networks:
        batch = chosen.batch or BATCHES.get(network, 1)
        for mode in chosen.modes:
            if chosen.here:
                warnings.simplefilter("ignore")
                path = chosen.results / f"{network}_{mode}.json"
                path.write_text(json.dumps(measure(network, mode, batch, chosen.seconds), indent=1) + "\n")
            else:
                told = ["--batch", str(batch), "--seconds", str(chosen.seconds), "--results", str(chosen.results)]
                command = [sys.executable, "-m", "benchmarks.ledger", "--here", "--networks", network, "--modes", mode]
                subprocess.run([*command, *told], check=True, cwd=ROOT)
    if not chosen.here:
        print(table([json.loads(path.read_text()) for path in sorted(chosen.results.glob("*.json"))]))


if __name__ == "__main__":
    main()
