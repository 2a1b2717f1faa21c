"""Small models of every family, exported from torch: what the importers and the engine are tested on.

    from tests.zoo import NAMES, exported

    lenet = exported("lenet")
    lenet.model, lenet.inputs, lenet.torch_outputs["output"]

Each model is built with fixed weights that hide no mistake (`recipe.randomise`), exported with a dynamic
batch axis, and kept on disk between runs (`store`). `export.build(name).module` is the torch module itself.
`NAMES` are the classifiers of one output; `ALL` adds every other kind of answer and of body.
"""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from tests.zoo.store import Exported, load, path_of, save

__all__ = [
    "ALL",
    "LANGUAGE",
    "NAMES",
    "RECURRENT",
    "SPATIAL",
    "TEXT",
    "VISION",
    "Exported",
    "Exporter",
    "exported",
    "settings_of",
]

Exporter = Literal["dynamo", "torchscript"]

VISION = (
    "mlp",
    "lenet",
    "lenet_relu",
    "vgg_small",
    "resnet18",
    "resnet_small",
    "efficientnet",
    "mobilenet_v2",
    "mobilenet_v3",
    "densenet",
    "vit",
    "vit_sdpa",
    "vit_mha",
)
TEXT = ("bert", "text_cnn", "gpt")
NAMES = VISION + TEXT
SPATIAL = ("unet", "unet_classes", "bbox_cnn")
RECURRENT = ("lstm", "gru", "rnn", "lstm_text", "mamba")
LANGUAGE = ("bert_qa", "bert_tokens", "llama")
ALL = NAMES + SPATIAL + RECURRENT + LANGUAGE

DEFAULT: tuple[Exporter, int] = ("dynamo", 20)
PREFERRED: dict[str, tuple[Exporter, int]] = {
    "llama": ("dynamo", 23),  # RMSNormalization is one node from here on
    "rnn": ("torchscript", 17),  # the newer exporter unrolls it
}


def exported(name: str, *, exporter: Exporter | None = None, opset: int | None = None) -> Exported:
    """A zoo model as ONNX, by default as `settings_of` says, with a batch of inputs and torch's outputs for it."""
    if name not in ALL:
        raise ValueError(f"no model {name!r} in the zoo; there are {', '.join(ALL)}")
    usual = settings_of(name)
    exporter = exporter or usual[0]
    _, usual_opset = usual if exporter == usual[0] else DEFAULT
    return _exported(name, exporter, opset or usual_opset)


def settings_of(name: str) -> tuple[Exporter, int]:
    """The exporter and the opset a model is exported with unless the caller says otherwise."""
    return PREFERRED.get(name, DEFAULT)


@functools.cache
def _exported(name: str, exporter: str, opset: int) -> Exported:
    """From disk, or exported now and read back, so that both ways give the same."""
    path = path_of(name, exporter, opset)
    found = load(path)
    if found is None:
        with quiet():
            from tests.zoo.export import export

            save(export(name, exporter, opset), path)
        found = load(path)
    if found is None:
        raise OSError(f"cannot read back the export written to {path}")
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings and log messages of torch, its exporters and transformers."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
