"""What a user may have meant by inputs that a module does not take."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .calls import Call, as_tensor, device_of

UNSEEN = nullcontext()

_TYPES = (
    ("", lambda array: array),
    (".astype(np.float32)", lambda array: array.astype(np.float32) if array.dtype.kind in "iub" else None),
)
_LAYOUTS = (
    ("", lambda array: array),
    ("[None]", lambda array: array[None]),
    ("[None, None]", lambda array: array[None, None]),
    (".transpose(0, 3, 1, 2)", lambda array: array.transpose(0, 3, 1, 2) if array.ndim == 4 else None),
    (".transpose(2, 0, 1)[None]", lambda array: array.transpose(2, 0, 1)[None] if array.ndim == 3 else None),
)
"""What is forgotten most: floats, the batch axis, the axis of channels, channels before height and width."""


def hint(module: torch.nn.Module, call: Call, feeds: Mapping[str, np.ndarray]) -> str:
    """Why inputs are not taken, or in which form they would be; empty where nothing is known."""
    return _too_long(module, feeds) or _beyond(module, call, feeds) or _other_form(module, call, feeds)


def _too_long(module: torch.nn.Module, feeds: Mapping[str, np.ndarray]) -> str:
    """A text that is longer than a table of positions."""
    texts = [array for array in feeds.values() if array.dtype.kind in "iu" and array.ndim == 2]
    longest = max((array.shape[1] for array in texts), default=0)
    for name, part in module.named_modules():
        if isinstance(part, torch.nn.Embedding) and ("position" in name or name.endswith("wpe")):
            positions = int(part.num_embeddings)
            if longest > positions:
                return f"; {longest} tokens are more than its {positions} positions ({name!r}): truncate the text"
    return ""


class _Lookups(TorchFunctionMode):
    """Notices a look-up of a row that its table does not have."""

    found: tuple[int, torch.Tensor] | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch as it would be without this."""
        if func is functional.embedding and self.found is None:
            indices, table = args[:2]
            wrong = indices[(indices < 0) | (indices >= len(table))]
            self.found = (int(wrong[0]), table) if len(wrong) else None
        return func(*args, **(kwargs or {}))


def _beyond(module: torch.nn.Module, call: Call, feeds: Mapping[str, np.ndarray]) -> str:
    """An id beyond its table."""
    lookups = _Lookups()
    if _takes(module, call, feeds, lookups) or lookups.found is None:
        return ""
    index, table = lookups.found
    name = next((name for name, each in module.named_parameters() if each is table), "a table")
    return f"; {index} is no row of {name!r}, which has {len(table)} (0 to {len(table) - 1})"


def _other_form(module: torch.nn.Module, call: Call, feeds: Mapping[str, np.ndarray]) -> str:
    """Another form of the only input that the module would take."""
    for (layout, moved), (kind, converted) in itertools.product(_LAYOUTS, _TYPES) if len(feeds) == 1 else ():
        ((name, array),) = feeds.items()
        other = moved(array)
        other = None if other is None else converted(other)
        if other is not None and other is not array and _takes(module, call, {name: other}):
            return f"; it takes {name}{layout}{kind}{', scaled as it was trained' if kind else ''}"
    return ""


def _takes(
    module: torch.nn.Module, call: Call, feeds: Mapping[str, np.ndarray], watched: AbstractContextManager[Any] = UNSEEN
) -> bool:
    try:
        own = {name: as_tensor(call.own(name, feeds[name]), device_of(module)) for name in call.names}
        args, kwargs = call.filled(own)
        with torch.no_grad(), watched:
            module(*args, **kwargs)
    except Exception:  # the module's own, whatever it is: the answer is no
        return False
    return True
