"""AttnLRP as slopes, as quotients, and the gradient of the same forward pass: time per call and of the first call.

    python -m benchmarks.slopes
    python -m benchmarks.slopes --networks bert_base_layers_2 --batches 1 --rounds 20 --set ledger=total

All run in one process, taking turns, round by round; what is told are medians, and medians of the ratios of each round.
The first call is what it takes longer than a later one: lowering, tracing, XLA. Both explanations are called as users
call them, with arrays on the host; the gradient keeps them on the device. Results go to benchmarks/results/slopes/.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import jax

from backtrace_jax import Explainer, mode
from benchmarks.speed.contestants import explanation, jax_gradient
from benchmarks.speed.machine import environment
from benchmarks.speed.stored import Stored, stored

RESULTS = Path(__file__).parent / "results" / "slopes" / "bert_base.json"
FORMS = {"slopes": 0.0, "quotients": 1e-9}
"""Epsilon of each form."""
GRADIENT = "gradient"


class Seconds(NamedTuple):
    """What a call takes, by the clock and of the processors, which is steadier where others work as well."""

    wall: float
    processor: float


class Contestant(NamedTuple):
    """Something to call, and the seconds that its first call took longer than the next."""

    call: Callable[[], Any]
    first: float


def explained(given: Stored, batch: int, name: str, settings: dict[str, Any]) -> Contestant:
    """An explanation in one of the forms."""
    chosen = mode("attnlrp", epsilon=FORMS[name])
    explainer = Explainer(given.onnx, mode=chosen, task=given.workload.task, **settings)
    inputs = given.inputs(batch)
    first, second = (timed(lambda: explainer(inputs)) for _ in range(2))
    return Contestant(lambda: explainer(inputs), first.wall - second.wall)


def gradient(given: Stored, batch: int) -> Contestant:
    """The gradient by JAX."""
    prepared = jax_gradient.prepare(given, batch, "", "cpu")
    return Contestant(prepared.call, prepared.compile_seconds or 0.0)


def timed(call: Callable[[], Any]) -> Seconds:
    """What a call takes until its result is there."""
    wall, processor = time.perf_counter(), time.process_time()
    jax.block_until_ready(call())
    return Seconds(time.perf_counter() - wall, time.process_time() - processor)


def medians(times: dict[str, list[Seconds]], name: str, other: str) -> dict[str, float]:
    """Medians of the ratios of two contestants in each round."""
    pairs = list(zip(times[name], times[other], strict=True))
    return {clock: median(getattr(a, clock) / getattr(b, clock) for a, b in pairs) for clock in Seconds._fields}


def compare(network: str, batch: int, rounds: int, settings: dict[str, Any]) -> dict[str, Any]:
    """One network at one batch size."""
    given, settings = stored(network), {"chunk": explanation.chunk_of(batch), **settings}
    contestants = {name: explained(given, batch, name, settings) for name in FORMS}
    contestants[GRADIENT] = gradient(given, batch)
    times: dict[str, list[Seconds]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, each in contestants.items():
            times[name].append(timed(each.call))
    return {
        "network": network,
        "batch": batch,
        "settings": settings,
        "seconds": {name: Seconds(*map(median, zip(*each, strict=True)))._asdict() for name, each in times.items()},
        "first_call": {name: each.first for name, each in contestants.items()},
        "gradients": {name: medians(times, name, GRADIENT) for name in FORMS},
        "slopes / quotients": medians(times, "slopes", "quotients"),
    }


def main() -> None:
    """Measure and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["bert_base", "vit_b16"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of explain")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    settings = dict(each.split("=", 1) for each in given.set)
    rows = []
    for network in given.networks:
        for batch in given.batches:
            rows.append(compare(network, batch, given.rounds, settings))
            print(json.dumps(rows[-1], indent=1), flush=True)
    given.results.parent.mkdir(parents=True, exist_ok=True)
    given.results.write_text(
        json.dumps({"machine": environment("cpu"), "jax": jax.__version__, "rows": rows}, indent=1)
    )


if __name__ == "__main__":
    main()
