"""A model as its importer hands it over: declared inputs, and how it is lowered at the shapes of a call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .graph import Program

if TYPE_CHECKING:
    from onnx import ModelProto


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


class Gradient(NamedTuple):
    """What a framework's own differentiation takes back to the inputs of its model.

    Attributes:
        doubt: Why it may differ from the derivative of what the model computes.
        by_input: The gradient by input name, batch first; one row for an input that all examples share. For
            integers it is the gradient of the table rows that they look up, added up over features.
    """

    doubt: str
    by_input: Mapping[str, np.ndarray]


class Source(ABC):
    """The framework's own model behind an import: its owner may change it, or it may go another way, at every call."""

    @abstractmethod
    def read(self, inputs: Any, *, anew: bool = False) -> Imported:
        """The import of the model as it is now, for inputs like these; `anew`, one that is made for these inputs."""

    @abstractmethod
    def answer(self, feeds: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """What the model itself answers: outputs by name from inputs by name."""

    def rounding(self, feeds: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """How far rounding moves each unit of the model's own outputs [1, ...], by name; none where that is unknown."""
        return {}

    def gradient(self, feeds: Mapping[str, np.ndarray], output: str, start: np.ndarray) -> Gradient | None:
        """The framework's own gradient of an output, weighed by a start of its shape, by the inputs.

        None where it cannot differ from the derivative of what the model computes.
        """
        return None


@dataclass(frozen=True)
class Imported:
    """A model of any framework, ready to be lowered.

    Attributes:
        name: What to call it in messages.
        sha256: Hash of the model and its weights.
        inputs: Its declared inputs.
        lower: Lowers it at these full input shapes (by name) to a graph and its weights; `examples=` says how many
            examples they hold, 1 by default.
        unsupported: Lists (node, operator, reason) of what cannot be lowered, without needing shapes.
        origin: Framework, exporter and opset of an import, with versions; goes into the fingerprint.
        feed: Turns what users of the framework pass (tensors, encodings, text) into arrays by input name; None where
            they pass arrays.
        proto: The exported model, where there is one.
        prove: Compares an import that was not proven yet with its source, on inputs by name, batch first, and on
            others like them; takes these and the forward pass of the import (`importers.proof.Forward`), which it
            compiles where it is None.
        source: The framework's own model; None where the import is all that there is, and after `let_go`.
        rounding: Relative rounding of the coarsest floats that the model computes in, where they are its own choice.
        alone: Whether the import is proven for the very inputs it was made for, and for no others.
        structure: Puts values by input name into the tree that its user passes inputs in; None where they have none.
        notes: What its owner should know of how it was read; each explanation says it among its warnings.
    """

    name: str
    sha256: str
    inputs: tuple[InputType, ...]
    lower: Callable[..., Program]
    unsupported: Callable[[], list[tuple[str, str, str]]]
    origin: Mapping[str, str] = field(default_factory=dict)
    feed: Callable[[Any], Any] | None = None
    proto: ModelProto | None = None
    prove: Callable[[Mapping[str, np.ndarray], Any], None] | None = None
    source: Source | None = None
    rounding: float = 0.0
    alone: bool = False
    structure: Callable[[Mapping[str, Any]], Any] | None = None
    notes: tuple[str, ...] = ()

    def let_go(self) -> Imported:
        """The same import without its source, which is not kept alive by it then."""
        return replace(self, prove=None, source=None)

    def arrays(self, inputs: Any) -> Any:
        """Inputs as arrays, from whatever users of the framework pass."""
        return inputs if self.feed is None else self.feed(inputs)
