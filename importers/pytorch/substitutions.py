"""Forms of layers that can be exported, in place of those that cannot, for as long as the export takes.

`SUBSTITUTIONS` is the table: which parts of a module, and what is done to them. Whatever it does is undone by
`preserve.preserved`, inside which both contexts here work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.nn import functional
from torch.nn.utils import parametrize

from . import experts
from .functions import Spelled
from .preserve import configurations, preserved

Applies = Callable[[torch.nn.Module], bool]
Substitute = Callable[[Any], None]


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """The module as a function of its inputs: evaluation mode, no cache, answers by name, attention in one form.

    Torch's own encoder layers have a fused path for evaluation, which fills padded positions with zeros; what they
    compute in training is what is exported, so it is what the export is compared with.
    """
    with preserved(module):
        for part in module.modules():
            part.training = False
        torch.backends.mha.set_fastpath_enabled(False)
        _configure(module, use_cache=False, return_dict=True)
        yield


def _trains(part: Any) -> bool:
    """Whether a layer does something else in training."""
    if isinstance(part, torch.nn.modules.dropout._DropoutNd):
        return part.p > 0
    if isinstance(part, torch.nn.modules.batchnorm._NormBase):
        return part.running_mean is not None
    dropout = getattr(part, "dropout", 0)
    return isinstance(part, torch.nn.RReLU) or (isinstance(dropout, float) and dropout > 0)


def training_note(module: torch.nn.Module) -> str:
    """That a module is explained in another mode than it is in, where that is a difference; else empty."""
    other = (name for name, part in module.named_modules() if part.training and _trains(part))
    name = next(other, None)
    if name is None:
        return ""
    return (
        f"{type(module).__name__[:30]} is in train mode ({name or 'itself'!r}) and is explained as in eval mode: no "
        "dropout, batch norm by its running statistics; module.eval() agrees"
    )


@contextmanager
def exportable(module: torch.nn.Module) -> Iterator[None]:
    """The same function in a form that exporters can follow."""
    with evaluating(module):
        _configure(module, _attn_implementation="eager")
        for part in list(module.modules()):
            for applies, substitute in SUBSTITUTIONS:
                if applies(part):
                    substitute(part)
        for part in module.modules():  # those that came with a substitution
            part.training = False
        with Spelled():
            yield


def _configure(module: torch.nn.Module, **settings: Any) -> None:
    """Set what the configurations of the module's parts know."""
    for config in configurations(module):
        for name, value in settings.items():
            if getattr(config, name, value) != value:
                setattr(config, name, value)


def _bag(part: torch.nn.EmbeddingBag) -> None:
    """Embedding and reduction over a bag instead of a loop over bags."""
    original = part.forward

    def forward(
        input: torch.Tensor, offsets: torch.Tensor | None = None, per_sample_weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        if input.dim() != 2 or offsets is not None:
            return original(input, offsets, per_sample_weights)
        entries = functional.embedding(input, part.weight)
        kept = torch.ones_like(input) if part.padding_idx is None else (input != part.padding_idx)
        return _REDUCTIONS[part.mode](entries, kept.to(entries.dtype).unsqueeze(-1), per_sample_weights)

    part.forward = forward


def _bag_sum(entries: torch.Tensor, kept: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    return (entries * (kept if weights is None else kept * weights.unsqueeze(-1))).sum(1)


def _bag_mean(entries: torch.Tensor, kept: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    return (entries * kept).sum(1) / kept.sum(1).clamp(min=1)


def _bag_max(entries: torch.Tensor, kept: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """The largest of what is kept; nothing kept gives zero, as torch has it."""
    largest = entries.masked_fill(kept == 0, float("-inf")).amax(1)
    return torch.where(kept.sum(1) > 0, largest, torch.zeros_like(largest))


_REDUCTIONS = {"sum": _bag_sum, "mean": _bag_mean, "max": _bag_max}


def _is_plain_bag(part: torch.nn.Module) -> bool:
    return isinstance(part, torch.nn.EmbeddingBag) and part.max_norm is None  # with a norm, looking up changes weights


def _parametrized(part: Any) -> None:
    """The layer as it was before its weights were parametrized, with the weights that they are made to be."""
    values = {name: getattr(part, name).detach() for name in part.parametrizations}
    part.__class__ = parametrize.type_before_parametrizations(part)
    del part._modules["parametrizations"]
    for name, value in values.items():
        part.register_buffer(name, value)


def _is_named(name: str, part: torch.nn.Module) -> bool:
    return type(part).__name__ == name


SUBSTITUTIONS: tuple[tuple[Applies, Substitute], ...] = (
    (parametrize.is_parametrized, _parametrized),
    (_is_plain_bag, _bag),
    (experts.is_stacked, experts.substitute_stacked),
    (partial(_is_named, "JetMoeTopKGating"), experts.substitute_gating),
    (partial(_is_named, "JetMoeMoE"), experts.substitute_mixture),
    (partial(_is_named, "JetMoeMoA"), experts.substitute_attention),
)
