"""The networks that zennit and this package explain: their torch modules, inputs and ONNX files, in double precision.

Weights hide nothing: every bias and every statistic is away from zero, batch norms also turn signs around, inputs
are signed. Seeds are chosen such that every window of a max pooling has a single winner: zennit gives ties to the
first maximum, this package shares them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

EXAMPLES = 2
CHANNELS, SIZE = 2, 12
CLASSES = 5
BOX = {"low": -3.0, "high": 3.0}  # where the inputs lie
BATCH_NORM_EPSILON = 1e-12  # zennit merges a batch norm but leaves a factor of 1/sqrt(1 + epsilon) behind


class Add(nn.Module):
    """A residual sum as a model's author writes it."""

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return left + right


Join = Callable[[], nn.Module]


def convolutional(join: Join) -> nn.Sequential:
    """Convolutions with stride, padding and groups, both kinds of pooling, dense layers."""
    return nn.Sequential(
        nn.Conv2d(CHANNELS, 6, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.Conv2d(6, 8, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.AvgPool2d(3, stride=2, padding=1),
        nn.Flatten(),
        nn.Linear(32, 16),
        nn.ReLU(),
        nn.Linear(16, CLASSES),
    )


def signed(join: Join) -> nn.Sequential:
    """Activations that let negative values through, so that inner layers see both signs; a transposed convolution."""
    return nn.Sequential(
        nn.Conv2d(CHANNELS, 6, 3, stride=2),
        nn.Tanh(),
        nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1),
        nn.LeakyReLU(0.25),
        nn.Conv2d(4, 4, 3, stride=3),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(36, 12),
        nn.Tanh(),
        nn.Linear(12, CLASSES),
    )


def residual(join: Join) -> nn.Sequential:
    """Two basic blocks, one of them with a projection, and global average pooling."""
    stem = (*_normed(CHANNELS, 6, 3), nn.ReLU())
    blocks = (Block(6, 6, 1, join), Block(6, 8, 2, join))
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))


class Block(nn.Module):
    """The basic block of a residual network; its parts are registered in the order in which they run."""

    def __init__(self, wide_in: int, wide_out: int, stride: int, join: Join) -> None:
        super().__init__()
        self.body = nn.Sequential(*_normed(wide_in, wide_out, 3, stride), nn.ReLU(), *_normed(wide_out, wide_out, 3))
        self.shortcut = nn.Sequential(*(_normed(wide_in, wide_out, 1, stride) if stride > 1 else ()))
        self.join = join()
        self.activation = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activation(self.join(self.body(x), self.shortcut(x)))


def _normed(wide_in: int, wide_out: int, kernel: int, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    """A convolution that keeps the size at stride 1, and its batch norm."""
    convolution = nn.Conv2d(wide_in, wide_out, kernel, stride=stride, padding=kernel // 2)
    return convolution, nn.BatchNorm2d(wide_out, eps=BATCH_NORM_EPSILON)


NETWORKS = {"convolutional": convolutional, "signed": signed, "residual": residual}
SEEDS = {"convolutional": 15, "signed": 1, "residual": 2}


def network(name: str, join: Join = Add) -> nn.Sequential:
    """A network with its weights, the same ones whatever joins its residual branches."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEEDS[name])
        module = NETWORKS[name](join).double().eval()
        for part in module.modules():
            _draw(part)
    return module


def _draw(part: nn.Module) -> None:
    """Weights that keep the size of activations, biases of both signs, statistics that are no identity."""
    if isinstance(part, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
        nn.init.normal_(part.bias, std=0.3)
    elif isinstance(part, nn.BatchNorm2d):
        nn.init.normal_(part.running_mean, std=0.2)
        nn.init.uniform_(part.running_var, 0.5, 1.5)
        nn.init.normal_(part.weight)
        nn.init.normal_(part.bias, std=0.3)


@dataclass(frozen=True)
class Case:
    """One network as a user would hand it over, what it answers, and the start relevance of the comparison."""

    model: onnx.ModelProto
    inputs: np.ndarray
    outputs: np.ndarray
    start: np.ndarray


def case(name: str) -> Case:
    """The ONNX file of a network, its inputs and outputs, and a start relevance of both signs on every output."""
    generator = np.random.default_rng(SEEDS[name])
    inputs = generator.uniform(*BOX.values(), size=(EXAMPLES, CHANNELS, SIZE, SIZE))
    start = generator.normal(size=(EXAMPLES, CLASSES))
    module = network(name)
    with torch.no_grad():
        if not has_single_winners(module, torch.tensor(inputs)):
            raise ValueError(f"{name}: two entries of a pooling window are equally large; choose another seed")
        outputs = module(torch.tensor(inputs)).numpy()
    return Case(_exported(module, torch.tensor(inputs)), inputs, outputs, start)


def has_single_winners(module: nn.Sequential, x: torch.Tensor) -> bool:
    """Whether one entry is the largest in every window of every max pooling."""
    for part in module:
        if isinstance(part, nn.MaxPool2d):
            padded = nn.functional.pad(x, (part.padding,) * 4, value=-torch.inf)
            windows = padded.unfold(2, part.kernel_size, part.stride).unfold(3, part.kernel_size, part.stride)
            first, second = windows.flatten(4).topk(2).values.unbind(-1)
            if (first == second).any():
                return False
        x = part(x)
    return True


def _exported(module: nn.Module, inputs: torch.Tensor) -> onnx.ModelProto:
    """The network as ONNX with a free batch axis."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own use of torch
        program = torch.onnx.export(
            module,
            (inputs,),
            dynamo=True,
            opset_version=20,
            input_names=["input"],
            output_names=["output"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            optimize=False,  # would merge the batch norms
            verbose=False,
        )
    return _without_notes(program.model_proto)


def _without_notes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without the exporter's notes about the sources it was made from."""
    graph = model.graph
    noted: tuple[Iterable[Any], ...] = (graph.node, graph.initializer, graph.input, graph.output, graph.value_info)
    for part in (model, graph, *(entry for entries in noted for entry in entries)):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    return model
