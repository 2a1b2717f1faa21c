"""What rounding does: a module in double precision to measure it, and how coarse the floats of a file are."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import torch
from onnx import ModelProto, TensorProto
from torch.func import functional_call

_COARSE = {
    TensorProto.FLOAT16: float(np.finfo(np.float16).eps),
    TensorProto.BFLOAT16: float(ml_dtypes.finfo(ml_dtypes.bfloat16).eps),
}
"""Relative rounding of the floats that a module may compute in while its outputs are of a finer type."""


class Doubled(torch.nn.Module):
    """A module with its weights and buffers in double precision; it is not copied, and stays as it is."""

    def __init__(self, module: torch.nn.Module) -> None:
        """Wrap a module."""
        super().__init__()
        self.module = module
        state = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
        self._state = {name: each.detach().double() if each.is_floating_point() else each for name, each in state}
        self.training = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module answers."""
        return functional_call(self.module, self._state, args, kwargs)


def rounding_of(proto: ModelProto) -> float:
    """Relative rounding of the coarsest floats that the file computes in."""
    types: set[Any] = {tensor.data_type for tensor in proto.graph.initializer}
    types |= {each.i for node in proto.graph.node if node.op_type == "Cast" for each in node.attribute}
    return max((_COARSE[kind] for kind in types if kind in _COARSE), default=0.0)
