"""A workload on disk: the ONNX file, the weights and the inputs that all contestants share.

Workers import this in the environments of the peers, so it needs NumPy only.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from .environments import cache_folder
from .workloads import WORKLOADS, Workload

ROOT = Path(__file__).parents[2]
PACKAGES = ("torch", "onnx", "onnxscript", "transformers", "numpy")
SOURCES = (
    *(Path(__file__).with_name(name) for name in ("networks.py", "preparing.py")),
    ROOT / "tests" / "zoo" / "recipe.py",
)


@dataclass(frozen=True)
class Stored:
    """A workload and the folder of its files."""

    workload: Workload
    folder: Path

    @property
    def onnx(self) -> Path:
        """The ONNX file; what is too large for it lies beside it."""
        return self.folder / "model.onnx"

    def inputs(self, batch: int) -> dict[str, np.ndarray]:
        """That many examples, by input name; the stored ones again and again where there are fewer."""
        with np.load(self.folder / "inputs.npz") as archive:
            return {name: np.resize(archive[name], (batch, *archive[name].shape[1:])) for name in archive.files}

    @contextmanager
    def weights(self) -> Iterator[np.lib.npyio.NpzFile]:
        """The network's state by the names that torch gives it, read array by array."""
        with np.load(self.folder / "weights.npz") as archive:
            yield archive


def folder_of(workload: Workload) -> Path:
    """Where a workload is kept, given all that decides what is in its files."""
    content = (workload.family, sorted(workload.options.items()), workload.inputs, workload.shape)
    digest = hashlib.sha256(repr(content).encode())
    for source in SOURCES:
        digest.update(source.read_bytes())
    digest.update(" ".join(version(package) for package in PACKAGES).encode())
    kept = Path(os.environ.get("BACKTRACE_JAX_BENCHMARKS") or cache_folder() / "benchmarks")
    return kept.absolute() / f"{workload.name}-{digest.hexdigest()[:16]}"


def stored(name: str) -> Stored:
    """A workload, prepared now if it is not there: in a process that takes its memory along when it ends."""
    workload = WORKLOADS[name]
    folder = folder_of(workload)
    if not folder.exists():
        command = [sys.executable, "-m", "benchmarks.speed.preparing", name, folder]
        subprocess.run(command, check=True, cwd=ROOT)
    return Stored(workload, folder)
