"""The workloads: which networks, at which sizes, in which modes. Workers read this too, so no framework is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

CONVOLUTIONAL = ("default", "contrastive", "lrp-epsilon", "lrp-epsilon-plus")
ATTENDING = ("default", "lrp-epsilon", "attnlrp")
ALONG_PATH = "integrated-gradients"
MODES = (*CONVOLUTIONAL, "attnlrp", ALONG_PATH)
BATCHES = (1, 8, 32)


@dataclass(frozen=True)
class Workload:
    """A network with inputs.

    Attributes:
        name: Its name here and in the results.
        family: Which function of `networks` builds it.
        options: That function's arguments.
        inputs: Which function of `preparing` makes its inputs: "images", "sentences", "prompts", "signals" or "rows".
        shape: Of one example: channels and size, the number of tokens, steps and features, or features.
        modes: Modes it is explained in unless others are asked for.
        batches: Batch sizes it is run at unless others are asked for.
        weights: GiB of its weights; with `example`, what a process is expected to need.
        example: GiB that one more example takes in the most demanding mode, roughly.
        task: How relevance starts at the output, as `explain` calls it.
    """

    name: str
    family: str
    options: Mapping[str, int] = field(hash=False)
    inputs: str
    shape: tuple[int, ...]
    modes: tuple[str, ...]
    batches: tuple[int, ...] = BATCHES
    weights: float = 0.05
    example: float = 0.1
    task: str = "auto"
    about: str = field(default="", compare=False)

    def expected_bytes(self, batch: int) -> float:
        """What one process needs: its packages, the weights as read and as used, the values of a batch."""
        return 2**30 * (0.7 + 2.5 * self.weights + batch * self.example)


def _bert(length: int, layers: int) -> Workload:
    """BERT-base as transformers configures it, at a length and a depth."""
    suffix = f"_length_{length}" * (length != 128) + f"_layers_{layers}" * (layers != 12)
    return Workload(
        f"bert_base{suffix}",
        "bert",
        {"layers": layers},
        "sentences",
        (length,),
        ATTENDING,
        weights=0.41,
        example=0.2 * length / 128,
        about=f"BERT-base, {layers} layers, {length} tokens",
    )


def _llama(length: int) -> Workload:
    return Workload(
        f"llama_1b_{length}",
        "llama",
        {},
        "prompts",
        (length,),
        ("default", "attnlrp"),
        (1,),
        weights=4.6,
        example=length / 256,
        task="next-token",
        about=f"LLaMA-3.2-1B, {length} tokens, logits at every position",
    )


def _images(name: str, modes: tuple[str, ...], weights: float, example: float, about: str) -> Workload:
    return Workload(name, name, {}, "images", (3, 224), modes, weights=weights, example=example, about=f"{about}, 224²")


def _small_cnn(width: int, about: str) -> Workload:
    name = f"small_cnn_{width}"
    return Workload(
        name, "small_cnn", {"width": width}, "images", (3, 32), CONVOLUTIONAL, (1,), 0.0, 0.01, about=f"{about}, 32²"
    )


_PATHS = (*CONVOLUTIONAL, ALONG_PATH)
_ALL = (
    Workload("digits_cnn", "digits", {}, "images", (1, 8), _PATHS, weights=0.0, example=0.01, about="CNN, 8² digits"),
    _images("resnet18", _PATHS, 0.05, 0.1, "ResNet-18"),
    _images("resnet50", CONVOLUTIONAL, 0.1, 0.3, "ResNet-50"),
    _images("vgg16", CONVOLUTIONAL, 0.52, 0.35, "VGG-16"),
    _images("vit_b16", ATTENDING, 0.33, 0.3, "ViT-B/16"),
    Workload("lstm", "lstm", {}, "signals", (200, 64), ("default", "lrp-epsilon"), about="LSTM, 2 of 256, 200 steps"),
    _llama(128),
    _llama(512),
    *(_bert(length, 12) for length in (32, 64, 128, 256, 512)),
    *(_bert(128, layers) for layers in (1, 2, 4, 8)),
)
LIGHT = (
    Workload("rows_mlp", "mlp", {}, "rows", (30,), CONVOLUTIONAL, (10**6,), 0.0, 1e-6, about="MLP, 30-16-8-1"),
    _small_cnn(8, "CNN, 2 MFLOP"),
    _small_cnn(20, "CNN, 8 MFLOP"),
    _small_cnn(48, "CNN, 46 MFLOP"),
)
"""What `benchmarks.light` measures beside the digits: a single example, and a million."""
LIGHT_FAMILIES = frozenset({"digits", *(workload.family for workload in LIGHT)})

WORKLOADS = {workload.name: workload for workload in (*_ALL, *LIGHT)}
STANDARD = tuple(workload.name for workload in _ALL if not workload.name.startswith("bert_base_"))
"""What is measured unless told otherwise; the rest belongs to the series, or is light."""


@dataclass(frozen=True)
class Series:
    """Time and memory against one size.

    Attributes:
        axis: What grows.
        points: (its value, workload, batch).
    """

    axis: str
    points: tuple[tuple[int, str, int], ...]


SERIES = {
    "batch": Series("examples", tuple((batch, "resnet18", batch) for batch in (1, 8, 16, 24, 32))),
    "length": Series(
        "tokens", tuple((n, "bert_base" if n == 128 else f"bert_base_length_{n}", 1) for n in (32, 64, 128, 256, 512))
    ),
    "depth": Series(
        "layers", tuple((n, "bert_base" if n == 12 else f"bert_base_layers_{n}", 1) for n in (1, 2, 4, 8, 12))
    ),
}
SERIES_CONTESTANTS = ("explanation", "forward", "jax-gradient")
SERIES_MODES = ("default",)
