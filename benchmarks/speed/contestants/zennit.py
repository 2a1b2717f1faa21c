"""zennit, by its documented composites and the canonizer for torchvision's ResNets."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..stored import Stored
from . import CONTESTANTS, Prepared
from .torch_modules import finished, loaded, tensors
from .torchvision_import import DECLARED  # noqa: F401 - zennit imports torchvision

# isort: split
from torchvision import models
from zennit import canonizers, composites, rules, torchvision, types
from zennit.core import Composite

RESNETS = {"resnet18": models.resnet18, "resnet50": models.resnet50}
"""The canonizer knows a residual sum by torchvision's own classes."""


def _epsilon(merging: list[canonizers.Canonizer]) -> Composite:
    """One rule for all layers with weights; what zennit's own composites do for the others."""
    return composites.LayerMapComposite(
        [(types.Linear, rules.Epsilon()), *composites.layer_map_base()], canonizers=merging
    )


def _epsilon_plus(merging: list[canonizers.Canonizer]) -> Composite:
    return composites.EpsilonPlus(canonizers=merging)


COMPOSITES: dict[str, Callable[[list[canonizers.Canonizer]], Composite]] = {
    "Epsilon": _epsilon,
    "EpsilonPlus": _epsilon_plus,
}


def prepare(stored: Stored, batch: int, mode: str, device: str) -> Prepared:
    """The composite is registered once; a call is a forward and a backward pass through its hooks."""
    family = stored.workload.family
    module = loaded(stored, device, RESNETS.get(family))
    composite = COMPOSITES[CONTESTANTS["zennit"].modes[mode]](
        [torchvision.ResNetCanonizer()] if family in RESNETS else []
    )
    composite.register(module)
    (inputs,) = tensors(stored, batch, device)
    return Prepared(finished(lambda: _relevance(module, inputs.requires_grad_()), device))


def _relevance(module: nn.Module, inputs: Tensor) -> Tensor:
    """Relevance of the inputs for each example's predicted class."""
    output = module(inputs)
    start = output.detach() * functional.one_hot(output.argmax(1), output.shape[1])
    return torch.autograd.grad(output, inputs, start)[0]
