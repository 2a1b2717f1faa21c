"""Leaves a module exactly as it was found, whatever is done with it in between."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch

_CONTAINERS = (dict, OrderedDict, list, set)


@contextmanager
def preserved(module: torch.nn.Module) -> Iterator[None]:
    """On leaving, everything is as it was: attributes, submodules, hooks, flags, buffers, settings, generators."""
    with ExitStack() as stack:
        stack.enter_context(_generators())
        for config in configurations(module):
            stack.enter_context(_attributes(config))
        for tensor in [*module.parameters(), *module.buffers()]:
            stack.enter_context(_flags(tensor))
        for buffer in module.buffers():
            stack.enter_context(_contents(buffer))
        for part in list(module.modules()):
            stack.enter_context(_training(part))
            stack.enter_context(_attributes(part))
        yield


def configurations(module: torch.nn.Module) -> list[Any]:
    """Configuration objects of the module's parts, and those inside them, each once."""
    waiting = [vars(part).get("config") for part in module.modules()]
    found: dict[int, Any] = {}
    while waiting:
        config = waiting.pop()
        if id(config) not in found and _is_configuration(config):
            found[id(config)] = config
            waiting += vars(config).values()
    return list(found.values())


def _is_configuration(value: Any) -> bool:
    return hasattr(value, "__dict__") and hasattr(value, "to_dict") and not isinstance(value, type)


@contextmanager
def _attributes(thing: Any) -> Iterator[None]:
    """Class, attributes, and the contents of containers among them, restored in place, as hooks' handles expect."""
    kind, attributes = type(thing), dict(vars(thing))
    containers = [(each, each.copy()) for each in attributes.values() if type(each) in _CONTAINERS]
    try:
        yield
    finally:
        if type(thing) is not kind:
            thing.__class__ = kind
        vars(thing).clear()
        vars(thing).update(attributes)
        for container, contents in containers:
            container.clear()
            container.extend(contents) if isinstance(container, list) else container.update(contents)


@contextmanager
def _training(part: torch.nn.Module) -> Iterator[None]:
    """The flag by itself: a compiled module does not keep it among its attributes."""
    before = part.training
    try:
        yield
    finally:
        if part.training is not before:
            part.training = before


@contextmanager
def _flags(tensor: torch.Tensor) -> Iterator[None]:
    before, gradient = tensor.requires_grad, tensor.grad if tensor.is_leaf else None
    try:
        yield
    finally:
        if tensor.is_leaf and tensor.requires_grad is not before:
            tensor.requires_grad_(before)
        if tensor.is_leaf and tensor.grad is not gradient:
            tensor.grad = gradient


@contextmanager
def _contents(buffer: torch.Tensor) -> Iterator[None]:
    version, before = buffer._version, buffer.detach().clone()
    try:
        yield
    finally:
        if buffer._version != version:
            with torch.no_grad():
                buffer.copy_(before)


@contextmanager
def _generators() -> Iterator[None]:
    """States of every generator of random numbers that a forward may draw from, and of torch's fused attention."""
    ours, theirs = random.getstate(), np.random.get_state()  # noqa: NPY002
    torches = torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    fused = torch.backends.mha.get_fastpath_enabled()
    try:
        yield
    finally:
        random.setstate(ours)
        np.random.set_state(theirs)  # noqa: NPY002
        torch.set_rng_state(torches)
        if devices is not None:
            torch.cuda.set_rng_state_all(devices)
        torch.backends.mha.set_fastpath_enabled(fused)
