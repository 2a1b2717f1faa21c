"""What the contestants on torch share: the module with the stored weights, and its inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..networks import FAMILIES
from ..stored import Stored

DEVICES = {"cpu": "cpu", "gpu": "cuda"}


class Uninitialised(TorchFunctionMode):
    """Inside, modules are built without drawing weights, which takes a minute for a billion of them."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, arguments: Any = (), settings: Any = None
    ) -> Any:
        if getattr(function, "__module__", "") == "torch.nn.init":
            return arguments[0] if arguments else settings["tensor"]
        return function(*arguments, **(settings or {}))


def loaded(stored: Stored, device: str, build: Callable[[], nn.Module] | None = None) -> nn.Module:
    """The network in the state that is stored, by default of our own classes; no parameter takes a gradient."""
    workload = stored.workload
    with Uninitialised():
        module = build() if build else FAMILIES[workload.family](**workload.options)
    with stored.weights() as weights, torch.no_grad():
        for name, value in module.state_dict().items():
            value.copy_(torch.from_numpy(weights[name]))
    torch.backends.cudnn.allow_tf32 = False  # convolutions as exact as everything else here
    return module.eval().requires_grad_(False).to(DEVICES[device])


def tensors(stored: Stored, batch: int, device: str) -> tuple[Tensor, ...]:
    """A batch of inputs in the order of the module's arguments."""
    return tuple(torch.from_numpy(array).to(DEVICES[device]) for array in stored.inputs(batch).values())


def finished(call: Callable[[], Any], device: str) -> Callable[[], Any]:
    """A call that waits for its result."""
    if device == "cpu":
        return call

    def waiting() -> Any:
        result = call()
        torch.cuda.synchronize()
        return result

    return waiting


def top(logits: Tensor) -> Tensor:
    """Each example's largest logit, of the last position where there are several, summed over the batch."""
    return logits.flatten(1, -2)[:, -1].amax(-1).sum() if logits.ndim == 3 else logits.amax(-1).sum()


def predicted(module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    """The class predicted for each example."""
    with torch.no_grad():
        return module(*inputs).argmax(-1)
