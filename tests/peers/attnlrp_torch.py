"""AttnLRP and CP-LRP as one modified gradient, in torch autograd, for any transformer of the package transformers.

For the limit ε → 0 the papers' rules have the form R = x ⊙ g, where g is a gradient with a few changes (RULES 14):

    linear maps, sums, moves        the gradient
    a · b, AB of two values         half the gradient to either factor
    a / b                           b is a constant
    activation f(x)                 f(x)/x · x with a constant quotient; the derivative near 0
    layer norm, RMS norm            the deviation is a constant; mean, scale and shift are not
    softmax                         the gradient; a constant in CP-LRP, where the values take all of AV
    act(g) · u                      a product; in CP-LRP act(g) is a constant

Nothing here is derived from the library. The module's own forward pass is run, and the torch functions it calls are
replaced by others that compute the same and differentiate otherwise; a value bears relevance where autograd tracks it.
Derived from the publications: AttnLRP is Achtibat et al. 2024 (arXiv 2402.05602), CP-LRP Ali et al. 2022.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Mode = Literal["attnlrp", "cp-lrp"]
NEAR_ZERO = 1e-6


class Answer(NamedTuple):
    """What a network says, and the relevance of every input by name: of tokens, summed over their embedding."""

    output: np.ndarray
    relevance: dict[str, np.ndarray]


def halved(y: Tensor) -> Tensor:
    """The value with half its gradient."""
    return (y + y.detach()) / 2


def scaled(function: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """f(x) as f(x)/x times x."""
    y, slope = function(x, *args, **kwargs).detach(), 1.0
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(function(leaf, *args, **kwargs).sum(), leaf)
    near = x.abs() < NEAR_ZERO
    quotient = torch.where(near, slope, y / torch.where(near, 1.0, x.detach()))
    return x * quotient + (y - x.detach() * quotient)


def normed(
    x: Tensor, shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Layer normalisation whose deviation is a constant."""
    axes = tuple(range(-len(tuple(shape)), 0))
    deviation = (x.var(axes, keepdim=True, correction=0) + eps).sqrt().detach()
    y = (x - x.mean(axes, keepdim=True)) / deviation
    return y * (1.0 if weight is None else weight) + (0.0 if bias is None else bias)


ACTIVATIONS = (functional.gelu, functional.silu, functional.relu, torch.tanh, torch.sigmoid, torch.relu, Tensor.tanh)
PRODUCTS = (torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.mul, Tensor.__mul__, torch.mul)
QUOTIENTS = (torch.div, Tensor.div, Tensor.__truediv__)
DEVIATIONS = (torch.rsqrt, Tensor.rsqrt)
"""Only normalisations take the reciprocal of a root."""


class Modified(TorchFunctionMode):
    """Inside it, torch functions differentiate by the rules, and compute in float64 throughout.

    Attributes:
        indices: Index tensors whose rows bear relevance, by name.
        rows: What they looked up.
    """

    def __init__(self, mode: Mode, indices: dict[str, Tensor]) -> None:
        super().__init__()
        self.constant = mode == "cp-lrp"
        self.indices, self.rows = indices, {}
        self.activated: dict[int, Tensor] = {}  # kept, so that no other tensor takes an identity over

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args = [torch.float64 if arg is torch.float32 else arg for arg in args]
        kwargs = {key: torch.float64 if arg is torch.float32 else arg for key, arg in (kwargs or {}).items()}
        if func is functional.embedding:
            return self._looked_up(*args, **kwargs)
        if func is functional.layer_norm:
            return normed(*args, **kwargs)
        if func is functional.softmax or func is Tensor.softmax:
            return _detached(func(*args, **kwargs), self.constant)
        if func in ACTIVATIONS and args[0].requires_grad:
            return self._activation(func, *args, **kwargs)
        if func in DEVIATIONS:
            return func(*args, **kwargs).detach()
        if func in PRODUCTS and all(isinstance(arg, Tensor) and arg.requires_grad for arg in args):
            return self._product(func, *args)
        if func in QUOTIENTS and isinstance(args[1], Tensor):
            return func(args[0], args[1].detach())
        return (Tensor.double if func is Tensor.float else func)(*args, **kwargs)

    def _looked_up(self, index: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        rows = functional.embedding(index, *args, **kwargs)
        name = next((name for name, given in self.indices.items() if given.data_ptr() == index.data_ptr()), None)
        return rows if name is None else self.rows.setdefault(name, rows.detach().requires_grad_())

    def _activation(self, func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        y = scaled(func, x, *args, **kwargs)
        self.activated[id(y)] = y
        return y

    def _product(self, func: Any, a: Tensor, b: Tensor) -> Tensor:
        gates = [id(each) in self.activated for each in (a, b)]
        if self.constant and any(gates) and not all(gates):
            a, b = (_detached(each, gate) for each, gate in zip((a, b), gates, strict=True))
            return func(a, b)
        return halved(func(a, b))


def _detached(x: Tensor, constant: bool) -> Tensor:
    return x.detach() if constant else x


class _Rotary(nn.Module):
    """Rotary tables as they are in the exported file: computed in single precision."""

    def __init__(self, tables: nn.Module) -> None:
        super().__init__()
        self.tables = tables.float()

    def forward(self, x: Tensor, position_ids: Tensor, *args: Any) -> tuple[Tensor, ...]:
        with torch._C.DisableTorchFunction():
            return tuple(table.double() for table in self.tables(x.float(), position_ids, *args))


class _Gelu(nn.Module):
    """GELU by tanh as one function; some models write it out."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.gelu(x, approximate="tanh")


def in_double(module: nn.Module) -> nn.Module:
    """A module in float64, its weights without gradients, other constants as a float32 file has them; in place."""
    module = module.double().requires_grad_(False)
    for name, part in list(module.named_modules()):
        owner, _, last = name.rpartition(".")
        if type(part).__name__.endswith("RotaryEmbedding"):
            setattr(module.get_submodule(owner), last, _Rotary(part))
        if type(part).__name__ == "NewGELUActivation":
            setattr(module.get_submodule(owner), last, _Gelu())
        if isinstance(getattr(part, "scaling", None), float):
            part.scaling = float(np.float32(part.scaling))
    return module


def explain(module: nn.Module, inputs: dict[str, np.ndarray], start: np.ndarray, *, mode: Mode = "attnlrp") -> Answer:
    """Relevance of every input, given the relevance of the output; `module` comes from `in_double`."""
    tensors = {name: torch.tensor(value) for name, value in inputs.items()}
    pixels = {name: value.double().requires_grad_() for name, value in tensors.items() if value.is_floating_point()}
    with Modified(mode, {name: value for name, value in tensors.items() if name not in pixels}) as modified:
        output = module(**{**tensors, **pixels})
    leaves = {**modified.rows, **pixels}
    y = output.detach()
    rate = torch.tensor(start) / torch.where(y == 0, 1.0, y)
    gradients = torch.autograd.grad(output, list(leaves.values()), rate)
    shares = {name: leaf.detach() * g for (name, leaf), g in zip(leaves.items(), gradients, strict=True)}
    return Answer(
        y.numpy(),
        {name: share.sum(-1).numpy() if name in modified.rows else share.numpy() for name, share in shares.items()},
    )
