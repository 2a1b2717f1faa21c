"""Packed sequences without the sorting: an example keeps its place, and its length goes with it.

Torch sorts the examples of a batch by length, because its kernels want them so, and puts the answers back. ONNX takes
lengths in any order, so the sorting would only mix the examples of a batch.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import _VF
from torch.nn.modules import rnn as cells
from torch.nn.utils import rnn

_SORTING = frozenset(
    each.__code__ for each in (rnn.pack_padded_sequence, rnn.pad_packed_sequence, cells._apply_permutation)
)
"""The code in which examples are sorted and put back."""

_LENGTHS = "_lengths"
"""Where the sizes of a packed batch keep the lengths that they were made of."""

_NEAR = 12  # frames between a function of torch that is called and whoever asks who called it, type checks among them


def callers() -> Iterator[types.CodeType]:
    """The code that led here, from the inside out, as far as it is near."""
    frame = sys._getframe(1)
    for _ in range(_NEAR):
        if frame is None:
            return
        yield frame.f_code
        frame = frame.f_back


def checks_shapes() -> bool:
    """Whether torch's own recurrences ask, which read how long a batch is to check a shape."""
    return any(code.co_filename == cells.__file__ for code in callers())


def cuts(function: Any, arguments: tuple[Any, ...]) -> bool:
    """Whether a call of a function pads packed sequences to the longest one that there is."""
    return function == _VF._pad_packed_sequence and arguments[-1] == len(arguments[1])


def _while_sorting(spelling: Callable[..., Any]) -> Callable[..., Any]:
    """A spelling for calls out of torch's own sorting only."""

    def spelled(*args: Any, **kwargs: Any) -> Any:
        return spelling(*args, **kwargs) if any(code in _SORTING for code in callers()) else NotImplemented

    return spelled


def _unsorted(lengths: torch.Tensor, **_: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return lengths, torch.arange(len(lengths), device=lengths.device)


def _in_place(values: torch.Tensor, *_: Any) -> torch.Tensor:
    return values


def _entry(values: Any, index: Any) -> Any:
    """Of the sizes of a packed batch the first one, which is how many lengths there are.

    Asked of the sizes themselves it would keep the exporter from dropping the packing where states alone are read.
    """
    given = getattr(values, _LENGTHS, None)
    if given is not None and index == 0:
        return given.shape[0]
    return _in_order(values, index)


def _pack(input: torch.Tensor, lengths: torch.Tensor, batch_first: bool) -> Any:
    """Pack by lengths that only look sorted: a trace records which tensor they are, and not what is in it."""
    given, lengths = lengths, lengths.clone()
    tracer: Any = torch._C
    tracing = tracer._get_tracing_state()
    tracer._set_tracing_state(None)
    try:
        lengths.copy_(lengths.sort(descending=True).values)
    finally:
        tracer._set_tracing_state(tracing)
    data, sizes = _VF._pack_padded_sequence(input, lengths, batch_first)
    setattr(sizes, _LENGTHS, given)
    return data, sizes


_in_order = _while_sorting(_in_place)

SPELLINGS: dict[Any, Callable[..., Any]] = {
    torch.sort: _while_sorting(_unsorted),
    torch.Tensor.index_select: _in_order,
    torch.Tensor.__getitem__: _entry,
    _VF._pack_padded_sequence: _pack,
}
