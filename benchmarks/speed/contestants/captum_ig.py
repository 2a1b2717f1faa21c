"""Captum's integrated gradients with as many steps as ours, for the predicted class, which it is given."""

from __future__ import annotations

from captum.attr import IntegratedGradients

from ..stored import Stored
from . import Prepared
from .torch_modules import finished, loaded, predicted, tensors

STEPS = 64


def prepare(stored: Stored, batch: int, mode: str, device: str) -> Prepared:
    """As many points of the path at a time as there are examples."""
    module, inputs = loaded(stored, device), tensors(stored, batch, device)
    target, method = predicted(module, inputs), IntegratedGradients(module)
    settings = {"target": target, "n_steps": STEPS, "internal_batch_size": batch}
    return Prepared(finished(lambda: method.attribute(inputs, **settings), device), notes={"steps": STEPS})
