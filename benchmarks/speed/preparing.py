"""Makes the files of a workload: python -m benchmarks.speed.preparing NAME FOLDER (`stored` does so when needed)."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tests.zoo.recipe import images, randomise, sentences

from .networks import FAMILIES
from .workloads import WORKLOADS, Workload

TRACED = 2  # examples: torch takes the size 1 for a constant
OPSET = 23  # the first with RMS norm as one node
VOCABULARY = {"sentences": 30522, "prompts": 128256}


def _images(workload: Workload) -> dict[str, np.ndarray]:
    channels, size = workload.shape
    return {"input": images(size, channels=channels)}


def _sentences(workload: Workload) -> dict[str, np.ndarray]:
    return sentences(*workload.shape, VOCABULARY["sentences"])


def _prompts(workload: Workload) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {"input_ids": generator.integers(3, VOCABULARY["prompts"], size=(TRACED, *workload.shape))}


def _signals(workload: Workload) -> dict[str, np.ndarray]:
    """Noise smoothed over time, so that there is a past to remember."""
    steps, features = workload.shape
    noise = np.random.default_rng(0).normal(size=(TRACED, steps + 1, features))
    return {"input": (noise[:, 1:] + 0.5 * noise[:, :-1]).astype(np.float32)}


def _rows(workload: Workload) -> dict[str, np.ndarray]:
    """Features of unit variance, more rows than one would look at."""
    return {"input": np.random.default_rng(0).normal(size=(4096, *workload.shape)).astype(np.float32)}


INPUTS: dict[str, Callable[[Workload], dict[str, np.ndarray]]] = {
    "images": _images,
    "sentences": _sentences,
    "prompts": _prompts,
    "signals": _signals,
    "rows": _rows,
}


def build(workload: Workload) -> nn.Module:
    """The module with weights that hide nothing and keep activations at their size, always the same ones."""
    torch.manual_seed(zlib.crc32(workload.family.encode()))
    module = FAMILIES[workload.family](**workload.options)
    randomise(module)
    return module.eval()


def check_sane(module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
    """Refuse weights that blow the outputs up or let them vanish: arithmetic on such numbers has its own speed."""
    with torch.no_grad():
        size = module(*arguments).std().item()
    if not 1e-2 < size < 1e2:
        raise ValueError(f"outputs have a standard deviation of {size:.3g}")


def export(module: nn.Module, inputs: dict[str, np.ndarray], path: Path) -> None:
    """The ONNX file with a dynamic batch, its weights beside it."""
    batch = torch.export.Dim("batch")
    arguments = tuple(torch.tensor(array[:TRACED]) for array in inputs.values())
    check_sane(module, arguments)
    torch.onnx.export(
        module,
        arguments,
        path,
        dynamo=True,
        opset_version=OPSET,
        input_names=list(inputs),
        output_names=["output"],
        dynamic_shapes=tuple({0: batch} for _ in arguments),
        external_data=True,
        verbose=False,
    )


def prepare(workload: Workload, folder: Path) -> None:
    """Write everything beside the folder, then put it in place whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        made = Path(scratch) / folder.name
        made.mkdir()
        module, inputs = build(workload), INPUTS[workload.inputs](workload)
        export(module, inputs, made / "model.onnx")
        np.savez(made / "weights.npz", **{name: value.numpy() for name, value in module.state_dict().items()})
        np.savez(made / "inputs.npz", **inputs)
        os.replace(made, folder)


def main() -> None:
    """Prepare one workload, without the warnings of torch's exporter."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    name, folder = sys.argv[1:]
    prepare(WORKLOADS[name], Path(folder))


if __name__ == "__main__":
    main()
