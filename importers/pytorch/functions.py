"""Functions of torch that exporters lack or get wrong, spelled in those that they know, for as long as an export takes.

`SPELLINGS` is the table. A spelling gives the same values; it returns NotImplemented for a call that it has none for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from . import packed


class Spelled(TorchFunctionMode):
    """While this is entered, functions of `SPELLINGS` are called as they are spelled there."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the spelling of a function, or the function."""
        spelling = SPELLINGS.get(func)
        found = NotImplemented if spelling is None else spelling(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {})) if found is NotImplemented else found


def _each(sizes: int | tuple[int | None, ...] | list[int] | None, rank: int) -> list[Any]:
    return [*sizes] if isinstance(sizes, tuple | list) else [sizes] * rank


def _average(rank: int) -> Callable[..., Any]:
    """Average pooling with a divisor of its own: the sum of every window, which both exporters divide by its size."""

    def pool(
        input: torch.Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Any:
        if divisor_override is None:
            return NotImplemented
        kernel = _each(kernel_size, rank)
        steps = _each(kernel_size if stride in (None, (), []) else stride, rank)
        pads = [
            _pads(*each, ceil=ceil_mode)
            for each in zip(input.shape[-rank:], kernel, steps, _each(padding, rank), strict=True)
        ]
        padded = functional.pad(input, [size for pair in reversed(pads) for size in pair])
        return _POOLS[rank](padded, kernel, steps) * (math.prod(kernel) / divisor_override)

    return pool


_POOLS = {2: functional.avg_pool2d, 3: functional.avg_pool3d}


def _pads(length: int, kernel: int, step: int, padding: int, *, ceil: bool) -> tuple[int, int]:
    """Zeros before and after an axis, so that whole windows cover what torch's own cover."""
    room = length + 2 * padding - kernel
    windows = room // step + 1
    if ceil and room % step and windows * step < length + padding:  # one more, which starts inside
        windows += 1
    return padding, (windows - 1) * step + kernel - length - padding


def _adaptive_maximum(rank: int) -> Callable[..., Any]:
    """The maximum of windows of unequal sizes, axis by axis; windows may overlap."""

    def pool(input: torch.Tensor, output_size: Any, return_indices: bool = False) -> Any:
        if return_indices:
            return NotImplemented
        for axis, size in zip(range(-rank, 0), _each(output_size, rank), strict=True):
            if size is not None and size != input.shape[axis]:
                input = _windows_maximum(input, axis, size)
        return input

    return pool


def _windows_maximum(input: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    length = int(input.shape[axis])
    start, stop = np.arange(size) * length // size, -(-np.arange(1, size + 1) * length // size)
    places = start[:, None] + np.arange((stop - start).max())
    beyond = torch.tensor((places >= stop[:, None]).tolist(), device=input.device)
    index = torch.tensor(places.clip(max=length - 1).tolist(), device=input.device)
    return input.movedim(axis, -1)[..., index].masked_fill(beyond, float("-inf")).amax(-1).movedim(-1, axis)


def _cumulative_product(input: torch.Tensor, dim: int, *, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Running product: each step doubles how many entries every position has multiplied."""
    found, reach = input if dtype is None else input.to(dtype), 1
    count = int(input.shape[dim])
    while reach < count:
        first, others = found.narrow(dim, 0, reach), found.narrow(dim, reach, count - reach)
        found, reach = torch.cat([first, others * found.narrow(dim, 0, count - reach)], dim), 2 * reach
    return found


def _masked_scatter(input: torch.Tensor, mask: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """Entries of the source in order at the places of the mask: each place looks up how many came before it."""
    input, mask = torch.broadcast_tensors(input, mask)
    before = mask.reshape(-1).cumsum(0) - 1
    entries = source.reshape(-1)[before.clamp(min=0)].reshape(input.shape)
    return torch.where(mask, entries, input)


def _descriptor(name: str) -> Any:
    """What reads an attribute of tensors."""
    return getattr(torch.Tensor, name).__get__


SPELLINGS: dict[Any, Callable[..., Any]] = {
    functional.avg_pool2d: _average(2),
    functional.avg_pool3d: _average(3),
    functional.adaptive_max_pool1d: _adaptive_maximum(1),
    functional.adaptive_max_pool2d: _adaptive_maximum(2),
    functional.adaptive_max_pool3d: _adaptive_maximum(3),
    torch.cumprod: _cumulative_product,
    torch.Tensor.cumprod: _cumulative_product,
    _descriptor("data"): torch.Tensor.detach,  # data is a constant to exporters
    torch.masked_scatter: _masked_scatter,
    torch.Tensor.masked_scatter: _masked_scatter,
    **packed.SPELLINGS,
}
