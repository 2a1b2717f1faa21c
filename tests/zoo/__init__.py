"""Small models of every family, exported from torch: what the importers and the engine are tested on.

    from tests.zoo import NAMES, exported

    lenet = exported("lenet")
    lenet.model, lenet.inputs, lenet.torch_outputs

Each model is built with fixed weights that hide no mistake (`recipe.randomise`), exported with a dynamic
batch axis, and kept on disk between runs (`store`). `export.build(name).module` is the torch module itself.
"""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from tests.zoo.store import Exported, load, path_of, save

__all__ = ["NAMES", "TEXT", "VISION", "Exported", "exported"]

VISION = (
    "mlp",
    "lenet",
    "lenet_relu",
    "vgg_small",
    "resnet18",
    "resnet_small",
    "efficientnet",
    "mobilenet_v2",
    "densenet",
    "vit",
    "vit_sdpa",
    "vit_mha",
)
TEXT = ("bert", "text_cnn", "gpt")
NAMES = VISION + TEXT


def exported(name: str, *, exporter: Literal["dynamo", "torchscript"] = "dynamo", opset: int = 20) -> Exported:
    """A zoo model as ONNX, with a batch of inputs and torch's outputs for it."""
    if name not in NAMES:
        raise ValueError(f"no model {name!r} in the zoo; there are {', '.join(NAMES)}")
    return _exported(name, exporter, opset)


@functools.cache
def _exported(name: str, exporter: str, opset: int) -> Exported:
    """From disk, or exported now and read back, so that both ways give the same."""
    path = path_of(name, exporter, opset)
    found = load(path)
    if found is None:
        with _quiet():
            from tests.zoo.export import export

            save(export(name, exporter, opset), path)
        found = load(path)
    if found is None:
        raise OSError(f"cannot read back the export written to {path}")
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warnings and log messages of torch, its exporters and transformers."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
