"""PyTorch's forward pass."""

from __future__ import annotations

import torch

from ..stored import Stored
from . import Prepared
from .torch_modules import finished, loaded, tensors


def prepare(stored: Stored, batch: int, mode: str, device: str) -> Prepared:
    """The module as it is, without a graph of gradients."""
    module, inputs = loaded(stored, device), tensors(stored, batch, device)

    def call() -> torch.Tensor:
        with torch.inference_mode():
            return module(*inputs)

    return Prepared(finished(call, device))
