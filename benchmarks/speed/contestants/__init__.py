"""The contestants: who runs what, in which environment, in which of our modes, and what it is compared with.

Each is a module of this package with a function `prepare(stored, batch, mode, device) -> Prepared`. Only workers
import those modules; this table is read by the parent, which needs none of their packages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..environments import OWN
from ..workloads import ALONG_PATH, MODES, Workload

NO_MODE = ""
"""The mode of what is no explanation."""


@dataclass(frozen=True)
class Prepared:
    """A contestant ready to run.

    Attributes:
        call: Runs it once on the whole batch, and returns when the result is there.
        compile_seconds: What was compiled for this shape took that long; None where nothing is compiled.
        notes: What else the results should tell.
    """

    call: Callable[[], Any]
    compile_seconds: float | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


CONVOLUTIONAL = frozenset({"digits", "resnet18", "resnet50", "vgg16"})
FLOATS = CONVOLUTIONAL | {"vit_b16", "lstm"}
TRANSFORMERS = frozenset({"vit_b16", "bert", "llama"})
EVERY = FLOATS | TRANSFORMERS


@dataclass(frozen=True)
class Contestant:
    """One row of the table.

    Attributes:
        name: Its name here and in the results.
        packages: Whose versions are recorded.
        environment: Name of the environment it runs in.
        modes: What it calls each of our modes that it has; by default it is no explanation.
        families: The networks it can be asked to run.
        batches: The batch sizes it can be asked to run; None: all.
        against: The contestants its time is divided by, in the same round; those without modes, or in the same one.
        ours: Whether a larger ratio means that our code got slower; otherwise a smaller one does.
        slow: Whether it takes minutes to hours: then it runs alone, once, and only when asked for.
        limit: Seconds that one run may take.
    """

    name: str
    packages: tuple[str, ...]
    environment: str = OWN
    modes: Mapping[str, str] = field(default_factory=lambda: {NO_MODE: ""}, hash=False)
    families: frozenset[str] = EVERY
    batches: tuple[int, ...] | None = None
    against: tuple[str, ...] = ()
    ours: bool = False
    slow: bool = False
    limit: float = 600.0

    @property
    def module(self) -> str:
        """The module that prepares it."""
        return f"{__name__}.{self.name.replace('-', '_').replace('.', '_')}"

    def takes(self, workload: Workload, batch: int, mode: str) -> bool:
        """Whether it can be asked for this."""
        fits = self.batches is None or batch in self.batches
        return fits and workload.family in self.families and mode in self.modes


_JAX, _TORCH = ("jax", "jaxlib", "backtrace-jax"), ("torch",)
_OURS, _ANCHORS = ("explanation",), ("forward", "jax-gradient")
_BLACK_BOX = {"batches": (1,), "against": _OURS, "slow": True, "limit": 7200.0}  # they take one example at a time

_ALL = (
    Contestant("forward", _JAX, against=("torch-forward", "onnxruntime-forward"), ours=True),
    Contestant("jax-gradient", _JAX, against=("forward", "torch-gradient"), ours=True),
    Contestant("torch-forward", _TORCH),
    Contestant("torch-gradient", _TORCH, against=("torch-forward",)),
    Contestant("onnxruntime-forward", ("onnxruntime",)),
    Contestant("explanation", _JAX, modes={mode: mode for mode in MODES}, against=_ANCHORS, ours=True),
    Contestant("explanation-total", _JAX, modes={"attnlrp": "attnlrp"}, against=_ANCHORS, ours=True),
    Contestant(
        "zennit",
        ("zennit", *_TORCH),
        "zennit",
        {"lrp-epsilon": "Epsilon", "lrp-epsilon-plus": "EpsilonPlus"},
        CONVOLUTIONAL,
        against=_OURS,
    ),
    Contestant("captum-lrp", ("captum", *_TORCH), "captum", {"lrp-epsilon": "LRP"}, CONVOLUTIONAL, against=_OURS),
    Contestant("captum-ig", ("captum", *_TORCH), "captum", {ALONG_PATH: "IntegratedGradients"}, FLOATS, against=_OURS),
    Contestant(
        "lxt",
        ("lxt", "transformers", *_TORCH),
        "lxt",
        {"attnlrp": "efficient"},
        TRANSFORMERS,
        against=(*_OURS, "explanation-total"),
    ),
    Contestant(
        "dl-backtrace-0.0.24",
        ("dl-backtrace", "tensorflow"),
        "dl-backtrace-0.0.24",
        {"default": "default", "contrastive": "contrast"},
        frozenset({"digits"}),
        **_BLACK_BOX,
    ),
    Contestant(
        "dl-backtrace-0.1.24",
        ("dl-backtrace", *_TORCH),
        "dl-backtrace-0.1.24",
        {"default": "default"},
        EVERY,
        **_BLACK_BOX,
    ),
)

CONTESTANTS = {contestant.name: contestant for contestant in _ALL}
