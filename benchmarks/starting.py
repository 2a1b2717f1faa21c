"""From `import` to the first explanation: a first process, a second one, and one that loads an exported explainer.

    python -m benchmarks.starting
    python -m benchmarks.starting --networks resnet18 --modes default lrp-epsilon-plus --rounds 9

In each round a process starts with an empty cache of compiled functions (first), one with what that has left (second),
and one with an exported explainer, whose functions were compiled before (loaded). Python is already up, its bytecode is
there, and wall and processor time are taken from the first import to the end of the first explanation of one example,
or of a light network's usual batch. Noted are medians, the largest of each, the ratio to the first process round by
round, how much is compiled, and whether all gave the same bytes. A round of BERT-base takes some 20 s. Results go to
benchmarks/results/starting/, one file for each network and mode.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from .speed.machine import busy, environment
from .speed.stored import stored

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "starting"
NETWORKS = ("bert_base", "resnet18", "digits_cnn")
BATCHES = {"digits_cnn": 32}
FIRST, SECOND, LOADED = WAYS = ("first", "second", "loaded")

ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
WORKER = """
import sys, time
wall, processor = time.perf_counter(), time.process_time()
import hashlib, json, warnings
warnings.simplefilter("ignore")
import jax
compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: compiled.append(event) if event.endswith("/backend_compile_duration") else None
)
import numpy as np
from backtrace_jax import Explainer
way, model, inputs, mode, batch, explainer = sys.argv[1:]
with np.load(inputs) as archive:
    examples = {name: np.resize(archive[name], (int(batch), *archive[name].shape[1:])) for name in archive.files}
asked = Explainer.load(explainer) if way == "loaded" else Explainer(model, mode=mode)
found = asked(examples)
wall, processor = time.perf_counter() - wall, time.process_time() - processor
digest = hashlib.sha256(b"".join(each.tobytes() for each in found.relevance.values())).hexdigest()
if way == "export":
    asked.export(explainer, examples)
print(json.dumps({"wall": wall, "processor": processor, "compiled": len(compiled), "relevance": digest}))
"""


def run(way: str, network: str, mode: str, cache: Path, explainer: Path) -> dict[str, Any]:
    """What a process took."""
    kept = stored(network)
    told = [kept.onnx, kept.folder / "inputs.npz", mode, BATCHES.get(network, 1), explainer]
    done = subprocess.run(
        [sys.executable, "-c", WORKER, way, *map(str, told)],
        env={
            **ENVIRONMENT,
            "BACKTRACE_JAX_CACHE": str(cache),
            "PYTHONPYCACHEPREFIX": str(explainer.parent / "bytecode"),
        },
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    return json.loads(done.stdout)


def measure(network: str, mode: str, rounds: int) -> dict[str, Any]:
    """Processes of all kinds, in turns."""
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        explainer, ready = Path(folder) / "explainer", Path(folder) / "ready"
        run("export", network, mode, ready, explainer)  # the files are now in the memory of the system, too
        run(LOADED, network, mode, ready, explainer)
        size = explainer.stat().st_size
        caches = [Path(folder) / str(turn) for turn in range(rounds)]
        for cache in caches:
            for way in WAYS:
                found[way].append(run(way, network, mode, ready if way == LOADED else cache, explainer))
        kept = sum(path.stat().st_size for path in caches[-1].iterdir())
    about = {"network": network, "mode": mode, "batch": BATCHES.get(network, 1), "rounds": rounds}
    sizes = {"kept_mib": round(kept / 2**20, 2), "exported_mib": round(size / 2**20, 1)}
    versions = {package: version(package) for package in ("jax", "jaxlib", "numpy")}
    rows = [row(way, found) for way in WAYS]
    same = len({each["relevance"] for times in found.values() for each in times}) == 1
    return {
        **about,
        **sizes,
        "same_bytes": same,
        "busy": round(busy(), 2),
        **environment("cpu"),
        **versions,
        "rows": rows,
    }


def row(way: str, found: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Times of one kind of process."""
    told: dict[str, Any] = {"process": way, "compiled": max(each["compiled"] for each in found[way])}
    for clock in ("wall", "processor"):
        times = [each[clock] for each in found[way]]
        ratios = [time / first[clock] for time, first in zip(times, found[FIRST], strict=True)]
        told |= {f"{clock}_s": round(median(times), 3), f"{clock}_largest_s": round(max(times), 3)}
        told[f"{clock}_of_first"] = round(median(ratios), 3)
    return told


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Results in Markdown."""
    lines = [
        "| network | mode | process | s, wall | s, processor | of first, wall | of first, processor | compiled |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {each['network']} | {each['mode']} | {row['process']} | {row['wall_s']:.2f} | {row['processor_s']:.2f} "
        f"| {row['wall_of_first']:.2f} | {row['processor_of_first']:.2f} | {row['compiled']} |"
        for each in results
        for row in each["rows"]
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure what is asked for, and print a table of all there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=NETWORKS, help="workloads of benchmarks/speed/workloads.py")
    parser.add_argument("--modes", nargs="+", default=["default"])
    parser.add_argument("--rounds", type=int, default=5, help="of all three processes (%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    chosen.results.mkdir(parents=True, exist_ok=True)
    for network in chosen.networks:
        for mode in chosen.modes:
            found = measure(network, mode, chosen.rounds)
            (chosen.results / f"{network}_{mode}.json").write_text(json.dumps(found, indent=1) + "\n")
    print(table([json.loads(path.read_text()) for path in sorted(chosen.results.glob("*.json"))]))


if __name__ == "__main__":
    main()
