"""What a module returns, as tensors by name: a tensor, tuples, mappings and dataclasses of them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from backtrace_jax.errors import InputError, UnsupportedError

from ..proof import resized
from . import packed
from .calls import Call, as_numpy, as_tensor, device_of
from .hints import UNSEEN, hint
from .names import describe
from .trees import arrays_of, children

OUTPUT = "output"
"""Name of an answer that has none of its own."""

FIRST = ("logits", "last_hidden_state")
"""Fields that are a model's answer, whatever comes before them."""

_SAID = 100  # characters of the module's own error, where it is known what was meant
_SAME = 1e-5  # relative difference of two runs of one module that is rounding, on a device that adds in any order


def answers(result: Any) -> dict[str, torch.Tensor]:
    """Every tensor of a result by name: the name of its field, or `output` with the place in a tuple."""
    plain = isinstance(result, tuple | list) and not hasattr(result, "_fields")
    entries = [(f"{OUTPUT}.{i}", value) for i, value in children(result) or ()] if plain else children(result)
    found = [pair for key, value in entries or [(OUTPUT, result)] for pair in arrays_of(value, str(key))]
    named = {name: value for name, value in found if isinstance(value, torch.Tensor)}
    leading = next((name for name in FIRST if name in named), None)
    return named if leading is None else {leading: named[leading], **named}


def run(
    module: torch.nn.Module, call: Call, feeds: Mapping[str, np.ndarray], watched: AbstractContextManager[Any] = UNSEEN
) -> dict[str, np.ndarray]:
    """What the module answers, without gradients; while it runs, it is watched.

    Raises:
        InputError: When it cannot be called so.
    """
    device = device_of(module)
    args, kwargs = call.filled({name: as_tensor(call.own(name, feeds[name]), device) for name in call.names})
    try:
        with torch.no_grad(), watched:
            result = module(*args, **kwargs)
    except Exception as error:
        shapes = ", ".join(f"{name} {array.dtype} {list(array.shape)}" for name, array in feeds.items())
        advice, said = hint(module, call, feeds), describe(error)
        raise InputError(
            f"the module cannot be called with these inputs ({shapes}){advice}; it says: "
            f"{said[:_SAID] if advice else said}"
        ) from error
    return {name: as_numpy(value, call.floating) for name, value in answers(result).items()}


class Reading(TorchFunctionMode):
    """Notices when Python is given the values of tensors: what comes then depends on them, and a trace freezes it.

    Attributes:
        found: Whether that has happened.
        cut: Whether packed sequences were padded to the longest example of the batch, whatever their padding was.
    """

    _READS = frozenset(
        getattr(torch.Tensor, name)
        for name in ("__bool__", "__int__", "__float__", "__index__", "__contains__", "__array__",
                     "item", "tolist", "numpy", "is_nonzero", "equal", "allclose")
    ) | {torch.equal, torch.allclose, torch.is_nonzero}  # fmt: skip

    def __init__(self) -> None:
        """Nothing was noticed yet."""
        super().__init__()
        self.found = self.cut = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch as it would be without this."""
        self.found = self.found or (func in self._READS and not packed.checks_shapes())
        self.cut = self.cut or packed.cuts(func, args)
        return func(*args, **(kwargs or {}))


def batched_answers(module: torch.nn.Module, call: Call, feeds: Mapping[str, np.ndarray]) -> dict[str, int | None]:
    """The answers that have a batch, and the axis that it is; None where the inputs have none.

    Where some answers have it in front, the others (last states, say) are left out.

    Raises:
        UnsupportedError: When there are none, or when two runs give different ones.
    """
    torch.manual_seed(0)
    once = run(module, call, feeds)
    torch.manual_seed(1)
    again = run(module, call, feeds)
    changed = [name for name in once if not _agree(once[name], again.get(name))]
    if changed:
        raise UnsupportedError(
            f"output {changed[0]!r} of {type(module).__name__} differs between two runs on the same inputs: its "
            "forward draws random numbers or keeps a state even in evaluation mode; make it a function of its inputs"
        )
    if set(call.axes) == {None}:
        return dict.fromkeys(once)
    found = _growing(module, call, feeds, once)
    if not found:
        raise UnsupportedError(
            f"{type(module).__name__} returns no tensor with an axis for the batch; batch_axis= says where the inputs "
            "have it (None: no batch)"
        )
    leading: dict[str, int | None] = {name: axis for name, axis in found.items() if axis == 0}
    return leading or {**found}


def _growing(
    module: torch.nn.Module, call: Call, feeds: Mapping[str, np.ndarray], once: Mapping[str, np.ndarray]
) -> dict[str, int | None]:
    """The axis of each answer that grows with the batch; the first one where the module takes this batch only."""
    rows = len(next(iter(feeds.values())))
    try:
        larger = run(module, call, resized(feeds, rows + 1))
    except InputError:
        return {name: 0 for name, array in once.items() if array.shape[:1] == (rows,)}
    sizes = {
        name: list(zip(array.shape, larger[name].shape, strict=False))
        for name, array in once.items()
        if name in larger and array.ndim == larger[name].ndim
    }
    return {name: each.index((rows, rows + 1)) for name, each in sizes.items() if (rows, rows + 1) in each}


def observed(module: torch.nn.Module, call: Call, feeds: Mapping[str, np.ndarray]) -> Reading:
    """What shows while the module runs: whether it looks at values, as one that cannot be watched may."""
    reading = Reading()
    try:
        run(module, call, feeds, reading)
    except InputError:  # torch compiles what nothing watches only
        reading.found = True
    return reading


def _agree(once: np.ndarray, again: np.ndarray | None) -> bool:
    if again is None or once.shape != again.shape:
        return False
    if once.dtype.kind in "iub":
        return bool(np.array_equal(once, again))
    first, second = once.astype(np.float64), again.astype(np.float64)
    size = np.abs(first[np.isfinite(first)]).max(initial=0)
    return bool(np.allclose(first, second, rtol=0, atol=_SAME * size, equal_nan=True))
