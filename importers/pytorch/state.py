"""Hash of a module: weights and buffers, attributes, hooks and code (`importers.state`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from .. import state

_IGNORED = frozenset({"training", "_modules"})  # evaluated in any case; taken in by themselves


def state_of(module: torch.nn.Module) -> str:
    """Hash of a module; equal as long as nothing of it is changed."""
    found = _Hash()
    for name, part in module.named_modules(remove_duplicate=False):
        found.add((name, type(part), {key: value for key, value in vars(part).items() if key not in _IGNORED}))
    return found.digest.hexdigest()


class _Hash(state.Hash):
    """Nothing of a module, whose parts are taken in by themselves, and of torch's own objects."""

    plain = (*state.Hash.plain, torch.dtype, torch.device, torch.Size)
    arrays = (np.ndarray, torch.Tensor)
    foreign = state.Hash.foreign | {"torch", "transformers"}

    def numbers(self, value: Any) -> bytes | memoryview:
        if not isinstance(value, torch.Tensor):
            return super().numbers(value)
        if value.device.type == "meta" or value.layout != torch.strided:
            return b""
        return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data

    def attributes(self, value: Any) -> Iterator[Any]:
        if not isinstance(value, torch.nn.Module) and not type(value).__module__.startswith("torch."):
            yield from super().attributes(value)

    def is_layer(self, kind: type) -> bool:
        return issubclass(kind, torch.nn.Module) and kind is not torch.nn.Module
