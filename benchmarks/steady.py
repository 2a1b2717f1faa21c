"""Whether memory is steady: ever new shapes through one Explainer, and ever new models, each in a process of its own.

    python -m benchmarks.steady
    python -m benchmarks.steady --count 100 --loops models

Every ten turns the process notes its resident memory. Results go to benchmarks/results/memory/steady.json, and from
there to docs/memory.png. The shapes are lengths of a small transformer that computes positions, angles and a mask from
them; the models are networks of two layers and constants to fold, no two of the same size and weights.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "memory" / "steady.json"
PICTURE = ROOT / "docs" / "memory.png"
EVERY, FIRST = 10, 20
node = helper.make_node


def resident() -> float:
    """Resident memory of this process, MiB."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmRSS"))


def _model(nodes: list, name: str, dtype: int, dims: list, **constants: np.ndarray) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "steady",
        [helper.make_tensor_value_info(name, dtype, dims)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, key) for key, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def transformer(width: int = 8) -> onnx.ModelProto:
    """One layer of attention over tokens of any number, with learnt positions, angles, and a causal mask."""
    random = np.random.default_rng(0)

    def weights(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    nodes = [
        node("Gather", ["table", "ids"], ["embedded"]),
        node("Shape", ["ids"], ["shape"]),
        node("Gather", ["shape", "one"], ["length"]),
        node("Range", ["zero", "length", "one"], ["places"]),
        node("Gather", ["positions", "places"], ["position"]),
        node("Cast", ["places"], ["numbers"], to=TensorProto.FLOAT),
        node("Sin", ["numbers"], ["angles"]),
        node("Unsqueeze", ["angles", "last"], ["angle"]),
        node("Add", ["position", "angle"], ["placed"]),
        node("Add", ["embedded", "placed"], ["x"]),
        node("Unsqueeze", ["places", "first"], ["row"]),
        node("Unsqueeze", ["places", "last"], ["column"]),
        node("Greater", ["row", "column"], ["later"]),
        node("Where", ["later", "never", "always"], ["mask"]),
        node("Transpose", ["x"], ["turned"], perm=[0, 2, 1]),
        node("MatMul", ["x", "turned"], ["scores"]),
        node("Add", ["scores", "mask"], ["masked"]),
        node("Softmax", ["masked"], ["shares"], axis=-1),
        node("MatMul", ["shares", "x"], ["attended"]),
        node("ReduceMean", ["attended", "last"], ["mean"], keepdims=0),
        node("MatMul", ["mean", "head"], ["y"]),
    ]
    return _model(
        nodes,
        "ids",
        TensorProto.INT64,
        ["batch", "length"],
        table=weights(50, width),
        positions=weights(2048, width),
        head=weights(width, 3),
        zero=np.int64(0),
        one=np.int64(1),
        first=np.array([0]),
        last=np.array([1]),
        never=np.float32(-1e4),
        always=np.float32(0),
    )


def network(number: int) -> onnx.ModelProto:
    """A network of two layers; each number gives other weights and, up to 1,000, another size."""
    random = np.random.default_rng(number)
    sizes = (6, 4 + number % 32, 3 + number // 32 % 32)
    first, second = (random.standard_normal(shape).astype(np.float32) for shape in (sizes[:2], sizes[1:]))
    nodes = [
        node("MatMul", ["x", "first"], ["a"]),
        node("Sqrt", ["variance"], ["deviation"]),
        node("Div", ["a", "deviation"], ["b"]),
        node("Relu", ["b"], ["c"]),
        node("MatMul", ["c", "second"], ["y"]),
    ]
    variance = np.square(first[0]) + 1
    return _model(nodes, "x", TensorProto.FLOAT, ["batch", 6], first=first, second=second, variance=variance)


def shapes(count: int) -> Iterator[None]:
    """Explain inputs of ever new lengths by one Explainer, in no order: a long input needs more memory by itself."""
    from backtrace_jax import Explainer

    explainer = Explainer(transformer(), mode="gradient", task="multi-class classification")
    for length in np.random.default_rng(0).permutation(count) + 3:
        explainer(np.arange(length)[None] % 50)
        yield


def models(count: int) -> Iterator[None]:
    """Explain an input by ever new models."""
    from backtrace_jax import Explainer

    for number in range(count):
        explainer = Explainer(network(number), mode="gradient", task="multi-class classification")
        explainer(np.ones((1, 6), np.float32))
        yield


LOOPS: dict[str, Callable[[int], Iterator[None]]] = {"shapes": shapes, "models": models}


def note(loop: str, count: int, hurried: bool) -> None:
    """Run a loop in this process, and print a line of JSON (turns, MiB) every ten turns."""
    from backtrace_jax.runtime.numerics import COMPILER_OPTIONS

    if hurried:
        COMPILER_OPTIONS["cpu"] |= {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    for turn, _ in enumerate(LOOPS[loop](count), 1):
        if turn % EVERY == 0:
            print(json.dumps([turn, round(resident(), 1)]), flush=True)


def measure(loop: str, count: int, *, hurried: bool = False) -> list[tuple[int, float]]:
    """Memory of a process of its own that runs a loop: (turns, MiB) every ten turns; `hurried`, barely optimised."""
    command = [sys.executable, "-m", "benchmarks.steady", "--note", loop, "--count", str(count)]
    command += ["--hurried"] if hurried else []
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{loop}: {done.stderr[-2000:]}")
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def growth(found: list[tuple[int, float]]) -> float:
    """MiB per turn after the first twenty: slope of a straight line through them."""
    turns, sizes = np.array([each for each in found if each[0] >= FIRST], float).T
    return float(np.polyfit(turns, sizes, 1)[0])


def draw(results: dict[str, list[tuple[int, float]]]) -> None:
    """Draw memory over turns."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.add_subplot(xlabel="turns", ylabel="resident memory, MiB", ylim=(0, None))
    for loop, found in results.items():
        axes.plot(*zip(*found, strict=True), label=f"new {loop}: {growth(found):+.2f} MiB each after the first {FIRST}")
    axes.set_ylim(0, 1.2 * max(size for found in results.values() for _, size in found))
    axes.legend(loc="lower right")
    figure.savefig(PICTURE, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steady", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--loops", nargs="+", choices=LOOPS, default=tuple(LOOPS))
    parser.add_argument("--note", choices=LOOPS, help=argparse.SUPPRESS)
    parser.add_argument("--hurried", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.note:
        note(asked.note, asked.count, asked.hurried)
        return
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for loop in asked.loops:
        results[loop] = measure(loop, asked.count)
        print(f"{loop}: {results[loop][-1][1]:.0f} MiB, {growth(results[loop]):+.3f} MiB each after the first {FIRST}")
    RESULTS.write_text("{" + ",\n ".join(f'"{loop}": {json.dumps(found)}' for loop, found in results.items()) + "}\n")
    draw(results)


if __name__ == "__main__":
    main()
