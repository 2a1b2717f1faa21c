"""Importers: each turns one framework's model into the intermediate representation.

`read` is the one door: it tells what kind of model it was given and returns it as an `Imported`, which is all the
rest of the library knows about where a model came from. A framework is imported only when a model asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from backtrace_jax.ir import Program


@dataclass(frozen=True)
class InputType:
    """A declared input.

    Attributes:
        name: Its name in the model.
        dims: Size along each axis, None where it is dynamic; None altogether where the rank is not declared.
        dtype: Type of the entries.
        container: What holds the tensor, from the outside inwards: "sequence", "optional"; nothing as a rule.
        missing: Whether the model knows what to do with missing values, NaN.
    """

    name: str
    dims: tuple[int | None, ...] | None
    dtype: np.dtype
    container: tuple[str, ...] = ()
    missing: bool = False

    def __str__(self) -> str:
        """Format as `name: float32 [?, 3, 224, 224]`."""
        dims = "any shape" if self.dims is None else f"[{', '.join('?' if d is None else str(d) for d in self.dims)}]"
        return f"{self.name}: {' of '.join((*self.container, self.dtype.name))} {dims}"


@dataclass(frozen=True)
class Imported:
    """A model of any framework, ready to be lowered.

    Attributes:
        name: What to call it in messages.
        sha256: Hash of the model and its weights.
        inputs: Its declared inputs.
        lower: Lowers it at these full input shapes (by name) to a graph and its weights.
        unsupported: Lists (node, operator, reason) of what cannot be lowered, without needing shapes.
    """

    name: str
    sha256: str
    inputs: tuple[InputType, ...]
    lower: Callable[[Mapping[str, tuple[int, ...]]], Program]
    unsupported: Callable[[], list[tuple[str, str, str]]]


def read(model: Any) -> Imported:
    """Read a model: the path of an ONNX file, an onnx.ModelProto, or one that is read already.

    Raises:
        ModelError: When it cannot be read.
        SettingError: When it is nothing of the kind.
    """
    if isinstance(model, Imported):
        return model
    from . import onnx

    return onnx.read(model)
