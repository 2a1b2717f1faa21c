"""What `memory="low"` saves, and what it costs: both settings in one run, taking turns.

    python -m benchmarks.memory
    python -m benchmarks.memory --networks transformer --modes default --layers 24 --tokens 512 --width 1024
    python -m benchmarks.memory --networks resnet50 --turns 15

Each network and mode has a process of its own, in which the two explainers take turns. Noted are

- temp: the memory that the compiled function takes beside its arguments, by XLA's own analysis (in pieces: the most of
  what lies between pieces and what the piece takes that runs), derived: what is made of the weights and kept for
  it, and total: both together;
- growth: by how much a call raises the process' peak resident memory above what was resident before it;
- peak: the peak resident memory of a call in a process that has one explainer only, weights and libraries included;
- medians of wall and processor time, and the median of the quotients of neighbours.

Results go to benchmarks/results/memory/, one file for each network and mode.
"""

from __future__ import annotations

import argparse
import json
import os
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

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "memory"
NETWORKS, MODES, MEMORIES = ("transformer", "resnet50"), ("default", "attnlrp"), ("high", "low")
TRANSFORMER = "transformer"
HEAD = 64  # width of an attention head
ROWS, COLUMNS = (0, 2, 1, 3), (0, 2, 3, 1)  # heads first, tokens as rows, or as columns


class Writer:
    """Nodes and weights of a model that is being written."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(0)

    def op(self, operator: str, *operands: str, **attributes: Any) -> str:
        """Add a node and name its result."""
        self.nodes.append(helper.make_node(operator, operands, [f"v{len(self.nodes)}"], **attributes))
        return self.nodes[-1].output[0]

    def known(self, array: Any) -> str:
        """Add a known array."""
        self.weights.append(numpy_helper.from_array(np.asarray(array), f"w{len(self.weights)}"))
        return self.weights[-1].name

    def dense(self, x: str, inputs: int, outputs: int, scale: float = 1.0) -> str:
        """MatMul and Add."""
        matrix = self._random.standard_normal((inputs, outputs), np.float32) * np.float32(scale / np.sqrt(inputs))
        return self.op("Add", self.op("MatMul", x, self.known(matrix)), self.known(np.zeros(outputs, np.float32)))


def transformer(layers: int, tokens: int, width: int) -> onnx.ModelProto:
    """An encoder of BERT's shape on embedded tokens x [batch, tokens, width], attention written op by op."""
    w, x, heads = Writer(), "x", width // HEAD
    apart, together = (w.known(np.array(shape)) for shape in ((0, tokens, heads, HEAD), (0, tokens, width)))
    ones, zeros = (w.known(np.full(width, number, np.float32)) for number in (1, 0))
    scale = w.known(np.float32(HEAD**-0.5))
    for _ in range(layers):
        split = [w.op("Reshape", w.dense(x, width, width), apart) for _ in range(3)]
        q, k, v = (w.op("Transpose", x, perm=perm) for x, perm in zip(split, (ROWS, COLUMNS, ROWS), strict=True))
        read = w.op("MatMul", w.op("Softmax", w.op("Mul", w.op("MatMul", q, k), scale), axis=-1), v)
        read = w.op("Reshape", w.op("Transpose", read, perm=(0, 2, 1, 3)), together)
        x = w.op("LayerNormalization", w.op("Add", x, w.dense(read, width, width)), ones, zeros)
        inner = w.dense(w.op("Gelu", w.dense(x, width, 4 * width)), 4 * width, width)
        x = w.op("LayerNormalization", w.op("Add", x, inner), ones, zeros)
    w.nodes.append(helper.make_node("Identity", [w.dense(_first(w, x), width, 2)], ["y"]))
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", tokens, width])]
    told = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])]
    graph = helper.make_graph(w.nodes, TRANSFORMER, given, told, w.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _first(w: Writer, x: str) -> str:
    """What is read of a sequence for its class: the first token."""
    return w.op("Gather", x, w.known(np.array(0)), axis=1)


def subject(network: str, sizes: tuple[int, int, int], folder: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """The file of a network, and an example."""
    if network != TRANSFORMER:
        from .speed.stored import stored

        kept = stored(network)
        return kept.onnx, kept.inputs(1)
    path = folder / "transformer.onnx"
    onnx.save(transformer(*sizes), path, save_as_external_data=True, location="weights")
    inputs = np.random.default_rng(1).standard_normal((1, *sizes[1:]), np.float32)
    return path, {"x": inputs}


def resident(field: str) -> int:
    """Resident memory of this process as it is (VmRSS) or was at its peak (VmHWM), bytes."""
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(field))


def growth(call: Callable[[], Any]) -> tuple[int, int]:
    """Resident memory before a call, and the peak during it."""
    from backtrace_jax.runtime.numerics import return_memory

    return_memory()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that from now on
    before = resident("VmRSS")
    call()
    return before, resident("VmHWM")


def taken(call: Callable[[], Any]) -> dict[str, int]:
    """What the compiled function of a call takes, bytes."""
    from backtrace_jax.engine.compiled import Compiled

    seen, run = [], Compiled.run

    def noted(self: Compiled, *arguments: Any) -> Any:
        seen.append(self)
        return run(self, *arguments)

    with patch.object(Compiled, "run", noted):
        call()
    explain, plan = seen[0].explain, seen[0].request.plan
    whole = hasattr(explain.call, "memory_analysis")
    temp = explain.call.memory_analysis().temp_size_in_bytes if whole else explain.call.args[0].temp_bytes
    return {"temp": temp, "derived": explain.derived_bytes, "segments": len(plan.segments), "pieces": not whole}


def timed(call: Callable[[], Any]) -> tuple[float, float]:
    """Wall and processor time of a call, s."""
    wall, processor = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - processor


def alone(path: Path, inputs: Mapping[str, np.ndarray], mode: str, memory: str) -> int:
    """Peak resident memory of a call in this process, which has done nothing else."""
    from backtrace_jax import Explainer

    explainer = Explainer(path, mode=mode, memory=memory)
    explainer(inputs)
    return growth(lambda: explainer(inputs))[1]


def measure(path: Path, inputs: Mapping[str, np.ndarray], mode: str, turns: int) -> dict[str, Any]:
    """Measure one network in one mode, in this process."""
    from backtrace_jax import Explainer

    explainers = [Explainer(path, mode=mode, memory=memory) for memory in MEMORIES]
    compiling, found = [], []
    for explainer in explainers:
        compiling.append(timed(lambda explainer=explainer: found.append(explainer(inputs)))[0])
    known = [taken(lambda call=call: call(inputs)) for call in explainers]
    peaks = [growth(lambda call=call: call(inputs)) for call in explainers]
    times = [[timed(lambda call=call: call(inputs)) for call in explainers] for _ in range(turns)]
    high, low = (explanation.relevance for explanation in found)
    rows = [
        {
            "memory": memory,
            **known[i],
            "growth": peaks[i][1] - peaks[i][0],
            "first_call_s": round(compiling[i], 1),
            "wall_ms": round(1e3 * median(turn[i][0] for turn in times), 2),
            "processor_ms": round(1e3 * median(turn[i][1] for turn in times), 2),
        }
        for i, memory in enumerate(MEMORIES)
    ]
    quotients = {
        kind: round(median(turn[1][i] / turn[0][i] for turn in times), 3)
        for i, kind in enumerate(("wall", "processor"))
    }
    same = all(low[name].tobytes() == array.tobytes() for name, array in high.items())
    apart = max(float(np.abs(low[name] - array).max() / np.abs(array).max()) for name, array in high.items())
    return {"rows": rows, "relative": quotients, "same_bytes": same, "largest_difference": apart, "turns": turns}


def summary(found: dict[str, Any]) -> dict[str, float]:
    """Low relative to high."""
    for row in found["rows"]:
        row["total"] = row["temp"] + row["derived"]
    high, low = found["rows"]
    both = {key: low[key] / high[key] for key in ("total", "temp", "growth", "peak")}
    return {key: round(each, 3) for key, each in (both | found["relative"]).items()}


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Results in Markdown."""
    lines = [
        "| network | mode | MiB, high, low: temp | derived | growth | peak "
        "| low relative to high: total, temp, growth, peak "
        "| ms, high, low | time relative to high | relevance |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for each in results:
        high, low = each["rows"]
        sizes = [f"{high[key] / 2**20:.0f}, {low[key] / 2**20:.0f}" for key in ("temp", "derived", "growth", "peak")]
        relative = each["low_relative_to_high"]
        lines.append(
            f"| {each['network']} | {each['mode']} | {' | '.join(sizes)} "
            f"| {', '.join(format(relative[key], '.2f') for key in ('total', 'temp', 'growth', 'peak'))} "
            f"| {high['wall_ms']:.0f}, {low['wall_ms']:.0f} | {relative['wall']:.2f} "
            f"| {'same bytes' if each['same_bytes'] else format(each['largest_difference'], '.0e')} |"
        )
    return "\n".join(lines)


def here(what: str, network: str, mode: str, chosen: argparse.Namespace) -> Any:
    """Measure in this process: both explainers in turns, or the peak of one of them."""
    with tempfile.TemporaryDirectory() as folder:
        path, inputs = subject(network, (chosen.layers, chosen.tokens, chosen.width), Path(folder))
        return measure(path, inputs, mode, chosen.turns) if what == "turns" else alone(path, inputs, mode, what)


def main() -> None:
    """Measure what is asked for, and print a table of all there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=NETWORKS, help="transformer, or those of benchmarks.speed")
    parser.add_argument("--modes", nargs="+", default=MODES)
    parser.add_argument("--layers", type=int, default=24, help="of the transformer (%(default)s)")
    parser.add_argument("--tokens", type=int, default=512, help="(%(default)s)")
    parser.add_argument("--width", type=int, default=1024, help="a multiple of 64 (%(default)s)")
    parser.add_argument("--turns", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--here", choices=("turns", *MEMORIES), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.here:
        warnings.simplefilter("ignore")
        (network,), (mode,) = chosen.networks, chosen.modes
        print(json.dumps(here(chosen.here, network, mode, chosen)))
        return
    chosen.results.mkdir(parents=True, exist_ok=True)
    for network in chosen.networks:
        for mode in chosen.modes:
            report(network, mode, chosen)
    found = [json.loads(path.read_text()) for path in sorted(chosen.results.glob("*.json"))]
    print(table([each for each in found if "low_relative_to_high" in each]))


def report(network: str, mode: str, chosen: argparse.Namespace) -> None:
    """Measure one network in one mode, in processes of their own, and store what was found."""
    from .speed.machine import busy, environment

    def run(what: str) -> Any:
        sizes = [f"--{name}={getattr(chosen, name)}" for name in ("layers", "tokens", "width", "turns")]
        told = ["--here", what, "--networks", network, "--modes", mode, *sizes]
        command = [sys.executable, "-m", "benchmarks.memory", *told]
        where = {**os.environ, "BACKTRACE_JAX_CACHE": "off"}  # so that first calls compile
        return json.loads(subprocess.run(command, check=True, cwd=ROOT, env=where, stdout=subprocess.PIPE).stdout)

    about: dict[str, Any] = {"network": network, "mode": mode}
    about |= {name: getattr(chosen, name) for name in ("layers", "tokens", "width") if network == TRANSFORMER}
    about |= {"busy": round(busy(), 2), **environment("cpu"), **{p: version(p) for p in ("jax", "jaxlib", "numpy")}}
    found = run("turns")
    for row in found["rows"]:
        row["peak"] = run(row["memory"])
    path = chosen.results / f"{network}_{mode}.json"
    path.write_text(json.dumps({**about, **found, "low_relative_to_high": summary(found)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
