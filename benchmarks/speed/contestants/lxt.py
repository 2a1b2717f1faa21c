"""AttnLRP by lxt's efficient way: it patches the classes of the model, and relevance is input times gradient."""

from __future__ import annotations

from importlib import import_module

import torch
from torch import Tensor, nn

from ..stored import Stored
from . import Prepared
from .torch_modules import finished, loaded, tensors, top
from .torchvision_import import DECLARED  # noqa: F401 - lxt imports torchvision

# isort: split
from lxt.efficient import monkey_patch
from torchvision import models

PATCHED = {
    "bert": "transformers.models.bert.modeling_bert",
    "llama": "transformers.models.llama.modeling_llama",
    "vit_b16": "torchvision.models.vision_transformer",
}
CLASSES = {"vit_b16": models.vit_b_16}
"""It knows vision transformers by torchvision's own classes."""


def prepare(stored: Stored, batch: int, mode: str, device: str) -> Prepared:
    """Patch first, then build, as its documentation asks."""
    family = stored.workload.family
    monkey_patch(import_module(PATCHED[family]))
    module = loaded(stored, device, CLASSES.get(family))
    inputs = tensors(stored, batch, device)
    explain = _of_inputs if inputs[0].is_floating_point() else _of_embeddings
    return Prepared(finished(lambda: explain(module, inputs), device))


def _of_inputs(module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    """Relevance of the pixels."""
    (image,) = inputs
    image.requires_grad_()
    (gradient,) = torch.autograd.grad(top(module(image)), image)
    return image.detach() * gradient


def _of_embeddings(module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    """Relevance of each token, from its embedding, which the model is given in its place."""
    model = module.model
    tokens, *others = inputs
    embedded = model.get_input_embeddings()(tokens).requires_grad_()
    named = dict(zip(("attention_mask", "token_type_ids"), others, strict=False))
    (gradient,) = torch.autograd.grad(top(model(inputs_embeds=embedded, **named).logits), embedded)
    return (embedded.detach() * gradient).sum(-1)
