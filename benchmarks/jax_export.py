"""`export` of JAX models by jax2onnx: which files are proven, and which models are refused with what reason.

    python -m benchmarks.jax_export --output benchmarks/results/jax_export/kinds.json

Needs the extra `jax2onnx`. Models are those of `tests/importers/jax/kinds.py`, of every kind.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from backtrace_jax import explain, export
from backtrace_jax.errors import BacktraceError
from tests.importers.jax import kinds


def tried(model: Any, folder: Path) -> dict[str, Any]:
    """What became of an export: how far relevance by the file is from that by the model, or why there is none."""
    path = folder / "model.onnx"
    try:
        written = export(model, path, kinds.X)
    except BacktraceError as error:
        return {"refused": f"{type(error).__name__}: {error}"}
    ours, theirs = (explain(each, kinds.X, target=1).relevance["x"] for each in (model, path))
    apart = float(np.abs(ours - theirs).max() / np.abs(ours).max())
    return {"exporter": written.origin["exporter"], "relevance apart": apart}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="also write the results there, as JSON")
    chosen = parser.parse_args()
    found = {}
    for kind, model in kinds.models().items():
        with tempfile.TemporaryDirectory() as folder:
            found[kind] = tried(model, Path(folder))
        print(f"{kind}: {found[kind]}", flush=True)
    if chosen.output is not None:
        chosen.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
