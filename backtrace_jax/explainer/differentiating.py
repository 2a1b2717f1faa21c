"""Whether a framework's own gradient is the derivative of what its model computes, which gradient modes take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from backtrace_jax.errors import UnsupportedError
from backtrace_jax.ir.imported import Imported

Arrays = Mapping[str, np.ndarray]
Derivative = Callable[[Arrays, str, np.ndarray], Arrays]
"""The derivative at these inputs of an output, weighed by a start of its shape, by the inputs."""

_DERIVATIVE = "; for the derivative explain its export: backtrace_jax.export(module, path, inputs)"
_SAME = 1e-3  # of the largest entry: single precision adds up in another order


def check_gradient(
    imported: Imported, places: Sequence[Arrays], answer: Arrays, output: str, derivative: Derivative
) -> None:
    """Compare the gradient of the framework's own model with the derivative, where the two may differ.

    Both are taken of a whole output, each entry of it with a weight of its own.

    Args:
        imported: The import.
        places: Inputs by name, batch first: where gradients are taken.
        answer: The model's own outputs at the first of them.
        output: The value explained; where it is none of the outputs, the first one is compared.
        derivative: Takes the derivative.

    Raises:
        UnsupportedError: When the two differ, with both values, or when no output is a float.
    """
    assert imported.source is not None
    floats = [name for name, array in answer.items() if array.dtype.kind not in "biu"]
    if not floats:
        raise UnsupportedError(
            f"{imported.name[:30]} has no float output, whose gradient could be compared with its own"
        )
    output = output if output in floats else floats[0]
    start = np.random.default_rng(0).normal(size=answer[output].shape).astype(np.float32)
    for feeds in places:
        found = imported.source.gradient(feeds, output, start)
        if found is None:
            return
        for name, ours in derivative(feeds, output, start).items():
            theirs = found.by_input[name]
            whole = ours if len(theirs) == len(ours) else ours.sum(0, keepdims=True)
            _compare(imported, found.doubt, name, whole, theirs)


def halfway(feeds: Arrays) -> dict[str, np.ndarray]:
    """Inputs on the way to zero, where modes that average gradients take them too."""
    return {name: array / 2 if array.dtype.kind == "f" else array for name, array in feeds.items()}


def _compare(imported: Imported, doubt: str, name: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    size = max(np.abs(theirs).max(initial=0), np.abs(ours).max(initial=0))
    apart = np.abs(ours - theirs)
    worst = np.unravel_index(int(apart.argmax()), apart.shape)
    if apart[worst] <= max(_SAME, 32 * imported.rounding) * size:
        return
    place = ", ".join(map(str, worst))
    raise UnsupportedError(
        f"gradient modes take the derivative of what {imported.name[:30]} computes; its autograd gives another "
        f"({doubt}): {ours[worst]:.4g} against {theirs[worst]:.4g} at {name}[{place}]. Other modes are not affected"
        f"{_DERIVATIVE if imported.proto is not None else ''}"
    )
