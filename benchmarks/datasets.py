"""Whole datasets in one call: throughput beside a bare loop, peak memory, and processes that are killed.

    python -m benchmarks.datasets                                     # all three, for rows, digits and texts
    python -m benchmarks.datasets --only rows --rows 1000000 --what throughput memory
    python -m benchmarks.datasets --only rows --what kills --kills 20

Throughput: the bare loop calls the compiled function alone on arrays in memory, at the batch size that is best; the
whole call reads, explains, adds up and writes the same examples. Both take turns in one process, everything compiled.
Memory: the largest resident set of a process that explains all examples, and of one that explains a tenth of them.
Kills: SIGKILL at random moments until the run has ended; the store is then compared with that of a run nobody stopped,
file by file. Results go to benchmarks/results/datasets/.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backtrace_jax import Explainer, explain_dataset
from backtrace_jax.explainer.asking import Asked, grouped, stacked
from backtrace_jax.sources import Examples, Group, Schema
from benchmarks.speed import machine
from benchmarks.speed.environments import cache_folder
from benchmarks.speed.results import rounded
from benchmarks.speed.stored import stored

RESULTS = Path(__file__).parent / "results" / "datasets"
SIZES = {"rows": 1_000_000, "digits": 100_000, "texts": 2_000}
STEPS = {"rows": (1024, 4096, 16384, 65536), "digits": (256, 1024, 4096, 16384), "texts": (8, 32, 128)}
THROUGHPUT, MEMORY, KILLS = "throughput", "memory", "kills"
LENGTHS = (8, 16, 24, 32)
VOCABULARY = 30522


@dataclass(frozen=True)
class Made:
    """Examples that are made when they are read, the same ones always; of several lengths where these are texts.

    Attributes:
        schema: What is known of them.
        count: How many.
        stock: Arrays by name, of which examples are taken again and again.
        tokens: Of each text in the stock, how long it is; None where these are no texts.
    """

    schema: Schema
    count: int
    stock: dict[str, np.ndarray]
    tokens: np.ndarray | None = None

    def read(self, first: int, last: int) -> Examples:
        chosen = np.arange(first, last) % len(next(iter(self.stock.values())))
        if self.tokens is None:
            return Examples(last - first, (Group(np.arange(last - first), self._taken(chosen)),))
        padded = np.asarray(LENGTHS)[np.searchsorted(LENGTHS, self.tokens[chosen])]
        places = [(length, np.flatnonzero(padded == length)) for length in LENGTHS]
        return Examples(last - first, tuple(Group(p, self._taken(chosen[p], n)) for n, p in places if len(p)))

    def stream(self) -> Iterator[Examples]:
        raise NotImplementedError

    def _taken(self, chosen: np.ndarray, length: int | None = None) -> dict[str, np.ndarray]:
        return {name: array[chosen] if length is None else array[chosen, :length] for name, array in self.stock.items()}


def rows(count: int) -> tuple[Path, Made]:
    return _stored("rows_mlp", count, 4096)


def digits(count: int) -> tuple[Path, Made]:
    return _stored("digits_cnn", count, 1024)


def _stored(name: str, count: int, stock: int) -> tuple[Path, Made]:
    known = stored(name)
    arrays = known.inputs(stock)
    kinds = {key: (array.shape[1:], array.dtype.name) for key, array in arrays.items()}
    return known.onnx, Made(Schema(kinds, identity={"kind": name}), count, arrays)


def texts(count: int) -> tuple[Path, Made]:
    """Ids of texts of 4 to 32 tokens, most of them short, padded to four lengths."""
    generator, longest = np.random.default_rng(0), LENGTHS[-1]
    tokens = np.clip(generator.poisson(12, 512), 4, longest)
    ids = generator.integers(1000, VOCABULARY, (512, longest))
    mask = (np.arange(longest) < tokens[:, None]).astype(np.int64)
    kinds = dict.fromkeys(("input_ids", "attention_mask"), ((longest,), "int64"))
    schema = Schema(kinds, kept={"input_ids": None}, lengths=LENGTHS, identity={"kind": "texts"})
    return minilm(), Made(schema, count, {"input_ids": ids * mask, "attention_mask": mask}, tokens)


CASES: dict[str, Callable[[int], tuple[Path, Made]]] = {"rows": rows, "digits": digits, "texts": texts}


def minilm() -> Path:
    """A BERT of the shape of MiniLM-L6 with random weights, its batch and length open."""
    path = cache_folder() / "benchmarks" / "minilm_shaped.onnx"
    if not path.exists():
        import torch
        from transformers import BertConfig, BertForSequenceClassification

        torch.manual_seed(0)
        shape = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
        module = BertForSequenceClassification(BertConfig(**shape, attn_implementation="eager")).eval()
        given = torch.ones(2, 8, dtype=torch.int64)
        open_axes = {key: {0: "batch", 1: "tokens"} for key in ("input_ids", "attention_mask")}
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.onnx.export(
            module,
            (given, given),
            str(path),
            input_names=[*open_axes],
            output_names=["logits"],
            dynamic_axes=open_axes,
            dynamo=False,
        )
    return path


def bare(explainer: Explainer, made: Made, step: int) -> Callable[[], Any]:
    """Calls of the compiled function alone, on examples that are in memory, so many at a time."""
    calls = []
    for first in range(0, made.count, max(step, 4096)):
        for group in made.read(first, min(first + max(step, 4096), made.count)).groups:
            compiled = _compiled(explainer, group.inputs)
            for begin in range(0, len(group.places), step):
                part = {name: array[begin : begin + step] for name, array in group.inputs.items()}
                calls.append((compiled, part))

    def run() -> None:
        for (compiled, question, constant), part in calls:
            count = len(next(iter(part.values())))
            asked = question._replace(
                **{n: np.repeat(a[:1], count, axis=0) for n, a in question._asdict().items() if a is not None}
            )
            compiled.run(stacked(compiled, part), grouped(compiled, asked), constant)

    return run


def _compiled(explainer: Explainer, inputs: dict[str, np.ndarray]) -> tuple[Any, Any, Any]:
    ready = explainer.understood_first({name: array[:8] for name, array in inputs.items()}, Asked())
    form, posed = next(iter(ready.forms.items()))
    first = min(posed)
    return ready.call.stages.compiled(ready.call.known, form), posed[first].question, ready.constants[form][first]


def seconds(call: Callable[[], Any]) -> float:
    before = time.perf_counter()
    call()
    return time.perf_counter() - before


def throughput(name: str, count: int, rounds: int) -> dict[str, Any]:
    """Examples per second of the bare loop and of the whole call, which take turns."""
    model, made = CASES[name](count)
    explainer = Explainer(model, ledger="total")
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"

        def whole() -> None:
            shutil.rmtree(store, ignore_errors=True)
            explain_dataset(explainer, made, store)

        pilot = Made(made.schema, min(count, max(count // 10, 64)), made.stock, made.tokens)
        steps = {step: bare(explainer, pilot, step) for step in STEPS[name]}
        for call in steps.values():
            call()
        best = min(steps, key=lambda step: min(seconds(steps[step]) for _ in range(3)))
        loop, taken = bare(explainer, made, best), {"bare": [], "whole": []}
        explain_dataset(explainer, pilot, Path(folder) / "pilot")
        for _ in range(rounds):
            taken["bare"].append(seconds(loop))
            taken["whole"].append(seconds(whole))
        size = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
        files = sum(path.is_file() for path in store.rglob("*"))
    ratios = [one / other for one, other in zip(taken["bare"], taken["whole"], strict=True)]
    return {
        "workload": name,
        "what": THROUGHPUT,
        "examples": count,
        "best_batch": best,
        "bare_per_second": rounded(count / statistics.median(taken["bare"])),
        "whole_per_second": rounded(count / statistics.median(taken["whole"])),
        "ratio": rounded(statistics.median(ratios)),
        "bar": 0.8,
        "rounds": rounds,
        "bytes_per_example": rounded(size / count),
        "files": files,
    }


def memory(name: str, count: int) -> dict[str, Any]:
    """The largest resident set of processes that explain all examples, and a tenth."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for size in (count // 10, count):
            command = _worker(name, size, Path(folder) / str(size))
            found[size] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["peak"]
    tenth, whole = found.values()
    row = {"workload": name, "what": MEMORY, "examples": count, "peak_mib": rounded(whole / 2**20)}
    return {**row, "peak_mib_of_a_tenth": rounded(tenth / 2**20), "ratio": rounded(whole / tenth), "bar": 1.3}


def kills(name: str, count: int, times: int, seed: int) -> dict[str, Any]:
    """Kill so many processes at random moments, end the run and compare; a run that ended is begun anew."""
    moments, amid, different = random.Random(seed), 0, list[str]()
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        _uninterrupted(_worker(name, count // 100, Path(folder) / "first"), whole)  # which compiles
        start, duration = _uninterrupted(_worker(name, count, whole), whole)
        latest, begun = start + (duration - start) / 4, 0
        while amid < times:
            begun += 1
            if died(_worker(name, count, killed), moments.uniform(0.3 * start, latest)):
                amid += 1
            else:
                different += differing(whole, killed)
                shutil.rmtree(killed)
        subprocess.run(_worker(name, count, killed), check=True, stdout=subprocess.DEVNULL)
        different += differing(whole, killed)
    row = {"workload": name, "what": KILLS, "examples": count, "killed": amid, "begun": begun, "seed": seed}
    return {**row, "different_files": different, "equal": not different}


def died(command: list[Any], after: float) -> bool:
    """Whether a process was killed after so many seconds; otherwise it had ended before."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        if process.wait(after):
            raise RuntimeError("a run has failed")
        return False
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True


def _uninterrupted(command: list[Any], store: Path) -> tuple[float, float]:
    """Seconds until the first block was stored, and until all were."""
    before = time.perf_counter()
    process, first = subprocess.Popen(command, stdout=subprocess.DEVNULL), None
    while process.poll() is None:
        if first is None and any(store.glob("status/c/*")):
            first = time.perf_counter() - before
        time.sleep(0.005)
    if process.returncode:
        raise RuntimeError("the run that nobody stops has failed")
    whole = time.perf_counter() - before
    return first or whole, whole


def differing(one: Path, other: Path) -> list[str]:
    """Files that two folders do not have in common, byte by byte."""
    names = {str(path.relative_to(folder)) for folder in (one, other) for path in folder.rglob("*") if path.is_file()}
    return sorted(name for name in names if not _same(one / name, other / name))


def _same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and filecmp.cmp(one, other, shallow=False)


def _worker(name: str, count: int, store: Path) -> list[Any]:
    return [sys.executable, "-m", "benchmarks.datasets", "--worker", store, "--only", name, f"--{name}", str(count)]


def work(name: str, count: int, store: Path) -> None:
    """What a process of its own does: explain, and tell its peak memory."""
    model, made = CASES[name](count)
    explain_dataset(model, made, store)
    print(json.dumps({"peak": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))


def measured(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row after the other."""
    for name in arguments.only:
        count = getattr(arguments, name)
        if THROUGHPUT in arguments.what:
            yield throughput(name, count, arguments.rounds)
        if MEMORY in arguments.what:
            yield memory(name, count)
        if KILLS in arguments.what:
            yield kills(name, count, arguments.kills, arguments.seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CASES, default=[*CASES], help="workloads")
    parser.add_argument("--what", nargs="+", choices=(THROUGHPUT, MEMORY, KILLS), default=[THROUGHPUT, MEMORY])
    for name, size in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=size, help=f"examples of {name} (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns that each takes (%(default)s)")
    parser.add_argument("--kills", type=int, default=20, help="processes that are killed (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of killing")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.only[0], getattr(arguments, arguments.only[0]), arguments.worker)
        return
    RESULTS.mkdir(parents=True, exist_ok=True)
    environment = machine.environment("cpu")
    print(
        f"{environment['cpu']}, {environment['cores']} cores; others use {machine.busy():.0%} of them", file=sys.stderr
    )
    for row in measured(arguments):
        print(json.dumps(row), flush=True)
        found = {"environment": environment, **row}
        (RESULTS / f"{row['workload']}-{row['what']}.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    os.chdir(Path(__file__).parents[1])
    main()
