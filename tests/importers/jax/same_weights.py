"""The weights of a torch module as Flax has them, and what is explained of a network on every road."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from flax import nnx
from torch import nn

from backtrace_jax.importers import read
from backtrace_jax.ir import Program
from backtrace_jax.passes import simplify, with_float_type

from .filled import nnx_module
from .twins_torch import HEADS, SIZE, WIDTH, Attention

Arrays = Mapping[str, np.ndarray]
Tree = dict[str, Any]


def as_array(tensor: Any) -> np.ndarray:
    return tensor.detach().numpy()


def as_kernel(module: Any) -> np.ndarray:
    order = {2: (1, 0), 4: (2, 3, 1, 0)}[module.weight.ndim]
    return as_array(module.weight).transpose(order)


def _map(module: Any) -> Arrays:
    return {"kernel": as_kernel(module), **({} if module.bias is None else {"bias": as_array(module.bias)})}


def _norm(module: Any) -> Arrays:
    return {"scale": as_array(module.weight), "bias": as_array(module.bias)}


def _heads(module: Attention) -> Tree:
    """Maps to and from heads have an axis for them."""
    found = {}
    for name in ("query", "key", "value"):
        part = getattr(module, name)
        found[name] = {
            "kernel": as_kernel(part).reshape(WIDTH, HEADS, SIZE),
            "bias": as_array(part.bias).reshape(HEADS, SIZE),
        }
    out = {"kernel": as_kernel(module.out).reshape(HEADS, SIZE, WIDTH), "bias": as_array(module.out.bias)}
    return {**found, "out": out}


def _lstm(module: Any) -> Tree:
    """A gate's two maps by its letter; Flax adds one bias, at the map of the state."""
    both = {"i": module.weight_ih_l0, "h": module.weight_hh_l0}
    parts: Any = {kind: np.split(as_array(weight).T, 4, 1) for kind, weight in both.items()}
    biases = np.split(as_array(module.bias_ih_l0 + module.bias_hh_l0), 4)
    cell = {f"i{gate}": {"kernel": kernel} for gate, kernel in zip("ifgo", parts["i"], strict=True)}
    for gate, kernel, bias in zip("ifgo", parts["h"], biases, strict=True):
        cell[f"h{gate}"] = {"kernel": kernel, "bias": bias}
    return {"cell": cell}


_PARAMETERS = {
    nn.Linear: _map,
    nn.Conv2d: _map,
    nn.LayerNorm: _norm,
    nn.BatchNorm2d: _norm,
    nn.RMSNorm: lambda module: {"scale": as_array(module.weight)},
    nn.Embedding: lambda module: {"embedding": as_array(module.weight)},
    nn.LSTM: _lstm,
    Attention: _heads,
}


def parameters(module: nn.Module) -> Tree:
    """The parameters of a module and its parts, as nested mappings; lists have numbers for keys."""
    own = _PARAMETERS.get(type(module))
    if own is not None:
        return dict(own(module))
    direct = {name: as_array(value) for name, value in module.named_parameters(recurse=False)}
    return direct | {name: parameters(part) for name, part in module.named_children()}


def statistics(module: nn.Module) -> Tree:
    """The running statistics of a module and its parts; parts without any are left out."""
    if isinstance(module, nn.BatchNorm2d):
        return {"mean": as_array(module.running_mean), "var": as_array(module.running_var)}
    found = {name: statistics(part) for name, part in module.named_children()}
    return {name: part for name, part in found.items() if part}


def _joined(tree: Tree) -> Tree:
    """Lists as linen names them: `layers_0`."""
    found: Tree = {}
    for name, part in tree.items():
        if isinstance(part, dict) and part and all(key.isdigit() for key in part):
            found |= {f"{name}_{key}": _joined(each) for key, each in part.items()}
        else:
            found[name] = _joined(part) if isinstance(part, dict) else part
    return found


def linen_twin(module: Any, source: nn.Module) -> Any:
    """A linen module with the weights of a torch module."""
    return module, {"params": _joined(parameters(source)), "batch_stats": _joined(statistics(source))}


def nnx_twin(build: Any, source: nn.Module) -> Any:
    """An nnx module with the weights of a torch module."""
    module, wanted = nnx_module(build), parameters(source)
    for path, variable in nnx.to_flat_state(nnx.state(module, nnx.Param)):
        part: Any = wanted
        for key in path:
            part = part[str(key)]
        assert part.shape == variable.get_value().shape
        variable.set_value(part)
        nnx.update(module, nnx.from_flat_state([(path, variable)]))
    return module


def exported(module: nn.Module, inputs: tuple[np.ndarray, ...]) -> onnx.ModelProto:
    """The ONNX file that torch's older exporter writes, which spells everything out."""
    file: Any = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, tuple(map(torch.tensor, inputs)), file, dynamo=False, opset_version=14)
    return onnx.load_from_string(file.getvalue())


def explained(model: Any, inputs: Sequence[np.ndarray]) -> tuple[Program, Arrays]:
    """What is explained of a model in float64, and its inputs by name."""
    imported = read(model, tuple(inputs) if len(inputs) > 1 else inputs[0], proven=False)
    names = [each.name for each in imported.inputs]
    arrays = dict(zip(names, inputs, strict=True))
    program = imported.lower({name: array.shape for name, array in arrays.items()})
    wide = {name: array.astype(np.float64) if array.dtype == np.float32 else array for name, array in arrays.items()}
    return simplify(with_float_type(program, np.dtype(np.float64))), wide
