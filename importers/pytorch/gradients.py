"""The gradient of a module's own autograd, where it may differ from the derivative of what the module computes.

A module can tell autograd something else than it computes: `detach`, `.data`, `no_grad`, `item`, hooks, a `backward` of
its own. All but compiled code shows while it runs: an operation that is given a tensor with a gradient returns one
without, a hook is registered, or a node of the graph is not torch's own. Nothing of that is wrong by itself (masks and
constants have no gradient to lose), so what was noticed is a doubt only; comparing the gradients settles it.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.nn.modules import module as torch_modules
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from backtrace_jax.batch.layout import moved_first
from backtrace_jax.errors import UnsupportedError
from backtrace_jax.ir.imported import Gradient

from .answers import answers
from .calls import Call, as_tensor, device_of
from .names import describe

_CONSTANTS = ("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "randint_like",
              "new_zeros", "new_ones", "new_empty", "new_full")  # fmt: skip
"""Functions that take of a tensor its shape and type only."""

_NUMBERS = ("item", "tolist", "numpy", "__float__", "__array__", "__complex__")
"""Functions that give Python the values of a tensor."""

_LOOKUPS = (functional.embedding, torch.embedding, torch.Tensor.__getitem__, torch.index_select,
            torch.Tensor.index_select)  # fmt: skip
"""Functions that look up rows of a table by integers."""

_HOOKS = ("_backward_hooks", "_backward_pre_hooks")


class Watch(TorchFunctionMode):
    """Runs a forward pass, and notices what may part its gradient from its derivative.

    Attributes:
        doubts: What was noticed first, and in which module.
        looked_up: The integers of every look-up in a table, and the rows that it gave.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        """Nothing was noticed yet."""
        super().__init__()
        self.doubts: list[str] = []
        self.looked_up: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._names = {id(part): name for name, part in module.named_modules()}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch as it would be without this, but that rows of tables have a gradient."""
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        moving = any(_moves(tensor) for tensor in given)  # before the call, which may change that
        found = func(*args, **(kwargs or {}))
        if moving:
            self._note(_doubt(func, found))
        elif func in _LOOKUPS and isinstance(found, torch.Tensor) and found.is_floating_point():
            return self._rows(given, found)
        return found

    def _note(self, doubt: str) -> None:
        if doubt and not self.doubts:
            self.doubts.append(f"{doubt}{self._place()}")

    def _place(self) -> str:
        """The innermost module that is at work."""
        frame: Any = sys._getframe(2)
        while frame is not None:
            own = frame.f_locals.get("self")
            if isinstance(own, torch.nn.Module) and id(own) in self._names:
                return f" in {self._names[id(own)] or type(own).__name__!r}"
            frame = frame.f_back
        return ""

    def _rows(self, given: list[torch.Tensor], found: torch.Tensor) -> torch.Tensor:
        indices = next((each for each in given if each.dtype in (torch.int64, torch.int32)), None)
        if indices is None:
            return found
        with torch.enable_grad():
            rows = found.detach().requires_grad_()
            self.looked_up.append((indices, rows))
            return rows.clone()  # the module may write over it


def _moves(tensor: torch.Tensor) -> bool:
    """Whether a tensor follows from the inputs in a way that autograd records."""
    return tensor.requires_grad and (tensor.is_floating_point() or tensor.is_complex())


def _doubt(func: Any, found: Any) -> str:
    """What a function may have hidden from autograd that was given a tensor with a gradient; empty: nothing."""
    name = getattr(func, "__name__", str(func))
    if name in ("__get__", "__set__"):
        name = f"{getattr(func, '__self__', func).__name__}{name}".removesuffix("__get__")
    if name in ("register_hook", "grad_fn", "data__set__", *_NUMBERS):
        return name.removesuffix("__set__").strip("_")
    tensors = [leaf for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor)]
    floats = [each for each in tensors if each.is_floating_point() or each.is_complex()]
    if not torch.is_grad_enabled():
        return "no_grad" if floats or name == "__setitem__" else ""
    return name if floats and name not in _CONSTANTS and not any(each.requires_grad for each in floats) else ""


def gradient(
    module: torch.nn.Module,
    call: Call,
    feeds: Mapping[str, np.ndarray],
    output: str,
    axis: int | None,
    start: np.ndarray,
) -> Gradient | None:
    """What autograd takes back from a start at an output; None where nothing parts it from the derivative.

    Weights have no gradient here, whether or not they are frozen otherwise.

    Args:
        module: The module, in evaluation mode; its flags are changed.
        call: How it is called.
        feeds: Inputs by name, batch first.
        output: Name of the output.
        axis: The axis of the batch in it.
        start: What is taken back, shaped like the output with its batch in front.

    Raises:
        UnsupportedError: When the module cannot be differentiated by its own autograd.
    """
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    device = device_of(module)
    given = {name: as_tensor(call.own(name, feeds[name]), device) for name in call.names}
    leaves = {name: tensor.requires_grad_() for name, tensor in given.items() if tensor.is_floating_point()}
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of the module's own were heard when it answered
            result, watch = _watched(module, call, given)
            answer = answers(result)[output]
            answer = answer[None] if axis is None else answer.movedim(axis, 0)
            doubts = [*_standing(module), *_foreign(answer), *watch.doubts]
            if not doubts:
                return None
            if answer.requires_grad:
                answer.backward(as_tensor(start, device).to(answer.dtype))
    except Exception as error:  # the module's own, whatever it is
        raise UnsupportedError(
            f"{type(module).__name__[:30]} cannot be differentiated by its own autograd, which gradient modes are "
            f"compared with: {describe(error)}. Other modes are not affected"
        ) from error
    looked_up = [(indices, rows.grad) for indices, rows in watch.looked_up if rows.grad is not None]
    found = {name: _taken(tensor, leaves.get(name), looked_up) for name, tensor in given.items()}
    return Gradient(doubts[0], {name: moved_first(name, array, call.axis(name)) for name, array in found.items()})


def _watched(module: torch.nn.Module, call: Call, given: Mapping[str, torch.Tensor]) -> tuple[Any, Watch]:
    """What a module returns, and what was noticed; it may write over what it is given."""
    watch = Watch(module)

    def called() -> Any:
        args, kwargs = call.filled({name: tensor.clone() for name, tensor in given.items()})
        return module(*args, **kwargs)

    try:
        with watch:
            return called(), watch
    except Exception:  # torch compiles what nothing watches only; whatever else it was is raised again
        watch.doubts = ["code that torch compiles"]
        return called(), watch


def _taken(
    tensor: torch.Tensor, leaf: torch.Tensor | None, looked_up: list[tuple[torch.Tensor, torch.Tensor]]
) -> np.ndarray:
    """The gradient by an input; by integers, that of the rows which they look up, added up over features."""
    if leaf is not None:
        taken = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        return taken.detach().double().cpu().numpy()
    own = [grad for indices, grad in looked_up if indices.shape == tensor.shape and bool((indices == tensor).all())]
    total = np.zeros(tuple(tensor.shape))
    for grad in own:
        total += grad.double().reshape(*tensor.shape, -1).sum(-1).cpu().numpy()
    return total


def _standing(module: torch.nn.Module) -> Iterator[str]:
    """What of a module changes gradients, or cannot be watched, whatever it does."""
    if any(getattr(torch_modules, f"_global{name}") for name in _HOOKS):
        yield "a backward hook on all modules"
    for name, part in module.named_modules():
        if any(vars(part).get(hooks) for hooks in _HOOKS):
            yield f"a backward hook of {name or type(part).__name__!r}"
        if isinstance(part, torch.jit.ScriptModule):
            yield f"compiled code of {name or type(part).__name__!r}"


def _foreign(answer: torch.Tensor) -> Iterator[str]:
    """Functions with a derivative of their own in the graph behind an answer."""
    waiting, seen = [answer.grad_fn], set[Any]()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, torch.autograd.function.BackwardCFunction) or type(node).__name__ == "CppFunction":
            yield f"backward of {node.name().removesuffix('Backward')}"
        waiting += [each for each, _ in node.next_functions]
