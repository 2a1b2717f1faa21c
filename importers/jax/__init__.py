"""JAX functions and modules: traced to a jaxpr, lowered to the graph, proven against the function itself.

A model becomes a function of its weights and its inputs (`models`), is called as its user calls it (`calls`), traced
at the shapes of the inputs and lowered (`lowering`, `primitives`), and kept for the next call (`reading`).
"""

from __future__ import annotations

from typing import Any

from backtrace_jax.ir.imported import Imported

from .models import is_model

__all__ = ["exported", "is_model", "parameters", "read"]


def exported(model: Any, inputs: Any) -> Imported:
    """The ONNX file of a model, as `exporting.exported` has it."""
    from . import exporting

    return exporting.exported(model, inputs)


def parameters(model: Any) -> tuple[tuple[str, ...], int]:
    """Names of the parameters of a model, and how many of these have to be passed."""
    from .arguments import Parameters
    from .models import pure

    found = Parameters.of(pure(model).signature)
    return found.placed or tuple(sorted(found.named)), found.needed


def read(model: Any, example: Any, batch_axis: Any = 0, *, proven: bool = True) -> Imported:
    """Import a JAX model.

    Args:
        model: A module of Flax (`nnx.Module`, `(linen module, variables)`, a bound one, `partial(module.apply, ...)`, a
            train state), of Equinox (written for one example: a batch takes `jax.vmap` of it; `(module, state)` where
            it has state), a function that Haiku transformed (`(transformed, params)`), or whatever else is called with
            arrays. Modules are evaluated in copies; none is changed.
        example: Inputs as the model's user passes them: a tuple holds positional arguments, a mapping whose keys are
            all parameters keyword arguments, and any other tree is the first argument. What is no array in it is a
            constant of the import.
        batch_axis: Axis of the batch in the inputs, or one by input name; None where there is none.
        proven: Whether its numbers are compared with the model's at once; otherwise `Imported.prove` does it.

    Raises:
        InputError: When the model cannot be called with these inputs.
        UnsupportedError: Naming the primitive that cannot be lowered, and the line that made it.
        ImportMismatchError: When the import does not compute what the model computes.
    """
    from .reading import read_model

    return read_model(model, example, batch_axis, proven=proven)
