"""Relevance as the package zennit computes it, used through its public interface only."""

# ruff: noqa: E402 - torchvision must be made importable before zennit imports it

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from tests.peers.zennit_networks import BOX, network


def _import_torchvision() -> torch.library.Library | None:
    """Import torchvision, also beside a torch that its compiled operators were not built for.

    zennit imports torchvision for the classes of its models only. Without its operators torchvision fails where it
    describes two of them, so they are declared first; the declarations last as long as the library returned.
    """
    library = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import torchvision
        except RuntimeError:
            library = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            import torchvision  # noqa: F401
    return library


TORCHVISION_OPERATORS = _import_torchvision()

from zennit import composites, rules
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.core import Composite, Hook
from zennit.layer import Sum
from zennit.types import Linear

SMALLEST_EPSILON = 1e-12  # zennit gives NaN for 0/0, where a pooling window or a residual sum is all zero


class Join(nn.Module):
    """A residual sum that zennit recognises: its rules hook modules, and leave a written `+` to the gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.sum = Sum()

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return self.sum(torch.stack((left, right), dim=-1))


def _everywhere(rule: Callable[..., Hook], stabilizer: float = 1e-6, **settings: float) -> Callable[[], Composite]:
    """One rule on all linear layers, and what zennit's own composites do on the others."""

    def composite() -> Composite:
        layers = [(Linear, rule(**settings)), *composites.layer_map_base(stabilizer)]
        return composites.LayerMapComposite(layers, canonizers=[SequentialMergeBatchNorm()])

    return composite


def _named(composite: Callable[..., Composite], **settings: float) -> Callable[[], Composite]:
    """One of zennit's own composites."""
    return lambda: composite(**settings, canonizers=[SequentialMergeBatchNorm()])


@dataclass(frozen=True, eq=False)
class Peer:
    """A mode of this package with its settings, and the composite of zennit that should say the same."""

    mode: str
    composite: Callable[[], Composite]
    settings: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return " ".join([self.mode, *(f"{key}={value}" for key, value in self.settings.items())])

    def relevance(self, name: str, inputs: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Relevance of the inputs of a network, from a start relevance in the shape of its output."""
        x = torch.tensor(inputs, requires_grad=True)
        with self.composite().context(network(name, Join)) as hooked:
            (found,) = torch.autograd.grad(hooked(x), x, torch.tensor(start))
        return found.numpy()


PEERS = (
    Peer("gradient", lambda: composites.LayerMapComposite([])),
    Peer("lrp-epsilon", _everywhere(rules.Epsilon)),
    Peer("lrp-epsilon", _everywhere(rules.Epsilon, stabilizer=0.1, epsilon=0.1), {"epsilon": 0.1}),
    Peer("lrp-zero", _everywhere(rules.Epsilon, stabilizer=SMALLEST_EPSILON, epsilon=0.0)),
    Peer("lrp-gamma", _everywhere(rules.Gamma)),
    Peer("lrp-gamma", _everywhere(rules.Gamma, gamma=2.0), {"gamma": 2.0}),
    Peer("lrp-alpha2-beta1", _everywhere(rules.AlphaBeta, alpha=2.0, beta=1.0)),
    Peer("lrp-alpha1-beta0", _everywhere(rules.AlphaBeta, alpha=1.0, beta=0.0)),
    Peer("lrp-zplus", _everywhere(rules.ZPlus)),
    Peer("lrp-wsquare", _everywhere(rules.WSquare)),
    Peer("lrp-flat", _everywhere(rules.Flat)),
    Peer("lrp-epsilon-plus", _named(composites.EpsilonPlus)),
    Peer("lrp-epsilon-plus-flat", _named(composites.EpsilonPlusFlat)),
    Peer("lrp-epsilon-alpha2-beta1", _named(composites.EpsilonAlpha2Beta1)),
    Peer("lrp-epsilon-alpha2-beta1-flat", _named(composites.EpsilonAlpha2Beta1Flat)),
    Peer("lrp-epsilon-gamma-box", _named(composites.EpsilonGammaBox, **BOX), BOX),
    Peer("excitation-backprop", _named(composites.ExcitationBackprop)),
    Peer("guided-backprop", _named(composites.GuidedBackprop)),
    Peer("deconvnet", _named(composites.DeconvNet)),
)
