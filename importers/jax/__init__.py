"""JAX functions and modules: traced to a jaxpr, lowered to the graph, proven against the function itself.

A model becomes a function of its weights and its inputs (`models`), is called as its user calls it (`calls`), traced
at the shapes of the inputs and lowered (`lowering`, `primitives`), and kept for the next call (`reading`).
"""

from __future__ import annotations

from typing import Any

from backtrace_jax.ir.imported import Imported

from .models import is_model

__all__ = ["is_model", "read"]


def read(model: Any, example: Any, batch_axis: Any = 0, *, proven: bool = True) -> Imported:
    """Import a JAX model.

    Args:
        model: A Flax module (`nnx.Module`, or `(linen module, variables)`), or any function of arrays.
        example: Inputs as the model's user passes them: an array, a tuple of positional arguments, or a mapping of
            keyword arguments; each may be a tree of arrays.
        batch_axis: Axis of the batch in the inputs, or one by input name; None where there is none.
        proven: Whether its numbers are compared with the model's at once; otherwise `Imported.prove` does it.

    Raises:
        InputError: When the model cannot be called with these inputs.
        UnsupportedError: Naming the primitive that cannot be lowered, and the line that made it.
        ImportMismatchError: When the import does not compute what the model computes.
    """
    from .reading import read_model

    return read_model(model, example, batch_axis, proven=proven)
