"""Exported models in memory and on disk.

Exporting takes seconds, so results are kept between test runs in the folder named by BACKTRACE_JAX_ZOO, or
in the system's folder for temporary files. A file's name is a hash of all that decides its content. Files
are moved into place whole, so workers running side by side never read half a file.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx

PACKAGES = ("torch", "onnx", "onnxscript", "transformers", "numpy")


@dataclass(frozen=True)
class Exported:
    """A model as a user would hand it over. Shared between tests: copy before changing anything."""

    name: str
    model: onnx.ModelProto
    inputs: dict[str, np.ndarray]
    torch_outputs: dict[str, np.ndarray]


def path_of(name: str, exporter: str, opset: int) -> Path:
    """Where an export is kept, given the zoo's sources and the installed versions."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        if not source.name.startswith("test_"):
            digest.update(source.name.encode() + source.read_bytes())
    digest.update(" ".join(version(package) for package in PACKAGES).encode())
    return _folder() / f"{name}-{exporter}-{opset}-{digest.hexdigest()[:16]}.npz"


def _folder() -> Path:
    """The user's own cache folder."""
    user = getattr(os, "getuid", int)()
    default = Path(tempfile.gettempdir()) / f"backtrace-jax-zoo-{user}"
    return Path(os.environ.get("BACKTRACE_JAX_ZOO") or default)


def save(exported: Exported, path: Path) -> None:
    """Write to a file beside `path`, then rename it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    arrays = {f"input/{name}": value for name, value in exported.inputs.items()}
    arrays |= {f"output/{name}": value for name, value in exported.torch_outputs.items()}
    arrays["model"] = np.frombuffer(exported.model.SerializeToString(), np.uint8)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            np.savez(file, **arrays)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def load(path: Path) -> Exported | None:
    """Read an export back; None if there is none, or none that can be read."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: _frozen(archive[name]) for name in archive.files}
        model = onnx.load_model_from_string(arrays.pop("model").tobytes())
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    return Exported(path.name.split("-")[0], model, _group(arrays, "input/"), _group(arrays, "output/"))


def _group(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose name starts with the prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def _frozen(array: np.ndarray) -> np.ndarray:
    """The same array, read-only."""
    array.flags.writeable = False
    return array
