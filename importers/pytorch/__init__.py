"""PyTorch modules: exported to ONNX and read as any ONNX model is, each export proven against the module itself.

A module is called as its user calls it (`calls`), put aside so that nothing of it changes (`preserve`), given a form
that can be exported where its own cannot (`substitutions`, `experts`), exported by the first exporter whose file
computes what the module computes (`exporters`, `reading`), and named after its own submodules (`names`).

Gradient modes differentiate the function that the module computes. Where its autograd is told otherwise (`detach`,
`no_grad`, `item`, hooks, a `backward` of its own) the two gradients are compared, and refused when they differ
(`gradients`).
"""

from __future__ import annotations

import sys
from typing import Any

from backtrace_jax.ir.imported import Imported

__all__ = ["is_module", "parameters", "read"]


def is_module(model: Any) -> bool:
    """Whether this is a torch module; torch is not imported to find out, since who has a module has torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def parameters(module: Any) -> tuple[tuple[str, ...], int]:
    """Names of what `forward` takes by position, and how many of these it needs."""
    from .calls import needed, parameters

    return parameters(module), needed(module)


def read(module: Any, example: Any, batch_axis: Any = 0, *, proven: bool = True) -> Imported:
    """Import a torch module, in evaluation mode.

    A second call with the same module, unchanged, and inputs of the same shapes exports nothing.

    Args:
        module: A `torch.nn.Module`; it is left exactly as it is.
        example: Inputs as the module's user passes them: a tensor or array, a tuple of positional arguments, or a
            mapping of keyword arguments (None entries are left out). Everything in them that is no tensor or array is a
            constant of the import.
        batch_axis: Axis of the batch in the inputs, or one by input name; None where there is none.
        proven: Whether its numbers are compared with the module's; otherwise what its graph tells is looked at, and
            `Imported.prove` does the rest.

    Returns:
        The import; its inputs are named after the parameters of `forward`, its outputs after the fields returned.

    Raises:
        InputError: When the module cannot be called with these inputs.
        UnsupportedError: When its answer is random, or when no exporter can export it.
        ImportMismatchError: When no export computes what the module computes.
        MissingDependencyError: When the exporter's own dependency is missing.
    """
    from .reading import read_module

    return read_module(module, example, batch_axis, proven=proven)
