"""Captum's LRP with its default rules, for the predicted class, which it is given."""

from __future__ import annotations

from captum.attr import LRP

from ..stored import Stored
from . import Prepared
from .torch_modules import finished, loaded, predicted, tensors


def prepare(stored: Stored, batch: int, mode: str, device: str) -> Prepared:
    """It refuses networks with layers it has no rule for when it is first called."""
    module, inputs = loaded(stored, device), tensors(stored, batch, device)
    target = predicted(module, inputs)
    method = LRP(module)
    return Prepared(finished(lambda: method.attribute(inputs, target=target), device))
