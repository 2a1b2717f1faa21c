"""Flax modules against the same networks of torch: the import, the first explanation and the second one.

    python -m benchmarks.jax_roads
    python -m benchmarks.jax_roads --networks llama_block --roads flax onnx torch --rounds 5
    python -m benchmarks.jax_roads --small --rounds 1

In each round every road has a process of its own, with an empty cache of compiled functions: `flax` explains an nnx
module of the tests' zoo, `onnx` the ONNX file that torch exported of the same network, `torch` that torch module, whose
export then belongs to its import. Python and the model are already there when a clock starts. Noted are wall and
processor time of the first explanation, of the import within it (tracing and lowering, or reading), and of the second
one, the median of five; medians over the rounds, and ratios to the ONNX road round by round. Weights are drawn anew for
each framework: they have no part in how long anything takes. All of it takes some 6 minutes on two cores; results go to
benchmarks/results/jax_roads/, one file for each network.
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

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "jax_roads"
NETWORKS = ("resnet50", "bert_base", "llama_block")
FLAX, ONNX, TORCH = ROADS = ("flax", "onnx", "torch")
CLOCKS, TIMES = ("wall", "processor"), ("import", "first", "second")

WORKER = "import sys; from benchmarks.jax_networks import work; work(*sys.argv[1:])"


def run(road: str, network: str, mode: str, small: bool, folder: Path) -> dict[str, Any]:
    """What a process took; the ONNX file is in the folder, and made there when it is not."""
    done = subprocess.run(
        [sys.executable, "-c", WORKER, road, network, mode, "small" if small else "real", folder],
        env={**os.environ, "BACKTRACE_JAX_CACHE": "off"},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure(network: str, roads: Sequence[str], mode: str, rounds: int, small: bool) -> dict[str, Any]:
    """Processes of all roads, in turns."""
    found: dict[str, list[dict[str, Any]]] = {road: [] for road in roads}
    with tempfile.TemporaryDirectory() as folder:
        run("export", network, mode, small, Path(folder))
        for _ in range(rounds):
            for road in roads:
                found[road].append(run(road, network, mode, small, Path(folder)))
    return {
        "network": network,
        "small": small,
        "mode": mode,
        "rounds": rounds,
        "busy": round(busy(), 2),
        **environment("cpu"),
        **{package: version(package) for package in ("jax", "jaxlib", "flax", "torch", "transformers")},
        "rows": [row(road, found) for road in roads],
    }


def row(road: str, found: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Times of one road."""
    told: dict[str, Any] = {"road": road, **{key: found[road][0][key] for key in ("nodes", "compiled")}}
    for clock in CLOCKS:
        for time in TIMES:
            name = f"{time}_{clock}"
            told[f"{name}_s"] = round(median(each[name] for each in found[road]), 4)
            if ONNX in found:
                pairs = zip(found[road], found[ONNX], strict=True)
                told[f"{name}_of_onnx"] = round(median(each[name] / theirs[name] for each, theirs in pairs), 3)
    return told


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Results in Markdown."""
    head = [f"{time}, s {clock}" for clock in CLOCKS for time in TIMES]
    names = [f"{time}_{clock}_s" for clock in CLOCKS for time in TIMES]
    lines = [f"| network | road | nodes | compiled | {' | '.join(head)} |", "|" + "---|" * (4 + len(head))]
    lines += [
        f"| {each['network']}{' (small)' * each['small']} | {row['road']} | {row['nodes']} | {row['compiled']} | "
        + " | ".join(f"{row[name]:.3f}" for name in names)
        + " |"
        for each in results
        for row in each["rows"]
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure what is asked for, and print a table of all there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--roads", nargs="+", choices=ROADS, default=(FLAX, ONNX))
    parser.add_argument("--mode", default="default")
    parser.add_argument("--rounds", type=int, default=3, help="of all roads (%(default)s)")
    parser.add_argument("--small", action="store_true", help="networks of a few layers, to see that all runs")
    parser.add_argument("--results", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    chosen.results.mkdir(parents=True, exist_ok=True)
    for network in chosen.networks:
        found = measure(network, chosen.roads, chosen.mode, chosen.rounds, chosen.small)
        name = f"{network}{'_small' * chosen.small}_{chosen.mode}.json"
        (chosen.results / name).write_text(json.dumps(found, indent=1) + "\n")
    print(table([json.loads(path.read_text()) for path in sorted(chosen.results.glob("*.json"))]))


if __name__ == "__main__":
    main()
