"""PyTorch's forward pass and the gradient of each example's top logit, with respect to inputs or embeddings only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..stored import Stored
from . import Prepared
from .torch_modules import finished, loaded, tensors, top


def prepare(stored: Stored, batch: int, mode: str, device: str) -> Prepared:
    """One forward and one backward pass; parameters take no gradient."""
    module, inputs = loaded(stored, device), tensors(stored, batch, device)
    given = [each.requires_grad_() for each in inputs if each.is_floating_point()]
    looked_up = _looked_up(module)

    def call() -> tuple[Tensor, ...]:
        looked_up.clear()
        output = module(*inputs)
        return torch.autograd.grad(top(output), [*given, *looked_up])

    return Prepared(finished(call, device))


def _looked_up(module: nn.Module) -> list[Tensor]:
    """A list that the rows of embeddings are put in as they are looked up, as the leaves of a gradient."""
    found: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, rows: Tensor) -> Tensor:
        found.append(rows.detach().requires_grad_())
        return found[-1]

    for part in module.modules():
        if isinstance(part, nn.Embedding):
            part.register_forward_hook(keep)
    return found
