"""Explains one large graph in a process of its own and tells what it took: python -m ... KIND SIZE MODE."""

from __future__ import annotations

import json
import resource
import sys
import time
import warnings

import numpy as np

from backtrace_jax import Explainer

from .models import MODELS, chain


def main(kind: str, size: int, mode: str) -> None:
    """Warm up on a small model, so that packages are loaded, then measure compilation and the first call."""
    warnings.simplefilter("ignore")
    _explain(chain(3), mode)
    model, before = MODELS[kind](size), _peak()
    cpu, wall = time.process_time(), time.perf_counter()
    _explain(model, mode)
    taken = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
    print(json.dumps({**taken, "mib": _peak(), "more_mib": _peak() - before}))


def _explain(model, mode: str) -> None:
    random = np.random.default_rng(0)
    feeds = {
        info.name: random.standard_normal((1, info.type.tensor_type.shape.dim[1].dim_value)).astype(np.float32)
        for info in model.graph.input
    }
    found = Explainer(model, mode=mode)(feeds)
    assert all(np.isfinite(array).all() for array in found.relevance.values())


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
