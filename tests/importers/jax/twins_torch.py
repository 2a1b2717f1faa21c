"""Networks of true block structure and tiny sizes in plain torch, whose weights their twins in other libraries take."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH, HEADS, HIDDEN, VOCABULARY, LENGTH, CLASSES = 8, 2, 16, 12, 5, 3
SIZE = WIDTH // HEADS


class LeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 3, 5, padding=2), nn.Conv2d(3, 4, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(16, 10), nn.Linear(10, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.avg_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2).flatten(1)
        return self.fc3(functional.relu(self.fc2(functional.relu(self.fc1(x)))))


class Block(nn.Module):
    """Two convolutions beside a skip connection."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.short = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if stride > 1 else None
        self.bn3 = nn.BatchNorm2d(outputs) if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.short is None or self.bn3 is None else self.bn3(self.short(x))
        return functional.relu(self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x))))) + skip)


class ResNet(nn.Module):
    """ResNet-18: four stages of two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 2, 7, 2, 3, bias=False), nn.BatchNorm2d(2)
        sizes = [(2, 2, 1), (2, 2, 1), (2, 3, 2), (3, 3, 1), (3, 4, 2), (4, 4, 1), (4, 5, 2), (5, 5, 1)]
        self.blocks = nn.ModuleList(Block(*size) for size in sizes)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.bn(self.conv(x))), 3, 2, 1)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (HEADS, SIZE)).transpose(1, 2) for part in (self.query, self.key, self.value))
        scores = q @ k.transpose(-1, -2) / math.sqrt(SIZE)
        scores = scores if mask is None else scores + mask
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """A block of a transformer that normalises what goes into each half, or what comes out of it."""

    def __init__(self, *, before: bool, epsilon: float) -> None:
        super().__init__()
        self.before = before
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, epsilon), nn.LayerNorm(WIDTH, epsilon)
        self.attention = Attention()
        self.up, self.down = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.before:
            x = x + self.attention(self.norm1(x), mask)
            return x + self.down(functional.gelu(self.up(self.norm2(x))))
        x = self.norm1(x + self.attention(x, mask))
        return self.norm2(x + self.down(functional.gelu(self.up(x))))


class ViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, 4)
        self.cls, self.places = nn.Parameter(torch.zeros(1, 1, WIDTH)), nn.Parameter(torch.zeros(1, 5, WIDTH))
        self.layers = nn.ModuleList([Layer(before=True, epsilon=1e-6), Layer(before=True, epsilon=1e-6)])
        self.norm, self.head = nn.LayerNorm(WIDTH, 1e-6), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.places
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x)[:, 0])


class Bert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(8, WIDTH)
        self.types, self.norm = nn.Embedding(2, WIDTH), nn.LayerNorm(WIDTH, 1e-12)
        self.layers = nn.ModuleList([Layer(before=False, epsilon=1e-12), Layer(before=False, epsilon=1e-12)])
        self.pooler, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, ids: Tensor, mask: Tensor, types: Tensor) -> Tensor:
        places = self.places(torch.arange(ids.shape[1]))
        x = self.norm(self.words(ids) + self.types(types) + places)
        hidden = (1.0 - mask[:, None, None].to(x.dtype)) * -10000.0
        for layer in self.layers:
            x = layer(x, hidden)
        return self.head(torch.tanh(self.pooler(x[:, 0])))


def rotation() -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine of every position's angles, each for both halves of a head."""
    angles = np.arange(LENGTH)[:, None] * 10.0 ** -np.arange(SIZE // 2)
    wide = np.concatenate([angles, angles], -1)
    return np.cos(wide).astype(np.float32), np.sin(wide).astype(np.float32)


def _rotated(x: Tensor) -> Tensor:
    cosine, sine = map(torch.tensor, rotation())
    one, other = x.chunk(2, -1)
    return x * cosine + torch.cat([-other, one], -1) * sine


class Grouped(nn.Module):
    """Causal attention with rotated positions; two heads of queries share a key and a value."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.out = nn.Linear(WIDTH, 2 * WIDTH, bias=False), nn.Linear(2 * WIDTH, WIDTH, bias=False)
        self.key, self.value = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (-1, SIZE)).transpose(1, 2) for part in (self.query, self.key, self.value))
        k, v = (part.repeat_interleave(2, 1) for part in (_rotated(k), v))
        scores = _rotated(q) @ k.transpose(-1, -2) / math.sqrt(SIZE)
        later = torch.ones(LENGTH, LENGTH).triu(1).bool()
        return self.out((scores.masked_fill(later, -math.inf).softmax(-1) @ v).transpose(1, 2).flatten(2))


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(WIDTH, 1e-6), nn.RMSNorm(WIDTH, 1e-6)
        self.attention = Grouped()
        self.gate, self.up = nn.Linear(WIDTH, HIDDEN, bias=False), nn.Linear(WIDTH, HIDDEN, bias=False)
        self.down = nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        hidden = self.norm2(x)
        return x + self.down(functional.silu(self.gate(hidden)) * self.up(hidden))


class Llama(nn.Module):
    """The logits that follow the last token."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.layers = nn.Embedding(VOCABULARY, WIDTH), nn.ModuleList([Decoder(), Decoder()])
        self.norm, self.head = nn.RMSNorm(WIDTH, 1e-6), nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x)[:, -1])


class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)[0].mean(1))


def drawn(module: nn.Module) -> nn.Module:
    """A module with weights of which none computes nothing."""
    generator = np.random.default_rng(7)
    for name, array in (*module.named_parameters(), *module.named_buffers()):
        if not array.is_floating_point():
            continue
        scale = name.split(".")[-2].startswith(("norm", "bn")) if "." in name else False
        positive = (scale and name.endswith("weight")) or name.endswith("running_var")
        spread = (2 / array[0].numel()) ** 0.5 if array.ndim > 1 else 0.1
        numbers = generator.uniform(0.5, 1.5, array.shape) if positive else generator.normal(0, spread, array.shape)
        array.data.copy_(torch.tensor(numbers))
    return module.eval()
