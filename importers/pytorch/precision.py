"""A module in double precision, to measure what rounding does to it in its own."""

from __future__ import annotations

from typing import Any

import torch
from torch.func import functional_call


class Doubled(torch.nn.Module):
    """A module with its weights and buffers in double precision; it is not copied, and stays as it is."""

    def __init__(self, module: torch.nn.Module) -> None:
        """Wrap a module."""
        super().__init__()
        self.module = module
        state = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
        self._state = {name: each.detach().double() if each.is_floating_point() else each for name, each in state}
        self.training = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module answers."""
        return functional_call(self.module, self._state, args, kwargs)
